"""The bench of fused training: what it trains, that it goes on where it stopped, and that it divides what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks.common import training_runs
from benchmarks.common.machine import Machine
from benchmarks.common.training_steps import time_training_steps
from benchmarks.fused_training import (
    APART,
    JOINT,
    MEMBERS,
    OBJECTIVES,
    SAMPLED,
    FusedMember,
    FusedResult,
    compare_fused,
    members_of,
    runs_of,
    settings_of,
    steps_of,
)
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_checkpoint import load_backbone
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.training.run_settings import DataSettings, RunSettings, TrainingSettings
from tests.models.backbones.supernets import supernet_config

NAMES = ["small", "wide", "deep"]


def tiny_settings(texts: Path, *, steps: int = 3) -> RunSettings:
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
    data = DataSettings(corpus=str(texts / "*.txt"))
    return RunSettings(architecture=supernet_config("gpt2"), training=training, data=data)


def test_a_bench_compares_every_member_with_its_training_alone_and_goes_on_where_it_stopped(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is reported is what the checkpoints' folders say; a second call trains nothing."""
    result = compare_fused(tiny_settings(texts), tmp_path / "bench", rounds=2)
    assert capsys.readouterr().out.count(" steps\n") == 2 + len(NAMES)
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
        patch.delattr(training_runs, "train_text")
        again = compare_fused(tiny_settings(texts), tmp_path / "bench", rounds=2)
    assert again.members == result.members
    assert json.loads(json.dumps(result.to_json()))["costs"][0]["training"] == "joint"
    with pytest.raises(LtsRayError, match="holds a run with other settings"):
        compare_fused(tiny_settings(texts, steps=4), tmp_path / "bench", rounds=2)


def result_of(times_ms: dict[str, tuple[float, ...]], names: list[str]) -> FusedResult:
    members = [FusedMember(name=name, decoder_params=1, params=1, alone=1.0, fused={}) for name in names]
    training = TrainingSettings(steps=3, batch_size=2, sequence_length=16)
    return FusedResult(
        settings=RunSettings(architecture=supernet_config("gpt2"), training=training),
        members=tuple(members),
        fused_params=1,
        times_ms=times_ms,
        machine=Machine.here(),
    )


def test_tokens_and_seconds_are_of_the_whole_training() -> None:
    """3 steps of 2 × 16 tokens: through three members where all learn, through one where one is drawn."""
    times_ms = {f"{kind} {name}": (2000.0, 2000.0) for kind in (SAMPLED, APART) for name in NAMES}
    joint, sampled, apart = result_of({JOINT: (3000.0, 3000.0), **times_ms}, NAMES).costs
    assert [cost["tokens"] for cost in (joint, sampled, apart)] == [288, 96, 288]
    assert [cost["seconds"] for cost in (joint, sampled, apart)] == [9.0, 6.0, 18.0]


def test_ratios_compare_steps_of_the_same_round() -> None:
    members = {"a": (1.0, 10.0, 1.0), "b": (3.0, 30.0, 3.0)}
    times_ms = {f"{kind} {name}": times for kind in (SAMPLED, APART) for name, times in members.items()}
    result = result_of({JOINT: (3.0, 80.0, 5.0), **times_ms}, ["a", "b"])
    joint, sampled, apart = result.costs
    assert joint["of_apart"] == (1.0, 1.25, 1.625)  # of 0.75, 2 and 1.25
    assert result.rounds_ms(SAMPLED) == [2.0, 20.0, 2.0]
    assert sampled["of_apart"] == (0.5, 0.5, 0.5)
    assert apart["of_apart"] == (1.0, 1.0, 1.0)
    assert sampled["of_slowest"] == pytest.approx((2 / 3,) * 3, abs=1e-4)
    assert apart["step_ms"] == 4.0


def test_every_kind_of_step_has_its_turn_in_every_round(texts: Path) -> None:
    """With a clock that ticks one second a reading, every step takes one second."""
    ticks = count()
    threads = torch.get_num_threads()
    told: list[tuple[int, int]] = []
    steps = steps_of(tiny_settings(texts))
    times_ms = time_training_steps(
        steps, vocab_size=280, rounds=3, warmup=1, clock=lambda: float(next(ticks)),
        progress=lambda *done: told.append(done),
    )  # fmt: skip
    assert told == [(turn, 4 * 7) for turn in range(1, 29)]
    assert next(ticks) == 2 * 4 * 7
    assert torch.get_num_threads() == threads
    assert list(times_ms) == [JOINT, *(f"{kind} {name}" for name in NAMES for kind in (SAMPLED, APART))]
    result = result_of(times_ms, NAMES)
    assert result.rounds_ms(JOINT) == result.rounds_ms(SAMPLED) == [1000.0] * 3
    assert result.rounds_ms(APART) == [3000.0] * 3
    with pytest.raises(LtsRayError, match="at least 2 rounds; got 1"):
        time_training_steps(steps, vocab_size=280, rounds=1)


def test_the_default_members_are_points_of_the_space_and_the_largest_holds_the_others() -> None:
    assert all(gpt2.SPACE.contains(member) for member in MEMBERS.values())
    settings = settings_of(training=TrainingSettings(steps=40, threads=2, seed=3))
    fused = members_of(settings).fused.architecture
    assert replace(fused, n_head=MEMBERS["large"].n_head) == MEMBERS["large"]
    runs = runs_of(settings)
    assert all(runs[f"alone-{name}"].training == settings.training for name in MEMBERS)
    assert runs["fused-joint"] == settings
    assert runs["fused-sampled"].training == replace(settings.training, objective="sampled")


def test_points_of_a_search_are_the_first_the_middle_and_the_last_or_those_named(tmp_path: Path) -> None:
    names = [f"{index}M" for index in range(5)]
    points = [
        {"name": name, "architecture": member.to_json()}
        for name, member in zip(names, [MEMBERS["small"]] * 4 + [MEMBERS["large"]], strict=True)
    ]
    (tmp_path / "architectures.json").write_text(json.dumps({"schema": 1, "space": "gpt2", "points": points}))

    def chosen(*names: str) -> list[str]:
        return list(members_of(settings_of(tmp_path, names, training=TrainingSettings(steps=1))).members)

    assert chosen() == ["0M", "2M", "4M"]
    assert chosen("4M", "1M") == ["4M", "1M"]
    with pytest.raises(LtsRayError, match="has no architecture '9M'; it has: 0M, 1M"):
        chosen("9M", "1M")
    with pytest.raises(LtsRayError, match="at least two architectures; got 1M"):
        chosen("1M")
