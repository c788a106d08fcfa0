"""What is put to the tasks: submodels, which share one universal model, and a checkpoint beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval.api.model import LM

from lts_ray.checkpoints.universal import load_universal
from lts_ray.evaluation.harness.harness_model import HarnessModel
from lts_ray.evaluation.harness.plain_checkpoint import load_plain_checkpoint
from lts_ray.evaluation.named_submodels import frontier_points, submodels_of
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel
from lts_ray.text.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class HarnessSubjects:
    config: DecoderConfig
    submodels: Mapping[str, Submodel]
    models: Mapping[str, LM]
    """The submodels by name, and the checkpoint beside them."""


def load_subjects(
    model_dir: Path, names: Sequence[str] | None, *, frontier: Path | None = None, beside: Path | None = None
) -> HarnessSubjects:
    """names: of submodels; None: the granularities, and the frontier's points where there is one.

    Raises LtsRayError for an unusable model, submodel, frontier or checkpoint beside them.
    """
    checkpoint = load_universal(model_dir)
    model, config = checkpoint.model, checkpoint.model.config
    points = frontier_points(frontier, checkpoint.fingerprint, config)
    submodels = submodels_of(config, names, points)
    tokenizer = load_tokenizer(model_dir)
    models: dict[str, LM] = {name: HarnessModel(model, tokenizer, submodel) for name, submodel in submodels.items()}
    if beside is not None:
        label = beside.resolve().name
        models[f"{label} (beside)" if label in models else label] = load_plain_checkpoint(beside)
    return HarnessSubjects(config=config, submodels=submodels, models=models)
