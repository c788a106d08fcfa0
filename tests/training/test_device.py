"""Where a run trains: chosen once, kept for resuming, and refused in one line where it is not there.

No test needs a GPU: those that speak of one only say that it is there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lts_ray.device import CPU, Device
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json
from lts_ray.training import loop
from lts_ray.training.loop import chosen, make_optimizer, when_done
from lts_ray.training.new_learner import new_learner
from lts_ray.training.ray_trainer import run_training, scaling_config, torch_config
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import RunSettings, TrainingSettings
from lts_ray.training.snapshot import load_snapshot, save_snapshot, snapshots
from lts_ray.training.text_run import continue_run, prepare_text, start_run, train_text
from tests.training.runs import losses, tiny_settings

NO_GPU = "training.device is cuda, but torch finds no CUDA GPU on this machine: give cpu or auto"


def gpu(monkeypatch: pytest.MonkeyPatch, *, there: bool, multiplies_bfloat16: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: multiplies_bfloat16)


def on(device: Device, texts: Path) -> RunSettings:
    settings = tiny_settings(texts, steps=2)
    return replace(settings, training=replace(settings.training, device=device))


@pytest.mark.parametrize(
    ("given", "there", "expected"),
    [
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_takes_a_gpu_where_there_is_one(
    given: Device, there: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, there=there)
    options = chosen(TrainingSettings(device=given))
    assert options.device == expected
    assert chosen(options) == options


@pytest.mark.parametrize(("multiplies", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_precision_is_chosen_for_the_gpu_where_it_trains(
    multiplies: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU, which says the opposite, is not asked."""
    gpu(monkeypatch, there=True, multiplies_bfloat16=multiplies)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": not multiplies})
    assert chosen(TrainingSettings(device="auto")).precision == expected
    assert chosen(TrainingSettings(device="auto", precision="float32")).precision == "float32"
    assert chosen(TrainingSettings(device="cpu")).precision != expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"steps": 99}, False),
        ({"device": "cpu"}, False),
        ({"compile": False}, False),
        ({"compile": True, "steps": 1, "device": "cpu"}, True),
    ],
    ids=str,
)
def test_a_long_run_on_a_gpu_is_compiled_where_it_can_be(
    given: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, there=True)
    monkeypatch.setattr(loop, "can_compile", lambda: True)
    assert chosen(TrainingSettings(**{"device": "cuda", "steps": 100, **given})).compile is expected
    monkeypatch.setattr(loop, "can_compile", lambda: False)
    assert chosen(TrainingSettings(**{"device": "cuda", "steps": 100, **given})).compile is given.get("compile", False)


def test_the_choice_is_written_down_and_a_resumed_run_makes_it_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, there=False)
    folder = RunFolder(tmp_path / "run")
    begun = start_run(on("auto", texts), folder)
    assert begun.training.device == "cpu"
    gpu(monkeypatch, there=True)
    assert continue_run(folder) == begun


def test_settings_of_before_there_was_a_device_are_of_the_cpu(texts: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    begun = start_run(on("cpu", texts), folder)
    raw = read_json(folder.settings, what="settings")
    del raw["training"]["device"]
    write_json(folder.settings, raw)
    assert continue_run(folder) == begun


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_the_device_survives_json(device: Device, texts: Path) -> None:
    assert RunSettings.from_json(on(device, texts).to_json()) == on(device, texts)


def test_a_gpu_that_is_not_there_is_one_line_before_any_work(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, there=False)
    with pytest.raises(LtsRayError) as caught:
        run_training(on("cuda", texts), tmp_path / "new")
    assert str(caught.value) == NO_GPU
    assert not (tmp_path / "new").exists()


def test_a_run_that_began_on_a_gpu_does_not_go_on_without_one(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, there=True)
    start_run(on("cuda", texts), RunFolder(tmp_path / "run"))
    gpu(monkeypatch, there=False)
    with pytest.raises(LtsRayError) as caught:
        run_training(on("cuda", texts), tmp_path / "run", resume=True)
    assert str(caught.value) == NO_GPU
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["settings.json"]


def test_a_step_that_a_gpu_has_no_room_for_is_one_line(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("of many lines")

    monkeypatch.setattr(loop, "optimize", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 16 * 10**9))
    prepare_text(on("cpu", texts), RunFolder(tmp_path))
    with pytest.raises(LtsRayError, match=r"a step of training does not fit on the GPU, .* lower training\.batch_size"):
        train_text(on("cpu", texts), RunFolder(tmp_path))


def test_workers_on_gpus_have_one_each_and_average_there(texts: Path) -> None:
    options = replace(on("cuda", texts).training, workers=2)
    assert torch_config(options).backend == "nccl"
    scaling = scaling_config(options)
    assert (scaling.num_workers, scaling.use_gpu, scaling.num_gpus_per_worker) == (2, True, 1)
    assert torch_config(replace(options, device="cpu")).backend == "gloo"
    assert not scaling_config(replace(options, device="cpu")).use_gpu


def test_a_gpus_time_is_read_when_its_work_is_done_and_a_cpus_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append(f"waited for {device}"))

    def clock() -> float:
        told.append("read")
        return 7.0

    assert when_done(CPU, clock) == 7.0
    assert when_done(torch.device("cuda"), clock) == 7.0
    assert told == ["read", "waited for cuda", "read"]


def test_a_run_on_the_device_that_auto_takes_is_the_run_on_the_cpu(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch, there=False)
    found = {}
    devices: tuple[Device, ...] = ("auto", "cpu")
    for device in devices:
        folder = RunFolder(tmp_path / device)
        prepare_text(on(device, texts), folder)
        train_text(on(device, texts), folder)
        found[device] = losses(folder.path)
    assert found["auto"] == found["cpu"]
    assert len(found["cpu"]) == 4


def test_a_snapshot_keeps_every_bit_and_is_read_to_where_the_model_is(texts: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    settings = on("cpu", texts)
    prepare_text(settings, folder)
    train_text(settings, folder)
    learner = new_learner(settings, vocab_size=300, device=CPU)
    optimizer = make_optimizer(learner.model, settings.training)
    assert load_snapshot(snapshots(folder.snapshots)[-1], learner.model, optimizer) == 2
    state = list(optimizer.state.values())
    assert len(state) == len(list(learner.model.parameters()))
    assert all(value.device == CPU for each in state for value in each.values())
    save_snapshot(tmp_path / "again", 2, learner.model, optimizer)
    stored = [path / "step-00000002" / "state.safetensors" for path in (folder.snapshots, tmp_path / "again")]
    assert stored[0].read_bytes() == stored[1].read_bytes()
