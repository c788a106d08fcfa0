"""Budgets on an endpoint, with the tests' server in place of Ray Serve's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import budgets
from benchmarks.budgets import BudgetsBench, busy_processes, quickstart_load, variant_args
from benchmarks.load import ray_endpoint
from benchmarks.load.budgets_folder import BudgetsFolder, BudgetsSettings, BudgetsTurn
from benchmarks.load.budgets_row import rows_of_turns
from benchmarks.load.local_model import running
from benchmarks.load.ray_endpoint import Endpoint
from benchmarks.load.served_outcome import ServedOutcome
from benchmarks.load.step_ratios import StepRatios
from lts_ray.errors import LtsRayError
from lts_ray.quickstart.ask import Needs
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.observer import StepRecord
from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.policies.named_policies import policy_named
from serve.serve_args import ServeArgs
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import Need
from tests.benchmarks.load.loads import COSTS, local_model
from tests.serve.conftest import Server
from tests.serve.models import tiny_menu

NEEDS = Needs(universal_alone=10, universal_together=20, narrowest_together=10, smallest=4)
SETTINGS = BudgetsSettings(loads=(0.5,), seconds=0.2)
NARROWEST = Need(costs=COSTS, option=tiny_menu().narrowest, chunk_tokens=32)


class FakeEndpoint(Endpoint):
    """Its costs are those of the tests, its steps take twice as long as predicted."""

    def costs(self) -> StepCosts:
        return COSTS

    def step_ratios(self, costs: StepCosts) -> list[float]:
        return [2.0] * 10


@pytest.fixture
def endpoints(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Endpoint]:
    """Two names for one server; what the quickstart's budgets are made of is given."""

    async def needs(url: str) -> Needs:
        return NEEDS

    monkeypatch.setattr(budgets.ask, "endpoint_needs", needs)
    monkeypatch.setattr(budgets.ask, "MAX_TOKENS", 4)
    monkeypatch.setattr(budgets.ask, "AT_ONCE", 3)
    return {name: FakeEndpoint(server.url, None) for name in ("deadline", "smallest@0.9")}


def bench(model_dir: Path, folder: Path, settings: BudgetsSettings = SETTINGS) -> BudgetsBench:
    return BudgetsBench(settings=settings, model=local_model(model_dir), folder=BudgetsFolder(folder))


def test_every_variant_gets_the_same_loads_and_a_run_that_was_stopped_goes_on(
    model_dir: Path, tmp_path: Path, endpoints: dict[str, Endpoint]
) -> None:
    one = bench(model_dir, tmp_path)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(one.run(endpoints, 2, stop))
    kept = one.folder.read_turns()
    assert len(kept) == 2
    with (tmp_path / "turns.jsonl").open("a") as file:
        file.write('{"round": 0, "ta')  # as a kill leaves it
    told: list[tuple[int, int]] = []
    asyncio.run(one.run(endpoints, 2, lambda done, total: told.append((done, total))))
    turns = one.folder.read_turns()
    assert told == [(number, 8) for number in range(2, 8)]
    assert kept.items() <= turns.items()
    assert turns.keys() == set(one.turns(list(endpoints), 2))
    for number, task, _ in turns:
        first, second = (turns[number, task, variant] for variant in endpoints)
        assert [each.arrival for each in first.outcomes] == [each.arrival for each in second.outcomes]
        assert all(each.status in {"done", "rejected"} for each in first.outcomes)
    assert turns[0, "load 0.5", "deadline"].outcomes != turns[1, "load 0.5", "deadline"].outcomes

    rows = one.rows(simulated=True)
    loads = ("asked alone", "eight at once", "load 0.5")
    assert [(row.load, row.variant) for row in rows] == [(load, name) for load in loads for name in endpoints]
    for row in rows:
        assert row.simulated is None or 0 <= row.simulated.mean <= 1
        assert set(row.text_columns()) == set(rows[0].text_columns())
    with pytest.raises(LtsRayError, match="holds rounds of other settings or another model; use another --output"):
        bench(model_dir, tmp_path, replace(SETTINGS, busy=2)).rows(simulated=False)


def test_a_round_has_every_load_for_every_variant_in_an_order_of_its_own(model_dir: Path, tmp_path: Path) -> None:
    one = bench(model_dir, tmp_path, replace(SETTINGS, loads=(0.5, 0.9, 1.3)))
    turns = list(one.turns(["a", "b", "c"], 6))
    assert len(turns) == len(set(turns)) == 6 * 4 * 3
    orders = {tuple(key[1:] for key in turns if key[0] == number) for number in range(6)}
    assert len(orders) > 1
    for place in range(0, len(turns), 3):
        assert len({key[:2] for key in turns[place : place + 3]}) == 1  # in turns, at one load


def arrival(budget: Budget) -> Arrival:
    return Arrival(at_ms=0, prompt_tokens=2, output_tokens=10, budget=budget, klass="tight")


def answered(budget_ms: float | None, client_ms: float, reported_ms: float, **other: Any) -> ServedOutcome:
    def timing(e2e_ms: float) -> Timing:
        return Timing(ttft_ms=e2e_ms / 10, tpot_ms=1, e2e_ms=e2e_ms)

    budget = NO_BUDGET if budget_ms is None else Budget(e2e_ms=budget_ms)
    common: Mapping[str, Any] = {"status": "done", "submodels": {"XL": 10}, **other}
    return ServedOutcome(arrival=arrival(budget), timing=timing(client_ms), reported=timing(reported_ms), **common)


def test_only_budgets_that_the_narrowest_would_have_kept_count_and_each_clock_for_itself() -> None:
    needed = NARROWEST.alone(2, 10).e2e_ms
    outcomes = (
        answered(needed + 50, client_ms=needed, reported_ms=needed - 10, interval=(0.0, needed)),
        answered(needed + 50, client_ms=needed + 60, reported_ms=needed + 40, interval=(0.0, needed)),
        answered(needed - 1, client_ms=needed + 60, reported_ms=needed + 40, streamed=False),
        answered(None, client_ms=1e6, reported_ms=1e6, streamed=False),
        ServedOutcome(arrival=arrival(Budget(e2e_ms=1e6)), status="rejected", timing=None, submodels={}),
    )
    turn = BudgetsTurn(round=0, task="load 1", variant="deadline", outcomes=outcomes, step_ratios=())
    [row] = rows_of_turns([turn], need=NARROWEST, menu=tiny_menu(), simulated=[replace(turn, outcomes=outcomes[:1])])
    assert row.budgets == 3
    assert row.by_client is not None
    assert row.by_client.mean == pytest.approx(1 / 3)
    assert row.by_endpoint is not None
    assert row.by_endpoint.mean == pytest.approx(2 / 3)
    assert row.inside is not None
    assert row.inside.mean == pytest.approx(1 / 2)
    assert row.added_ttft_ms is not None
    assert row.added_ttft_ms.mean == pytest.approx(1.5)
    assert row.text_columns()["simul. %"] == "100.0"
    assert row.text_columns()["off by"] == "+33.3"


def test_the_quickstarts_requests_come_apart_but_for_the_groups_that_are_asked_at_once() -> None:
    load = quickstart_load(NEEDS)
    alone = [(each.at_ms, each.budget.e2e_ms) for each in load if each.klass == "asked alone"]
    assert alone == [(0, 40), (15, 15), (30, 5)]
    together = [(each.at_ms, each.budget.e2e_ms) for each in load if each.klass != "asked alone"]
    assert together == [(45, 40)] * 8 + [(75, 15)] * 8


def test_busy_processes_end_with_the_block_or_their_parent() -> None:
    with busy_processes(2):
        pass  # where they went on, this would wait for ever
    assert subprocess.run([sys.executable, "-c", budgets.COMPUTE, "1"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "fast"), "unknown policy 'fast'"),
        (("--variants", "deadline@much"), "deadline@much.attainment must be a number; got 'much'"),
        (("--loads", "0.5,x"), r"settings.loads.1 must be a number; got 'x'"),
        (("--loads", "0"), r"settings.loads.0 must be above 0"),
    ],
)
def test_bad_arguments_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(LtsRayError, match=message):
        invoke("--model", model_dir, "--output", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def invoke(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(budgets.budgets)
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False).stdout


def test_the_command_shows_what_it_has_and_starts_nothing_for_rounds_that_are_done(
    model_dir: Path, tmp_path: Path, endpoints: dict[str, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Mapping[str, ServeArgs]] = []

    @contextmanager
    def own(args: Mapping[str, ServeArgs]) -> Iterator[Mapping[str, Endpoint]]:
        started.append(args)
        yield endpoints

    monkeypatch.setattr(budgets, "own_endpoints", own)
    command = ("--model", model_dir, "--output", tmp_path, "--variants", "deadline,smallest@0.9")
    command += ("--loads", 0.5, "--seconds", 0.5, "--rounds", 1, "--threads", 1)
    monkeypatch.setattr(budgets.options, "CONTEXT", 48)
    first = invoke(*command)
    assert [(each.policy, each.attainment) for each in started[0].values()] == [("deadline", 0.99), ("smallest", 0.9)]
    assert "asked alone" in first
    assert invoke(*command, "--simulate") != ""
    assert "asked alone" in invoke(*command[:5], "deadline", *command[6:])  # it has rounds of more than is asked for
    assert len(started) == 1
    found = json.loads((tmp_path / "budgets.json").read_text())
    assert [row["variant"] for row in found["rows"][:2]] == ["deadline", "smallest@0.9"]
    assert found["settings"]["loads"] == [0.5]


def test_a_variant_is_a_policy_that_may_be_told_a_share() -> None:
    given = [variant_args(name, threads=2) for name in ("deadline", "idle-feasible@0.9")]
    assert [(each.policy, each.attainment, each.threads) for each in given] == [
        ("deadline", 0.99, 2), ("idle-feasible", 0.9, 2),
    ]  # fmt: skip


def test_what_steps_took_is_told_over_other_corrections_of_the_same_costs(model_dir: Path) -> None:
    engine = local_model(model_dir).engine(costs=COSTS.scaled(2), policy=policy_named("smallest"))
    ratios = StepRatios(engine)
    common = dict.fromkeys(("at_s", "decoded", "reused_tokens", "switches", "preempted"), 0)
    ratios.stepped(StepRecord(predicted_ms=8.0, actual_ms=6.0, prompt_tokens=0, **common))
    ratios.stepped(StepRecord(predicted_ms=8.0, actual_ms=12.0, prompt_tokens=3, **common))
    corrected = replace(COSTS, prompt_slowdown=2.0, overhead_ms=2.0)
    assert ratios.take(corrected) == [6 / (4 + 2), 12 / (4 * 2 + 2)]
    assert ratios.take(corrected) == []


def test_a_running_engine_is_found_in_its_process(model_dir: Path) -> None:
    """Among other tests' engines, for which there is no room in a replica's process."""
    with running(local_model(model_dir).engine(costs=COSTS, policy=policy_named("smallest"))) as engine:
        assert ray_endpoint._engine()._thread.name == engine._thread.name
        assert ray_endpoint._step_ratios(None, COSTS) == []
