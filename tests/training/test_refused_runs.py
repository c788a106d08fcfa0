"""What is refused before anything was done leaves nothing behind: the corrected command runs in the same folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lts_ray.elasticize.elastic_run import elasticize
from lts_ray.elasticize.elasticize_settings import ElasticizeSettings
from lts_ray.errors import LtsRayError, StoppedError
from lts_ray.files import append_json_line
from lts_ray.lock import nothing_left
from lts_ray.search.on_ray import search_run
from lts_ray.search.search_log import LOG
from lts_ray.training import ray_trainer
from lts_ray.training.ray_trainer import run_training
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings
from lts_ray.training.text_run import train_text
from lts_ray.vision.vision_run import train_vit
from lts_ray.vision.vision_settings import VisionSettings
from tests.training.runs import tiny_settings


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused here is refused before Ray is needed; what is not, runs in this process."""
    torch.set_num_threads(1)
    monkeypatch.setattr(ray_trainer, "connected", lambda _: nullcontext())
    monkeypatch.setattr(ray_trainer, "_fit", lambda settings, folder, *_: train_text(settings, folder))


def training(base: RunSettings, **options: Any) -> RunSettings:
    return replace(base, training=replace(base.training, **options))


def elastic(model: Path, texts: Path, **options: Any) -> ElasticizeSettings:
    run = {"steps": 1, "batch_size": 2, "sequence_length": 16, "threads": 1, **options}
    return ElasticizeSettings.from_json(
        {"source": str(model), "data": {"corpus": str(texts / "*.txt")}, "training": run, "by_importance": False}
    )


def refusals(texts: Path, model: Path, folder: Path) -> dict[str, tuple[str, Callable[[], object]]]:
    base = tiny_settings(texts, steps=1)
    vit = VisionSettings()
    vit = replace(vit, training=replace(vit.training, steps=1, threads=1))
    longer, large = training(base, sequence_length=65), elastic(model, texts, batch_size=4096)
    (texts / "short.md").write_text("law and war")

    def fresh(**changes: Any) -> Callable[[], object]:
        return lambda: run_training(replace(base, **changes), folder)

    return {
        "a batch that is too large": ("too few", lambda: run_training(training(base, batch_size=4096), folder)),
        "a sequence that is too long": ("longer than", lambda: run_training(longer, folder)),
        "a text that is too short": ("text|short", fresh(data=DataSettings(corpus=str(texts / "*.md")))),
        "no text": ("no corpus and no file", fresh(data=DataSettings(corpus=str(texts / "*.rst")))),
        "a vocabulary that is too small": ("at least 257", fresh(model=replace(base.model, vocab_size=100))),
        "no such checkpoint": ("is not a folder", fresh(model=ModelSettings(), init_from=str(texts / "none"))),
        "elasticize: too large a batch": ("too few", lambda: elasticize(large, folder)),
        "elasticize: no such model": ("is not a folder", lambda: elasticize(elastic(texts / "none", texts), folder)),
        "vit: no such images": (
            "none", lambda: train_vit(replace(vit, images=replace(vit.images, source=str(texts / "none"))), folder),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("existed", [True, False], ids=["into an empty folder", "into none"])
def test_a_refused_run_leaves_nothing_behind(existed: bool, texts: Path, model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    if existed:
        folder.mkdir(parents=True)
    for name, (message, refused) in refusals(texts, model_dir, folder).items():
        with pytest.raises(LtsRayError, match=message):
            refused()
        left = sorted(folder.rglob("*")) if folder.exists() else []
        assert not left, name
        assert folder.exists() == existed, name
    run_training(tiny_settings(texts, steps=1), folder)
    assert RunFolder(folder).is_finished


def test_a_run_that_has_begun_to_learn_stays(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(LtsRayError, match="training went wrong"):
        run_training(training(tiny_settings(texts), learning_rate=1e30, warmup_steps=0, gradient_clip=1e30), folder)
    assert RunFolder(folder).settings.exists()


@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
def test_what_can_be_gone_on_with_stays(error: type[BaseException], tmp_path: Path) -> None:
    def stopped() -> None:
        with nothing_left(tmp_path, began=lambda: False):
            (tmp_path / "settings.json").touch()
            raise error("stopped")

    with pytest.raises(error):
        stopped()
    assert (tmp_path / "settings.json").exists()


def test_a_refused_search_leaves_no_log_and_a_begun_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        is_finished = False

        def __init__(self, plan: object, folder: Path, *, resume: bool) -> None:
            append_json_line(folder / LOG, {"kind": "search"})

    def refuse(*_: object) -> None:
        raise LtsRayError("no node has the labels of target 'gpu'")

    def fail_later(*_: object) -> None:
        append_json_line(tmp_path / "two" / LOG, {"kind": "evaluation"})
        raise LtsRayError("every evaluation failed")

    monkeypatch.setattr(search_run, "SearchSession", Session)
    monkeypatch.setattr(search_run, "search_progress", lambda *_, **__: nullcontext())
    monkeypatch.setattr(search_run, "connected", lambda _: nullcontext())
    job: Any = type("Job", (), {"plan": None})
    monkeypatch.setattr(search_run, "_search", refuse)
    with pytest.raises(LtsRayError, match="no node"):
        search_run.run_search(job, tmp_path / "one")
    assert not (tmp_path / "one").exists()
    monkeypatch.setattr(search_run, "_search", fail_later)
    with pytest.raises(LtsRayError, match="every evaluation failed"):
        search_run.run_search(job, tmp_path / "two")
    assert (tmp_path / "two" / LOG).exists()


def test_a_single_file_trains(texts: Path, tmp_path: Path) -> None:
    base = tiny_settings(texts, steps=1)
    settings = replace(base, data=DataSettings(corpus=str(texts / "0.txt"), validation_fraction=0.2))
    run_training(training(settings, sequence_length=16), tmp_path / "run")
    assert RunFolder(tmp_path / "run").is_finished
