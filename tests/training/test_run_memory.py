"""Absurd sizes are refused in one line before anything of the size is made, and what fits is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lts_ray import memory
from lts_ray.elasticize.elastic_run import elasticize
from lts_ray.elasticize.elasticize_settings import ElasticizeSettings
from lts_ray.errors import LtsRayError
from lts_ray.memory import check_memory, memory_bytes
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.training import ray_trainer, run_memory
from lts_ray.training.ray_trainer import run_training
from lts_ray.training.run_memory import check_here, check_run_memory, sequences_a_pass
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings
from lts_ray.vision.vision_run import train_vit
from lts_ray.vision.vision_settings import VisionSettings

HUGE, GIANT = 10**8, 10**18
SMALL = {"d_model": 64, "n_layer": 2, "n_head": 2, "d_inner": 128}
SIZES = {"vocab_size": 2048, "context_length": 512}


@pytest.fixture(autouse=True)
def sixteen_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 16 * 10**9)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    for name in ("prepare_text", "connected"):
        monkeypatch.setattr(ray_trainer, name, never)


def architecture(**changes: Any) -> dict[str, Any]:
    return {
        "architecture": {"backbone": changes.pop("backbone", "gpt2"), **SIZES, "architecture": {**SMALL, **changes}}
    }


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"d_model": HUGE}}, r"needs at least [\d,]+ GB of memory; there are 16.0 GB: lower model.d_model"),
        ({"model": {"d_model": 2 * 10**9}}, "lower model.d_model"),
        ({"model": {"d_model": 10**30}}, "model.d_model must be at most 2147483647; got 10"),
        ({"model": {"d_ff": 2 * 10**9}}, "lower .*model.d_ff"),
        ({"model": {"n_layer": 10**9}}, "model.n_layer must be at most 10000; got"),
        ({"model": {"n_layer": 10_000, "d_model": 4096}}, "lower .*model.n_layer"),
        ({"model": {"vocab_size": 10**9}}, "model.vocab_size must be at most 10000000; got"),
        ({"model": {"context_length": 2 * 10**9}}, "lower .*model.context_length"),
        ({"model": {"d_model": HUGE, "independent": True}}, "lower model.d_model"),
        ({"training": {"sequence_length": 10**9}}, "longer than the model's context"),
        ({"training": {"batch_size": HUGE, "passes": "separate"}}, "lower training.batch_size"),
        ({"training": {"workers": HUGE, "batch_size": HUGE}}, "in 100,000,000 workers needs"),
        ({"training": {"steps": 10**9 + 1}}, "training.steps must be at most 1000000000; got"),
        ({"training": {"seed": 2**64}}, "training.seed must be at most 18446744073709551615; got"),
        ({"training": {"threads": 10**6}}, "training.threads must be at most 4096; got"),
        ({"training": {"evaluation_blocks": 10**30}}, "training.evaluation_blocks must be at most"),
        (architecture(d_model=HUGE), "lower d_model"),
        (architecture(d_model=GIANT), "no machine holds|lower d_model"),
        (architecture(d_model=10**30), "no machine holds|lower d_model"),
        (architecture(d_inner=10**12), "lower d_model, d_inner"),
        (architecture(n_layer=10**9), "n_layer must be at most 10000; got"),
        (
            {"architecture": {**architecture()["architecture"], "vocab_size": 10**9}},
            "vocab_size must be at most 10000000",
        ),
        (architecture() | {"training": {"batch_size": HUGE}}, "lower training.batch_size"),
        (architecture(backbone="opt", d_model=HUGE), "lower d_model"),
        (architecture(backbone="transformer-xl", d_model=HUGE), "lower d_model"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_absurd_training_is_refused_before_any_work(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=message) as refused:
        run_training(RunSettings.from_json(sections), tmp_path / "run", address="local")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"batch_size": 10**6}}, "batches of 1,000,000 images needs .*: lower training.batch_size$"),
        ({"training": {"batch_size": 2 * 10**9}}, "lower training.batch_size"),
        ({"training": {"steps": GIANT}}, "training.steps must be at most"),
        ({"training": {"seed": 10**30}}, "training.seed must be at most"),
        ({"model": {"d_model": HUGE}}, "lower model.d_model"),
        ({"model": {"d_ff": 2 * 10**9}}, "lower model.d_model"),
        ({"model": {"n_layer": 10**9}}, "model.n_layer must be at most"),
        ({"images": {"shift_pixels": 10**5}}, "lower training.batch_size or images.shift_pixels"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_absurd_image_runs_are_refused(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=message) as refused:
        train_vit(VisionSettings.from_json(sections), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_not_made_elastic_in_absurd_batches(texts: Path, model_dir: Path, tmp_path: Path) -> None:
    settings = ElasticizeSettings.from_json(
        {
            "source": str(model_dir),
            "data": {"corpus": str(texts / "*.txt")},
            "training": {"batch_size": 10**9, "sequence_length": 16, "passes": "separate"},
        }
    )
    with pytest.raises(LtsRayError, match="batch_size or training"):
        elasticize(settings, tmp_path / "run", address="local")
    assert not (tmp_path / "run").exists()


def test_memory_is_counted_where_it_is() -> None:
    """Workers of one machine share it, and the vocabulary counts once it is known."""
    settings = RunSettings.from_json({"model": {"vocab_size": 10**7}, "training": {"workers": 2, "batch_size": 2}})
    check_here(settings)
    with pytest.raises(LtsRayError, match="vocab_size"):
        check_run_memory(settings, vocab_size=10**7)
    wide = RunSettings.from_json({"model": {"d_model": 8192}, "training": {"workers": 2, "batch_size": 2}})
    check_run_memory(wide)
    with pytest.raises(LtsRayError, match="in 2 workers"):
        check_here(wide)


def test_a_pass_on_a_gpu_is_as_large_a_part_of_the_batch_as_fits() -> None:
    """All parts are alike. A mixed pass takes the memory of all its granularities, another one of one."""
    options = TrainingSettings(batch_size=12, sequence_length=1024, precision="bfloat16")
    config = ModelSettings(d_model=256, n_layer=16, d_ff=1024, context_length=1024).config(2048)
    free = [2 * 10**9, 3 * 10**9, 5 * 10**9, 8 * 10**9, 10**11]
    sizes = [sequences_a_pass(options, config, each) for each in free]
    assert sizes[0] == 1
    assert sizes[-1] == 12
    assert sizes == sorted(sizes, key=int)
    assert all(12 % (size or 0) == 0 for size in sizes)
    assert len(set(sizes)) > 3
    apart = [sequences_a_pass(replace(options, passes="separate"), config, each) for each in free]
    assert all((one or 0) >= (other or 0) for one, other in zip(apart, sizes, strict=True))
    assert sum(map(int, filter(None, apart))) > sum(map(int, filter(None, sizes)))
    precise = replace(options, precision="float32")
    assert int(sequences_a_pass(precise, config, free[3]) or 0) < int(sizes[3] or 0)
    wordy = replace(config, vocab_size=200_000)
    taught = [sequences_a_pass(replace(options, teacher=name), wordy, free[3]) for name in (None, "somebody")]
    assert int(taught[0] or 0) > int(taught[1] or 0)
    assert sequences_a_pass(options, config, None) is None


def test_what_learns_is_counted_before_a_pass_on_a_gpu_gets_the_rest() -> None:
    """Nearly all of this model's parameters are in its FFNs: to train these alone takes as much memory."""
    options = TrainingSettings(batch_size=8, sequence_length=64, precision="bfloat16")
    config = ModelSettings(d_model=64, n_layer=8, d_ff=2**18, context_length=64).config(300)
    free = 22 * config.parameters(config.universal)
    sizes = [sequences_a_pass(replace(options, train=train), config, int(free)) for train in ("all", "ffn")]
    assert sizes[0] == sizes[1] < 8


def test_on_a_gpu_a_run_needs_room_for_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_memory, "device_bytes", lambda options: 16 * 10**9)
    check_run_memory(RunSettings(training=TrainingSettings(batch_size=10**6, passes="separate")))
    with pytest.raises(LtsRayError, match="batch_size or training"):
        check_run_memory(RunSettings(training=TrainingSettings(batch_size=1, sequence_length=10**7)))


def test_what_fits_is_not_refused() -> None:
    """The estimate is a bound from below: GPT-2's shape takes about 2 GB, and large batches go through in parts."""
    gpt2 = {"d_model": 768, "n_head": 12, "n_kv_head": 12, "n_layer": 12, "d_ff": 3072, "vocab_size": 50257}
    for options in ({}, {"batch_size": 10**6}):
        check_run_memory(RunSettings.from_json({"model": gpt2, "training": options}), vocab_size=50257)


def test_the_weights_of_a_backbone_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RunSettings.from_json(architecture() | {"training": {"batch_size": 1, "sequence_length": 1}})
    assert isinstance(settings.architecture, BackboneConfig)
    parameters = sum(each.numel() for each in settings.architecture.skeleton().parameters())
    monkeypatch.setattr(memory, "memory_bytes", lambda: 16 * parameters)
    with pytest.raises(LtsRayError, match="lower d_model"):
        check_run_memory(settings, vocab_size=settings.vocab_size)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 17 * parameters)
    check_run_memory(settings, vocab_size=settings.vocab_size)


@pytest.mark.parametrize(("told", "most"), [("max\n", None), ("9223372036854771712\n", None), ("1000000\n", 10**6)])
def test_a_container_has_what_it_is_given(
    told: str, most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none",))
    whole = memory_bytes()
    (tmp_path / "memory.max").write_text(told)
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
    assert (memory_bytes() < whole) == (most is not None)
    assert memory_bytes() >= (most or whole)


def test_the_largest_part_is_what_to_lower() -> None:
    with pytest.raises(LtsRayError, match=r"it needs at least 5 GB of memory; there are 4.5 GB: lower b"):
        check_memory({"lower a": 2 * 10**9, "lower b": 3 * 10**9}, what="it", there=45 * 10**8)
    check_memory({"lower a": 10}, what="it", there=10)


def test_every_default_fits() -> None:
    check_run_memory(RunSettings(training=TrainingSettings()))
