"""The least memory that a run takes: its weights, what the optimizer keeps of them, and what a pass keeps to go back.

What is counted here is held at one time by every run; one that is refused could not have taken a step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lts_ray.memory import check_memory
from lts_ray.models.backbones.backbone_checkpoint import is_backbone, read_backbone_config
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.models.matformer.hugging_face.checkpoint import read_config
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.training.learners.head_loss import chunk_tokens
from lts_ray.training.learners.universal_learner import PASS_TOKENS
from lts_ray.training.run_settings import RunSettings, TrainingSettings

FEWEST_TOKENS = 257
"""Of a vocabulary that is not trained yet, which may be smaller than was asked for."""
ROOM = 0.8
"""Of the memory that is free for passes, what they are planned with: blocks of it lie between others."""
KEPT = 4
"""Tensors as wide as d_model that the way back needs of a layer: what its two norms took, and what they gave."""


def check_run_memory(settings: RunSettings, *, vocab_size: int = FEWEST_TOKENS, workers: int = 1) -> None:
    """Raises LtsRayError where a run cannot fit. vocab_size: at least. workers: those that share this memory."""
    options = settings.training
    config = _config(settings, vocab_size)
    if settings.init_from is not None:
        table = smaller = "start from a smaller checkpoint (init_from)"
    elif settings.architecture is not None:
        table = smaller = "lower d_model, d_inner or n_layer of the architecture"
    else:
        smaller = "lower model.d_model, model.n_layer or model.d_ff"
        table = "lower model.d_model, model.vocab_size or model.context_length"
    rows, length = options.batch_size // options.workers, options.sequence_length
    if isinstance(config, MatFormerConfig):
        if device_bytes(options) is not None:  # as UniversalLearner parts its batches, where it must
            rows = 1
        elif options.passes == "mixed" and config.nests_ffn_alone:
            rows = min(rows, max(1, PASS_TOKENS // length))
        held = {smaller: (config.decoder_params(), 0), table: (config.embedding_params, _rotary_bytes(config))}
        wide = config.d_model * config.n_layer
    else:
        parameters = sum(parameter.numel() for parameter in config.skeleton().parameters())
        held = {smaller: (parameters, 0)}
        run = [config]  # of a supernet, a member at a time
        if isinstance(settings.architecture, SupernetConfig):
            run = list(settings.architecture.configs.values())
        wide = max(each.architecture.d_model * each.architecture.n_layer for each in run)
    parts: dict[str, int] = {}
    for advice, (parameters, others) in held.items():
        parts[advice] = parts.get(advice, 0) + workers * (learning_bytes(parameters, options) + others)
    chunk = chunk_tokens("cpu" if device_bytes(options) is None else "cuda", config.vocab_size)
    logits = min(chunk, rows * length) * config.vocab_size * 4
    kept = kept_bytes(rows * length, wide, options)
    parts["lower training.batch_size or training.sequence_length"] = workers * (kept + logits)
    check_memory(parts, what=_what(options, workers), there=device_bytes(options))


def sequences_a_pass(
    options: TrainingSettings, config: MatFormerConfig, free: int | None, *, parameters: int | None = None
) -> int | None:
    """On a GPU of so many free bytes: as many as fit, but parts of the batch that are alike, so that all passes are.

    None for None: on a CPU a pass is as large as its caches like. parameters: of all that learns there; None: of this
    model.
    """
    if free is None:
        return None
    rows, objective = options.batch_size // options.workers, options.objective_of(config.granularities)
    mixed = options.passes == "mixed" and options.objective == "joint" and config.nests_ffn_alone
    run = [config.trained[name] for name in objective.weights] if mixed else [config.universal]
    around, within = (18, 6) if options.compile else (40, 8)  # bytes by d_model and by neuron, of a token and layer
    precise = 2 if options.precision == "float32" else 1
    layers = sum(around * config.d_model * (config.n_layer + 1) + within * sum(each.widths) for each in run)
    one = options.sequence_length * precise * layers
    matrices = 2 if options.teacher is None else 6  # as large as a chunk's logits, at one time
    chunk = min(chunk_tokens("cuda", config.vocab_size), rows * options.sequence_length)
    learns = learning_bytes(parameters or config.parameters(config.universal), options)
    if options.train == "ffn":  # gradients and two moments of these
        learns += 12 * (3 if config.family.gated else 2) * config.d_model * sum(config.widths)
    if precise == 1:  # the matrices as they were multiplied by
        learns += 2 * sum(config.decoder_params(each) for each in run)
    room = (free - learns) * ROOM - matrices * 4 * config.vocab_size * chunk
    return next(each for each in range(rows, 0, -1) if rows % each == 0 and (each == 1 or each * one <= room))


def check_here(settings: RunSettings) -> None:
    """`check_run_memory` for all workers on this machine; where they train on GPUs, each has one of its own."""
    check_run_memory(settings, workers=settings.training.workers if settings.training.device == "cpu" else 1)


def learning_bytes(parameters: int, options: TrainingSettings) -> int:
    """float32 weights; where all learn, their gradients and two moments, too."""
    return parameters * (16 if options.train == "all" else 4)


def kept_bytes(tokens: int, wide: int, options: TrainingSettings) -> int:
    """Of a pass. wide: d_model times layers."""
    tensors = KEPT if options.train == "all" else 1
    return tokens * tensors * wide * (4 if options.precision == "float32" else 2)


def device_bytes(options: TrainingSettings) -> int | None:
    """Of the GPU that is trained on; None: this machine's memory counts."""
    if options.device == "cpu" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def _what(options: TrainingSettings, workers: int) -> str:
    rows = f"batches of {options.batch_size:,} x {options.sequence_length:,} tokens"
    return f"training on {rows}" + (f" in {workers:,} workers" if workers > 1 else "")


def _config(settings: RunSettings, vocab_size: int) -> MatFormerConfig | BackboneConfig:
    if settings.init_from is not None:
        folder = Path(settings.init_from)
        return read_backbone_config(folder)[0] if is_backbone(folder) else read_config(folder)[0]
    if settings.architecture is None:
        return settings.model.config(vocab_size)
    config = settings.architecture.fused if isinstance(settings.architecture, SupernetConfig) else settings.architecture
    return replace(config, vocab_size=vocab_size)


def _rotary_bytes(config: MatFormerConfig) -> int:
    """A cosine and a sine for each position and dimension of a head."""
    return 8 * config.context_length * config.d_head if config.family.positions == "rotary" else 0
