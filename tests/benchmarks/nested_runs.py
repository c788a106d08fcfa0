"""A scale so small that a whole bench takes seconds; and some of its trainings, for a test to kill."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

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


def train_two_and_a_half(texts: Path, output: Path) -> None:
    """Trainings of four steps; in the middle of the third it stands still until a test kills it."""
    fast, calls = loop.optimize, count()

    def stopping(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        while next(calls) >= 10:
            time.sleep(1)
        return fast(*args, **kwargs)

    loop.optimize = stopping
    train_scale(tiny_scale(texts), output)
