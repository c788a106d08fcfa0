"""Replicas of a simulated fleet that come, drain, die and are slow: what becomes of the requests, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from serve.autoscaling.autoscaler import Autoscaler, Scaling
from serve.autoscaling.fleet_state import FleetState, ReplicaLoad
from serve.engine.scheduler import Scheduler
from serve.policies.budget import Budget
from serve.policies.named_policies import policy_named
from serve.routing.budget_router import BudgetRouter
from serve.routing.simple_routers import LeastOutstanding
from serve.simulate.fleet_run import FleetRun
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.simulate_fleet import MAX_MIGRATIONS, simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival
from tests.serve.simulate.kinds import kind_of
from tests.serve.simulate.test_simulate import FLAT, NODE, arrival, loads, timing_of

STEP_MS = 20.2
"""Of the universal model on NODE."""
SLOW = replace(NODE, costs=FLAT.scaled(4))


@dataclass
class Scheduled:
    """Says at each turn what its list says, and keeps what it saw."""

    turns: list[Mapping[str, int]]
    name: str = "scheduled"
    seen: list[FleetState] = field(default_factory=list)

    def decide(self, state: FleetState) -> Scaling:
        self.seen.append(state)
        turn = min(len(self.seen), len(self.turns)) - 1
        return Scaling(targets=self.turns[turn], reason=f"turn {turn}")


def run(
    arrivals: list[Arrival],
    *kinds: SimulatedKind,
    faults: tuple[InjectedFault, ...] = (),
    autoscaler: Autoscaler | None = None,
    policy: Callable[[], object] = lambda: policy_named("fixed"),
    **more: float,
) -> FleetRun:
    return simulate_fleet(
        arrivals,
        kinds=kinds,
        router=LeastOutstanding(),
        policy=policy,  # type: ignore[arg-type]
        rng=np.random.default_rng(0),
        faults=faults,
        autoscaler=autoscaler,
        **more,  # type: ignore[arg-type]
    )


def hours(milliseconds: float) -> float:
    return milliseconds / 3_600_000


def test_what_a_killed_replica_had_goes_on_elsewhere_from_its_last_token() -> None:
    kill = InjectedFault(at_s=0.05, kind="a", replica=0)  # in the midst of the third step
    played = run([arrival(0.0, output=5)], kind_of("a", NODE), kind_of("b", NODE), faults=(kill,))
    (outcome,) = played.outcomes
    assert (outcome.status, outcome.submodels) == ("done", {"XL": 5})
    assert timing_of(outcome).ttft_ms == pytest.approx(STEP_MS)
    assert timing_of(outcome).e2e_ms == pytest.approx(50 + 3 * STEP_MS)  # prompt and two tokens are one piece
    assert (played.places, played.migrations) == (("a-0",), 1)


def test_in_the_place_of_a_killed_replica_comes_one_more_after_its_start() -> None:
    kill = InjectedFault(at_s=0.05, kind="a")
    played = run([arrival(0.0, output=5), arrival(60.0)], kind_of("a", NODE, start_s=1.0), faults=(kill,))
    assert timing_of(played.outcomes[0]).e2e_ms == pytest.approx(1050 + 3 * STEP_MS)
    assert played.places == ("a-0", "a-1")
    assert played.migrations == 1
    assert played.replica_hours == {"a": pytest.approx(hours(1050 + 5 * STEP_MS))}
    never = run([arrival(0.0)], kind_of("a", NODE, start_s=200.0), faults=(kill,))
    assert [outcome.status for outcome in never.outcomes] == ["failed"]  # it has waited for two minutes
    assert never.outcomes[0].submodels == {"XL": 2}


def test_a_request_that_is_lost_too_often_fails() -> None:
    kills = tuple(InjectedFault(at_s=0.01 + at_s, kind="a") for at_s in range(MAX_MIGRATIONS + 1))
    (outcome,) = run([arrival(0.0, output=200)], kind_of("a", NODE), faults=kills).outcomes
    assert outcome.status == "failed"
    (outcome,) = run([arrival(0.0, output=200)], kind_of("a", NODE), faults=kills[1:]).outcomes
    assert outcome.status == "done"


def test_a_slow_fault_lasts_its_time_on_the_replicas_that_are_meant() -> None:
    fault = InjectedFault(at_s=0.0, kind="a", replica=1, what="slow", factor=3.0, for_s=0.1)
    both = run([arrival(0.0), arrival(0.0)], kind_of("a", NODE, replicas=2), faults=(fault,))
    assert timing_of(both.outcomes[0]).e2e_ms == pytest.approx(5 * STEP_MS)
    # The step that begins before the fault is over is slow to its end.
    assert timing_of(both.outcomes[1]).e2e_ms == pytest.approx(2 * 3 * STEP_MS + 3 * STEP_MS)
    all_of_them = replace(fault, replica=None, for_s=None)
    late = run([arrival(0.0)], kind_of("a", NODE), faults=(all_of_them, InjectedFault(at_s=0.01, kind="a")))
    assert timing_of(late.outcomes[0]).e2e_ms == pytest.approx(10 + 5 * 3 * STEP_MS)  # later ones, too


def test_an_autoscaler_is_asked_in_turns_and_a_replica_that_leaves_ends_what_it_has() -> None:
    scheduled = Scheduled([{"a": 2}, {"a": 1}, {"a": 1}])
    load = [arrival(0.0, output=100), arrival(1500.0, output=100), arrival(2900.0, output=100)]
    played = run(load, kind_of("a", NODE, start_s=0.4, cost=2.0), autoscaler=scheduled, tick_s=1.0, sample_s=1.0)
    assert played.places == ("a-0", "a-1", "a-0")
    assert [outcome.status for outcome in played.outcomes] == ["done"] * 3
    assert [decision.targets for decision in played.decisions] == [{"a": 2}, {"a": 1}]
    assert [decision.at_s for decision in played.decisions] == [1.0, 2.0]
    first, second, third = (state.kinds[0] for state in scheduled.seen[:3])
    assert (first.target, list(first.replicas)) == (1, ["a-0"])
    assert (second.target, list(second.replicas)) == (2, ["a-0", "a-1"])
    assert (third.target, list(third.replicas)) == (1, ["a-0"])  # the newest drains
    assert [sample.kinds["a"].up for sample in played.samples[:4]] == [1, 1, 2, 2]
    assert [sample.kinds["a"].running for sample in played.samples[:4]] == [0, 1, 2, 2]
    assert [sample.cost for sample in played.samples[:4]] == pytest.approx([2 * hours(s * 1e3) for s in (0, 1, 3, 5)])
    ends_ms = 1500 + 100 * STEP_MS  # of the one that drains, which then is gone
    last_ms = max(outcome.end_ms for outcome in played.outcomes)
    assert played.replica_hours == {"a": pytest.approx(hours(last_ms + ends_ms - 1000), rel=0.02)}
    assert played.cost == pytest.approx(2 * played.replica_hours["a"])


def test_a_replica_that_does_not_serve_yet_leaves_first_and_nothing_comes_of_it() -> None:
    scheduled = Scheduled([{"a": 3}, {"a": 1}])
    played = run([arrival(0.0), arrival(9000.0)], kind_of("a", NODE, start_s=5.0), autoscaler=scheduled, tick_s=1.0)
    assert played.places == ("a-0", "a-0")
    assert played.replica_hours == {"a": pytest.approx(hours(9000 + 5 * STEP_MS + 2 * 1000))}


def test_a_replica_says_what_came_to_it_of_late() -> None:
    scheduled = Scheduled([{"a": 1}])
    tight = Budget(e2e_ms=3 * STEP_MS)
    load = [arrival(0.0, output=5, budget=tight), arrival(100.0, output=2, budget=tight), arrival(990.0), arrival(2e5)]
    run(load, kind_of("a", NODE), autoscaler=scheduled, tick_s=1.0)
    loss = NODE.menu.universal.loss or 0.0
    seen = scheduled.seen[0].kinds[0].replicas["a-0"]
    expected = ReplicaLoad(running=1, window_s=1.0, came=3, bounded=2, kept=1, tokens=7, loss=pytest.approx(7 * loss))
    assert replace(seen, used_p90=0.0) == expected
    assert seen.used_p90 > 1
    later = scheduled.seen[100].kinds[0].replicas["a-0"]
    assert (later.window_s, later.came, later.tokens) == (60.0, 0.0, 0.0)


def test_a_fault_of_no_kind_is_refused() -> None:
    with pytest.raises(LtsRayError, match="a fault is of the kind 'b', but there are: a"):
        run([arrival()], kind_of("a", NODE), faults=(InjectedFault(at_s=0.0, kind="b"),))


@st.composite
def faults(draw: st.DrawFn) -> tuple[InjectedFault, ...]:
    one = st.builds(
        InjectedFault,
        at_s=st.floats(0, 2.5),
        kind=st.sampled_from(["a", "b"]),
        replica=st.one_of(st.none(), st.integers(0, 2)),
        what=st.sampled_from(["kill", "slow"]),
        factor=st.floats(1.0, 4.0),
        for_s=st.one_of(st.none(), st.floats(0, 1, exclude_min=True)),
    )
    return tuple(draw(st.lists(one, max_size=6)))


@settings(max_examples=25)
@given(
    loads(),
    faults(),
    st.lists(st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.integers(0, 3)}), min_size=1, max_size=6),
    st.sampled_from(["deadline", "fixed"]),
)
def test_whatever_comes_and_goes_every_request_is_answered_once_and_hours_add_up(
    arrivals: list[Arrival], broken: tuple[InjectedFault, ...], turns: list[Mapping[str, int]], policy: str
) -> None:
    kinds = (
        kind_of("a", replace(NODE, noise=0.1, attainment=0.9), bounds=(1, 2), start_s=0.3),
        kind_of("b", replace(SLOW, n_blocks=6), bounds=(0, 3), start_s=0.05, cost=3.0),
    )
    told: list[float] = []

    def played(sample_s: float | None = 0.1) -> FleetRun:
        return simulate_fleet(
            arrivals,
            kinds=kinds,
            router=LeastOutstanding(),
            policy=lambda: policy_named(policy),
            rng=np.random.default_rng(5),
            autoscaler=Scheduled(turns),
            tick_s=0.25,
            faults=broken,
            sample_s=sample_s,
            progress=told.append,
        )

    found = played()
    assert [outcome.arrival for outcome in found.outcomes] == arrivals
    for outcome in found.outcomes:
        tokens = sum(outcome.submodels.values())
        if outcome.status == "done":
            assert tokens == outcome.arrival.output_tokens
            assert 0 < timing_of(outcome).ttft_ms <= timing_of(outcome).e2e_ms
        else:
            assert tokens == 0 if outcome.status == "rejected" else tokens < outcome.arrival.output_tokens
    most = {"a": 2, "b": 3}
    for sample in found.samples:
        for name, kind in sample.kinds.items():
            assert kind.running <= 2 * kind.up
            assert kind.coming <= most[name]
    assert found.replica_hours is not None
    assert found.cost == pytest.approx(found.replica_hours["a"] + 3 * found.replica_hours["b"])
    assert told == sorted(told)
    assert played() == found
    assert replace(played(None), samples=found.samples) == found  # to look changes nothing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "alike", lambda self, step: (0, -inf))
        assert played() == found  # nor to plan each step on its own


def many(count: int) -> list[Arrival]:
    rng = np.random.default_rng(1)
    limits = rng.choice([60.0, 200.0, 900.0], count)
    return [
        arrival(4.0 * n, prompt=int(rng.integers(1, 40)), output=9, budget=Budget(e2e_ms=float(limit)))
        for n, limit in enumerate(limits)
    ]


def some_kinds() -> tuple[SimulatedKind, ...]:
    noisy = replace(NODE, noise=0.1, attainment=0.9)
    return kind_of("a", noisy, replicas=12, start_s=0.1), kind_of("b", replace(noisy, costs=SLOW.costs), replicas=12)


def seeded() -> bytes:
    run = simulate_fleet(
        many(80),
        kinds=some_kinds(),
        router=BudgetRouter(),
        policy=lambda: policy_named("deadline"),
        rng=np.random.default_rng(7),
        faults=[InjectedFault(at_s=0.1, kind="a"), InjectedFault(at_s=0.2, kind="b", what="slow", factor=2.0)],
        sample_s=0.1,
    )
    return repr(run).encode()


def test_a_seed_gives_the_same_bytes_in_every_process() -> None:
    code = f"import sys; from {__name__} import seeded; sys.stdout.buffer.write(seeded())"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout
    assert told.count(b"Outcome") == 80
    assert told == seeded()
