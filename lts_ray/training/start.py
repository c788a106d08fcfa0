"""Which learner a run has, and its state at step 0: of a checkpoint, or fresh from the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.backbone_checkpoint import is_backbone, read_backbone_config
from lts_ray.models.checkpoint import load_checkpoint, read_config
from lts_ray.models.matformer import MatFormer
from lts_ray.training.backbone_learner import BackboneLearner
from lts_ray.training.learner import Learner
from lts_ray.training.settings import RunSettings
from lts_ray.training.universal_learner import UniversalLearner


def start_learner(settings: RunSettings, *, vocab_size: int) -> Learner:
    """The same in every worker. vocab_size: the tokenizer's, which may have found fewer tokens than were asked for.

    Raises LtsRayError.
    """
    learner = _fresh(settings, vocab_size) if settings.init_from is None else _read(settings, Path(settings.init_from))
    if settings.training.sequence_length > learner.context_length:
        raise LtsRayError(
            f"training.sequence_length {settings.training.sequence_length} is longer than the model's context, "
            f"{learner.context_length}"
        )
    return learner


def check_start(settings: RunSettings) -> None:
    """Raises LtsRayError for a checkpoint or an architecture from which no run can start; reads no weights."""
    if settings.init_from is not None:
        folder = Path(settings.init_from)
        if is_backbone(folder):
            read_backbone_config(folder)
        else:
            read_config(folder)
    if settings.architecture is not None:
        settings.architecture.skeleton()


def _fresh(settings: RunSettings, vocab_size: int) -> Learner:
    generator = torch.Generator().manual_seed(settings.training.seed)
    if settings.architecture is not None:
        return BackboneLearner.fresh(replace(settings.architecture, vocab_size=vocab_size), generator)
    model = MatFormer(settings.model.config(vocab_size))
    model.initialize(generator)
    return UniversalLearner(model, settings.training.weights)


def _read(settings: RunSettings, folder: Path) -> Learner:
    if is_backbone(folder):
        return BackboneLearner.read(folder)
    return UniversalLearner(load_checkpoint(folder).model.train(), settings.training.weights)
