"""Training learns, resumes to the same losses after SIGKILL, and weights its granularities as asked."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.training.loop import make_optimizer
from lts_ray.training.ray_trainer import run_training
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import RunSettings, TrainingSettings, load_run_settings
from lts_ray.training.snapshot import load_snapshot, snapshots
from lts_ray.training.text_run import prepare_text, start_run, train_text
from tests.conftest import make_model
from tests.forked import forked
from tests.training.runs import losses, run_to, tiny_settings


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(settings: RunSettings, folder: Path) -> list[tuple[int, object]]:
    prepare_text(settings, RunFolder(folder))
    train_text(settings, RunFolder(folder))
    return losses(folder)


def test_a_run_learns_and_leaves_a_checkpoint_with_its_losses(texts: Path, tmp_path: Path) -> None:
    settings = tiny_settings(texts, steps=30)
    records = run(settings, tmp_path / "run")
    first, last = records[0][1], records[-1][1]
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert all(last[name] < first[name] - 0.3 for name in ("S", "M", "L", "XL"))
    assert load_checkpoint(tmp_path / "run" / "model").validation_loss == last


def test_a_run_killed_at_any_moment_goes_on_to_the_same_losses(texts: Path, tmp_path: Path) -> None:
    """SIGKILL, twice, at steps that are not snapshots; then the run ends as one that was never stopped."""
    settings = tiny_settings(texts)
    expected = run(settings, tmp_path / "whole")
    folder = tmp_path / "killed"
    for kill_after in (2, 8):
        process = forked(run_to, kill_after, texts, folder)
        while process.is_alive() and not any(step >= kill_after for step, _ in losses(folder)):
            time.sleep(0.02)
        process.kill()
        process.join()
        assert max(step for step, _ in losses(folder)) < settings.training.steps
    assert run(settings, folder) == expected
    a, b = (load_checkpoint(tmp_path / name / "model").fingerprint for name in ("whole", "killed"))
    assert a == b


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = TrainingSettings(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [settings.learning_rate_at(step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[110] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_only_the_newest_snapshots_are_kept_and_a_damaged_one_is_named(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(tiny_settings(texts), folder)
    kept = snapshots(folder / "snapshots")
    assert [path.name for path in kept] == ["step-00000009", "step-00000012"]
    (kept[-1] / "state.safetensors").write_bytes(b"short")
    model = make_model()
    with pytest.raises(LtsRayError, match="step-00000012 is unusable"):
        load_snapshot(kept[-1], model, make_optimizer(model, TrainingSettings()))


def test_a_run_starts_from_a_checkpoint(texts: Path, model_dir: Path, tmp_path: Path) -> None:
    base = tiny_settings(texts, steps=1)
    training = replace(base.training, learning_rate=1e-9, evaluation_blocks=10_000)
    settings = replace(base, init_from=str(model_dir), training=training)
    records = run(settings, tmp_path / "run")
    assert records[0][1] == pytest.approx(records[-1][1], abs=1e-4)
    before, after = load_checkpoint(model_dir).model, load_checkpoint(tmp_path / "run" / "model").model
    torch.testing.assert_close(before.norm.weight, after.norm.weight, atol=1e-6, rtol=0)


def test_a_folder_with_a_run_is_not_overwritten(texts: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    start_run(tiny_settings(texts), folder)
    with pytest.raises(LtsRayError, match="add --resume"):
        start_run(tiny_settings(texts), folder)


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_on_a_folder_is_told_of_the_first(texts: Path, tmp_path: Path, resume: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    start_run(tiny_settings(texts), folder)
    with folder.only_driver(), pytest.raises(LtsRayError, match=r"another run is writing to .* stop it"):
        run_training(tiny_settings(texts), folder.path, resume=resume)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {stepz: 5}", "training has unknown keys stepz; known: batch_size, "),
        ("trainin: {}", "the configuration has unknown keys trainin"),
        ("training: 5", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("training: {steps: 0}", "training.steps must be at least 1; got 0"),
        ("training: {learning_rate: fast}", "training.learning_rate must be a number; got 'fast'"),
        ("training: {learning_rate: 0}", "training.learning_rate must be above 0; got 0"),
        ("training: {batch_size: 3, workers: 2}", "does not divide among 2 workers"),
        ("training: {weights: {XXL: 1}}", "unknown granularities"),
        ("training: {precision: int8}", "training.precision must be one of"),
        ("training: {device: tpu}", "training.device must be one of auto, cpu, cuda; got 'tpu'"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(LtsRayError, match=message) as caught:
        load_run_settings(path)
    assert "\n" not in str(caught.value)


def test_settings_survive_json(texts: Path) -> None:
    settings = tiny_settings(texts)
    assert RunSettings.from_json(settings.to_json()) == settings


def test_the_shipped_configuration_is_valid() -> None:
    assert load_run_settings(Path("configs/sotu.yaml")).training.save_dtype == "float16"


def test_metrics_have_one_record_a_step(texts: Path, tmp_path: Path) -> None:
    run(tiny_settings(texts), tmp_path / "run")
    steps = [each["step"] for each in read_json_lines(tmp_path / "run" / "metrics.jsonl", what="m") if "loss" in each]
    assert steps == list(range(1, 13))
