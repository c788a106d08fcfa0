"""The bench of fused training: what it trains, that it goes on where it stopped, and that it divides what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks.common import training_runs as matformer_training
from benchmarks.supernet import run
from benchmarks.supernet_plan import MEMBERS, OBJECTIVES, SupernetPlan, plan_of
from benchmarks.supernet_steps import StepTimes
from benchmarks.supernet_steps import run as time_steps
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_checkpoint import load_backbone
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.training.run_settings import TrainingSettings
from tests.models.backbones.supernets import supernet_config

NAMES = ["small", "wide", "deep"]


def tiny_plan(texts: Path, *, steps: int = 3) -> SupernetPlan:
    training = TrainingSettings(
        steps=steps,
        batch_size=2,
        sequence_length=16,
        warmup_steps=1,
        log_every=1,
        evaluation_blocks=2,
        checkpoint_every=2,
        precision="float32",
        threads=1,
    )
    return SupernetPlan(architecture=supernet_config("gpt2"), training=training, corpus=str(texts / "*.txt"))


def test_a_bench_compares_every_member_with_its_training_alone_and_goes_on_where_it_stopped(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is reported is what the checkpoints' folders say; a second call trains nothing."""
    said: list[str] = []
    result = run(tiny_plan(texts), tmp_path / "bench", rounds=2, say=said.append)
    assert len(said) == 2 + len(NAMES)
    assert [each.name for each in result.members] == NAMES
    for each in result.members:
        alone = load_backbone(tmp_path / "bench" / f"alone-{each.name}" / "model")
        assert each.alone == alone.validation_loss
        assert each.params == sum(parameter.numel() for parameter in alone.model.parameters())
        for objective in OBJECTIVES:
            fused = load_backbone(tmp_path / "bench" / f"fused-{objective}" / "model" / each.name)
            assert each.fused[objective] == fused.validation_loss
            assert fused.config == alone.config
    assert result.members[0].params < result.members[1].params < result.fused_params
    with monkeypatch.context() as patch:
        patch.delattr(matformer_training, "train")
        again = run(tiny_plan(texts), tmp_path / "bench", rounds=2, say=said.append)
    assert (again.members, len(said)) == (result.members, 2 + len(NAMES))
    assert json.loads(json.dumps(result.to_json()))["costs"][0]["kind"] == "joint"
    with pytest.raises(LtsRayError, match="holds a run with other settings"):
        run(tiny_plan(texts, steps=4), tmp_path / "bench", rounds=2)


def test_tokens_and_seconds_are_of_the_whole_training(texts: Path, tmp_path: Path) -> None:
    """3 steps of 2 × 16 tokens: through three members where all learn, through one where one is drawn."""
    result = run(tiny_plan(texts), tmp_path / "bench", rounds=2)
    slow = dict.fromkeys(NAMES, (2000.0, 2000.0))
    times = StepTimes(joint=(3000.0, 3000.0), sampled=slow, alone=slow, precision="float32", threads=1)
    joint, sampled, apart = replace(result, times=times).costs
    assert [each.tokens for each in (joint, sampled, apart)] == [288, 96, 288]
    assert [each.seconds for each in (joint, sampled, apart)] == [9.0, 6.0, 18.0]


def test_ratios_compare_steps_of_the_same_round() -> None:
    times = StepTimes(
        joint=(3.0, 80.0, 5.0),
        sampled={"a": (1.0, 10.0, 1.0), "b": (3.0, 30.0, 3.0)},
        alone={"a": (1.0, 10.0, 1.0), "b": (3.0, 30.0, 3.0)},
        precision="float32",
        threads=1,
    )
    assert times.ratio("joint") == (1.0, 1.25, 1.625)  # of 0.75, 2 and 1.25
    assert times.rounds_ms("sampled") == [2.0, 20.0, 2.0]
    assert times.ratio("sampled") == (0.5, 0.5, 0.5)
    assert times.ratio("apart") == (1.0, 1.0, 1.0)
    assert times.ratio_to_largest("sampled") == pytest.approx((2 / 3,) * 3)
    assert times.median_ms("apart") == 4.0


def test_every_kind_of_step_has_its_turn_in_every_round(texts: Path) -> None:
    """With a clock that ticks one second a reading, every step takes one second."""
    ticks = count()
    threads = torch.get_num_threads()
    told: list[tuple[int, int]] = []
    times = time_steps(
        tiny_plan(texts), vocab_size=280, rounds=3, warmup=1, clock=lambda: float(next(ticks)),
        progress=lambda *each: told.append(each),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert next(ticks) == 2 * 4 * 7
    assert torch.get_num_threads() == threads
    assert list(times.sampled) == list(times.alone) == NAMES
    assert times.rounds_ms("joint") == times.rounds_ms("sampled") == [1000.0] * 3
    assert times.rounds_ms("apart") == [3000.0] * 3
    with pytest.raises(LtsRayError, match="at least 2 rounds; got 1"):
        time_steps(tiny_plan(texts), vocab_size=280, rounds=1)


def test_the_default_members_are_points_of_the_space_and_the_largest_holds_the_others() -> None:
    assert all(gpt2.SPACE.contains(each) for each in MEMBERS.values())
    plan = plan_of(steps=40, threads=2, seed=3)
    fused = plan.architecture.fused.architecture
    assert replace(fused, n_head=MEMBERS["large"].n_head) == MEMBERS["large"]
    assert plan.training.warmup_steps == 2
    alone = [plan.alone(name).training for name in MEMBERS]
    assert all(each == plan.fused("joint").training == plan.training for each in alone)
    assert plan.fused("sampled").training == replace(plan.training, objective="sampled")


def test_points_of_a_search_are_the_first_the_middle_and_the_last_or_those_named(tmp_path: Path) -> None:
    names = [f"{index}M" for index in range(5)]
    points = [
        {"name": name, "architecture": each.to_json()}
        for name, each in zip(names, [MEMBERS["small"]] * 4 + [MEMBERS["large"]], strict=True)
    ]
    (tmp_path / "architectures.json").write_text(json.dumps({"schema": 1, "space": "gpt2", "points": points}))
    assert list(plan_of(tmp_path, steps=1).architecture.members) == ["0M", "2M", "4M"]
    assert list(plan_of(tmp_path, ["4M", "1M"], steps=1).architecture.members) == ["4M", "1M"]
    with pytest.raises(LtsRayError, match="has no architecture '9M'; it has: 0M, 1M"):
        plan_of(tmp_path, ["9M", "1M"], steps=1)
    with pytest.raises(LtsRayError, match="at least two architectures; got 1M"):
        plan_of(tmp_path, ["1M"], steps=1)
