"""A plain transformers checkpoint, such as OPT's, under the same tasks: lm_eval's own model of it."""

from __future__ import annotations

from pathlib import Path

from lm_eval.api.model import LM

from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness.model_arguments import BATCH_SIZE


def load_plain_checkpoint(folder: Path, *, batch_size: int = BATCH_SIZE) -> LM:
    """In float32 on the CPU. Raises LtsRayError for a folder that transformers cannot load.

    Without lm_eval's logits_cache: where equal texts end in continuations of two lengths, 0.4.13 gives the shorter one
    the log-probability of another place.
    """
    if not folder.is_dir():
        raise LtsRayError(f"--beside {folder} is not a folder; give a checkpoint that transformers loads")
    from lm_eval.models.huggingface import HFLM

    try:
        return HFLM(
            pretrained=str(folder.resolve()), device="cpu", dtype="float32", batch_size=batch_size, logits_cache=False
        )
    except Exception as error:  # transformers raises what its many parts raise
        reason = str(error).strip().split("\n")[0]
        raise LtsRayError(f"transformers cannot load --beside {folder}: {reason}") from None
