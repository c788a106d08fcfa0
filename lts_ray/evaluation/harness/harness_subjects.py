"""What is put to the tasks: submodels, which share one universal model, and a checkpoint beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval.api.model import LM

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.checkpoints.universal import load_universal
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness.harness_model import HarnessModel
from lts_ray.evaluation.harness.model_arguments import BATCH_SIZE
from lts_ray.evaluation.named_submodels import frontier_points, submodels_of
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class HarnessSubjects:
    config: DecoderConfig
    submodels: Mapping[str, Submodel]
    models: Mapping[str, LM]
    """The submodels by name, and the checkpoint beside them."""


def load_subjects(
    model_dir: Path,
    names: Sequence[str] | None,
    *,
    frontier: Path | None = None,
    beside: Path | None = None,
    device: str = "cpu",
) -> HarnessSubjects:
    """names: of submodels; None: the granularities, and the frontier's points where there is one.

    Raises LtsRayError for an unusable model, submodel, frontier or checkpoint beside them.
    """
    checkpoint = load_universal(model_dir, device=device)
    config = checkpoint.model.config
    points = frontier_points(frontier, checkpoint.fingerprint, config)
    submodels = submodels_of(config, names, points)
    tokenizer = load_model_tokenizer(model_dir, vocab_size=config.vocab_size)
    models: dict[str, LM] = {}
    for label, submodel in submodels.items():
        model, plain = checkpoint.run_by(submodel)
        models[label] = HarnessModel(model, tokenizer, plain)
    if beside is not None:
        label = beside.resolve().name
        models[f"{label} (beside)" if label in models else label] = _plain_checkpoint(beside, device)
    return HarnessSubjects(config=config, submodels=submodels, models=models)


def _plain_checkpoint(folder: Path, device: str) -> LM:
    """Such as OPT's: lm_eval's own model of it, in float32.

    Without lm_eval's logits_cache: where equal texts end in continuations of two lengths, 0.4.13 gives the shorter one
    the log-probability of another place.
    """
    if not folder.is_dir():
        raise LtsRayError(f"--beside {folder} is not a folder; give a checkpoint that transformers loads")
    from lm_eval.models.huggingface import HFLM

    try:
        return HFLM(
            pretrained=str(folder.resolve()), device=device, dtype="float32", batch_size=BATCH_SIZE, logits_cache=False
        )
    except Exception as error:  # transformers raises what its many parts raise
        reason = str(error).strip().split("\n")[0]
        raise LtsRayError(f"transformers cannot load --beside {folder}: {reason}") from None
