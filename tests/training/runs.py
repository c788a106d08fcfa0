"""Tiny training runs for the tests here and in tests/cluster; one that a test kills."""

from __future__ import annotations

from pathlib import Path

import torch

from lts_ray.files import read_json_lines
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings
from tests.forked import stand_still_at


def tiny_settings(texts: Path, *, steps: int = 12, workers: int = 1) -> RunSettings:
    return RunSettings(
        model=ModelSettings(vocab_size=300, d_model=32, n_layer=2, d_ff=64, context_length=64),
        data=DataSettings(corpus=str(texts / "*.txt"), validation_fraction=0.2),
        training=TrainingSettings(
            steps=steps,
            batch_size=4,
            sequence_length=32,
            warmup_steps=2,
            log_every=1,
            evaluate_every=4,
            checkpoint_every=3,
            evaluation_blocks=4,
            precision="float32",
            workers=workers,
            threads=1,
        ),
    )


def losses(folder: Path) -> list[tuple[int, object]]:
    """Everything that a run measured, without its speed."""
    records = read_json_lines(RunFolder(folder).metrics, what="metrics")
    return [(each["step"], each.get("loss") or each["validation_loss"]) for each in records]


def run_to(step: int, texts: Path, output: Path) -> None:
    """Run so many steps, then stand still until a test kills it."""
    from lts_ray.training.text_run import prepare_text, train_text

    torch.set_num_threads(1)
    settings = tiny_settings(texts)
    folder = RunFolder(output)
    prepare_text(settings, folder)
    stand_still_at(step)
    train_text(settings, folder)
