"""A scale so small that a whole bench takes seconds; and its trainings, slow enough for a test to kill."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common.scale import Scale
from benchmarks.nested.nested_scales import SCALES, train_scale
from lts_ray.training import loop


def tiny_scale(texts: Path, *, steps: int = 4, n_layer: int = 2) -> Scale:
    preset = SCALES["small"]
    model = replace(
        preset.model, vocab_size=280, d_model=16, n_layer=n_layer, n_head=2, n_kv_head=1, d_ff=32, context_length=32
    )
    training = replace(
        preset.training,
        steps=steps,
        sequence_length=16,
        warmup_steps=1,
        log_every=1,
        evaluation_blocks=2,
        checkpoint_every=2,
        precision="float32",
        threads=1,
    )
    return replace(preset, model=model, training=training, corpus=str(texts / "*.txt"))


def train_slowly(texts: Path, output: Path) -> None:
    fast = loop.optimize

    def slow(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        time.sleep(0.15)
        return fast(*args, **kwargs)  # type: ignore[arg-type]

    loop.optimize = slow
    train_scale(tiny_scale(texts), output)
