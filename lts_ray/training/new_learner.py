"""Which learner a run has, and its state at step 0: of a checkpoint, or fresh from the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.device import free_bytes
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_checkpoint import is_backbone, read_backbone_config
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, read_config
from lts_ray.models.matformer.independent import IndependentModel
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.seeds import seeded_generator
from lts_ray.training.learners.backbone_learner import BackboneLearner
from lts_ray.training.learners.independent_learner import IndependentLearner
from lts_ray.training.learners.learner import TextLearner, freeze
from lts_ray.training.learners.supernet_learner import SupernetLearner
from lts_ray.training.learners.teacher import Teacher, check_teacher
from lts_ray.training.learners.universal_learner import UniversalLearner
from lts_ray.training.run_memory import check_run_memory, sequences_a_pass
from lts_ray.training.run_settings import RunSettings, TrainingSettings


def new_learner(settings: RunSettings, *, vocab_size: int, eos_id: int = 0, device: torch.device) -> TextLearner:
    """The same in every worker. vocab_size: the tokenizer's, which may have found fewer tokens than were asked for.

    eos_id: the tokenizer's, which a fresh model's files name; a trained tokenizer has it at 0.

    Fresh weights are drawn on the CPU: they depend on the seed alone, not on the device. Raises LtsRayError.
    """
    check_run_memory(settings, vocab_size=vocab_size)
    learner = (
        _fresh(settings, vocab_size, eos_id, device)
        if settings.init_from is None
        else _read(settings, Path(settings.init_from), device)
    )
    learner.model.to(device)
    _check_length(settings.training, learner.context_length)
    freeze(learner.model, settings.training.train)
    return learner


def check_start(settings: RunSettings) -> None:
    """Raises LtsRayError for a model, tokenizer or teacher with which no run can start; reads no weights."""
    options, vocab_size = settings.training, None
    if settings.init_from is not None:
        folder = Path(settings.init_from)
        if is_backbone(folder):
            vocab_size = read_backbone_config(folder)[0].vocab_size
            options.check_backbone()
        else:
            config, _ = read_config(folder)
            options.objective_of(config.granularities)
            vocab_size = config.vocab_size
            _check_length(options, config.context_length)
    elif settings.architecture is not None:
        settings.architecture.skeleton()
    else:
        _check_length(options, settings.model.config(settings.model.vocab_size).context_length)
    tokenizer = settings.data.tokenizer or settings.init_from
    if tokenizer is not None:
        load_model_tokenizer(Path(tokenizer), vocab_size=vocab_size)
    if options.teacher is not None:
        check_teacher(Path(options.teacher), vocab_size=vocab_size, sequence_length=options.sequence_length)


def _check_length(options: TrainingSettings, context_length: int) -> None:
    if options.sequence_length > context_length:
        raise LtsRayError(
            f"training.sequence_length {options.sequence_length} is longer than the model's context, {context_length}"
        )


def _fresh(settings: RunSettings, vocab_size: int, eos_id: int, device: torch.device) -> TextLearner:
    generator = seeded_generator(settings.training.seed)
    if isinstance(settings.architecture, SupernetConfig):
        fused = replace(settings.architecture, vocab_size=vocab_size)
        return SupernetLearner.fresh(fused, settings.training.objective_of(fused.members), generator)
    if settings.architecture is not None:
        return BackboneLearner.fresh(replace(settings.architecture, vocab_size=vocab_size), generator)
    config = settings.model.config(vocab_size, eos_id=eos_id)
    if settings.model.independent:
        return IndependentLearner(
            model=IndependentModel.fresh(config, generator),
            objective=settings.training.objective_of(config.granularities),
            teacher=_teacher(settings.training, vocab_size, device),
        )
    return _universal(settings.training, MatFormer.fresh(config, generator), device)


def _read(settings: RunSettings, folder: Path, device: torch.device) -> TextLearner:
    if is_backbone(folder):
        settings.training.check_backbone()
        return BackboneLearner.read(folder)
    return _universal(settings.training, load_checkpoint(folder).model.train(), device)


def _universal(options: TrainingSettings, model: MatFormer, device: torch.device) -> UniversalLearner:
    return UniversalLearner(
        model=model,
        objective=options.objective_of(model.config.granularities),
        passes=options.passes,
        teacher=_teacher(options, model.config.vocab_size, device),
        sequences=sequences_a_pass(options, model.config, free_bytes(device)),
        by_compiler=bool(options.compile),
    )


def _teacher(options: TrainingSettings, vocab_size: int, device: torch.device) -> Teacher | None:
    if options.teacher is None:
        return None
    return Teacher.read(
        Path(options.teacher),
        portion=options.distillation,
        vocab_size=vocab_size,
        sequence_length=options.sequence_length,
        device=device,
    )
