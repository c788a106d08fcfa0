"""Ray Train runs the loop: two workers learn what one does, and a bad run ends in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.training.ray_trainer import run_training
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.text_run import prepare_text, train_text
from tests.training.runs import losses, tiny_settings


def test_two_workers_reach_the_losses_of_one_and_a_finished_run_is_not_done_again(
    cluster: str, texts: Path, tmp_path: Path
) -> None:
    """Each worker takes half of every batch, and gradients are averaged: the same steps up to rounding."""
    alone, output = RunFolder(tmp_path / "alone"), tmp_path / "two"
    settings = tiny_settings(texts, steps=4)
    prepare_text(settings, alone)
    train_text(settings, alone)
    model = run_training(tiny_settings(texts, steps=4, workers=2), output, address=cluster)
    before = losses(output)
    assert load_checkpoint(model).validation_loss == before[-1][1]
    assert [step for step, _ in losses(alone.path)] == [step for step, _ in before]
    for (_, one), (_, two) in zip(losses(alone.path), before, strict=True):
        assert one == pytest.approx(two, abs=1e-3)
    run_training(tiny_settings(texts), output, resume=True, address=cluster)
    assert losses(output) == before


def test_an_error_in_a_worker_reaches_the_user_as_its_own_line(cluster: str, texts: Path, tmp_path: Path) -> None:
    settings = tiny_settings(texts)
    high = replace(settings.training, learning_rate=1e30, warmup_steps=0, gradient_clip=1e30)
    with pytest.raises(LtsRayError, match=r"training went wrong: after step \d+ the loss is"):
        run_training(replace(settings, training=high), tmp_path / "run", address=cluster)
