"""Where torch computes is chosen by one helper, and every verb refuses a GPU that is not there in the same line.

No test needs a GPU: on `meta` a tensor has a device and no value, so that a mixture of devices, or a value that is
read, is an error there as it would be, or would cost, on a GPU.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lts_ray.cli.main import app
from lts_ray.device import CPU, free_bytes
from lts_ray.elasticize.importance import reorder_by_importance
from lts_ray.evaluation.consistency import Predictor, batch_sums
from lts_ray.evaluation.validation_loss import summed_loss
from lts_ray.models.elastic_config import GRANULARITIES
from lts_ray.quantisation.calibrated_rounding import round_calibrated
from lts_ray.training.learners.learner import Batch, Learner
from lts_ray.training.learners.teacher import Teacher
from lts_ray.training.learners.universal_learner import Passes, UniversalLearner
from lts_ray.training.loop import average, propagate
from lts_ray.training.run_settings import TrainingSettings
from lts_ray.vision.vit_learner import ViTLearner
from tests.conftest import make_model
from tests.vision.make import make_images, make_vit

META = torch.empty(5, 11, dtype=torch.int64, device="meta")
"""Blocks of tokens."""


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate"],
        ["generate", "--prompt", "The"],
        ["quantise", "--model", "nowhere"],
        ["proxies", "--space", "gpt2", "--input", "nowhere"],
        ["vit", "evaluate", "--model", "nowhere"],
        ["vit", "retrieve", "--model", "nowhere"],
        ["vit", "train", "--output", "run"],
        ["train", "--output", "run"],
        ["elasticize", "--model", "nowhere", "--output", "run"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_gpu_that_is_not_there_is_one_line(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, [*words, "--device", "cuda"])
    what = "training.device" if "--output" in words else "--device"
    assert str(result.exception) == f"{what} is cuda, but torch finds no CUDA GPU on this machine: give cpu or auto"
    assert not list(tmp_path.iterdir())


def test_a_gpu_can_give_what_is_free_and_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (50, 100))
    for name, value in (("reserved", 30), ("allocated", 20)):
        monkeypatch.setattr(torch.cuda, f"memory_{name}", lambda held=value: held)
    for share, free in ((1.0, 60), (0.5, 30)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda share=share: share)
        assert free_bytes(torch.device("cuda")) == free
    assert free_bytes(CPU) is None


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know that device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


def learns_on_meta(learner: Learner[Batch], batch: Batch) -> None:
    losses = propagate(learner, batch, 0, "float32")
    average([*losses.values()])
    torch.nn.utils.clip_grad_norm_(learner.model.parameters(), 1.0)
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    assert all(each.grad is not None for each in learner.model.parameters())


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_a_step_stays_on_its_device_and_reads_no_value(passes: Passes, teacher: bool) -> None:
    model, options = make_model().train().to("meta"), TrainingSettings(passes=passes)
    objective = options.objective_of(model.config.granularities)
    taught_by = Teacher(make_model().to("meta").requires_grad_(False), 0.5) if teacher else None
    learns_on_meta(UniversalLearner(model=model, objective=objective, passes=passes, teacher=taught_by), META)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_a_step_on_images_stays_on_its_device_and_reads_no_value(passes: Passes) -> None:
    model, objective = make_vit().to("meta"), TrainingSettings().objective_of(GRANULARITIES)
    learns_on_meta(ViTLearner(model=model, objective=objective, passes=passes), make_images(4).to("meta"))


def test_a_batch_is_evaluated_on_its_device_and_no_value_is_read() -> None:
    model = make_model().to("meta")
    predictors = [Predictor(model, submodel) for submodel in model.config.trained.values()]
    sums = batch_sums(predictors, META)
    assert (sums.device.type, tuple(sums.shape)) == ("meta", (4, 3))
    assert summed_loss(model, META, model.config.universal).device.type == "meta"


def test_neurons_are_sorted_and_matrices_rounded_on_the_models_device() -> None:
    model = make_model(n_layer=1, width=16).to("meta")
    reorder_by_importance(model, META)
    rounded = round_calibrated(model.layers[0].mlp.up_proj.weight, META.new_empty(32, 32, dtype=torch.float32))
    assert rounded.codes.device.type == rounded.scales.device.type == "meta"
