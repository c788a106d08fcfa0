"""The policy that knows the load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.policies.capacity import Capacity
from serve.policies.deadline import ALL, DeadlinePolicy
from serve.simulate.oracle import QUALITY, OraclePolicy, find_oracle, worth
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival
from tests.serve.policies.situations import FLAT, MENU, XL, L, M, S, running_job, situation_of

NODE = SimulatedReplica(menu=MENU, costs=FLAT, capacity=Capacity(slots=2, max_queue=8, chunk_tokens=16))


def arrival(at_ms: float, *, e2e_ms: float | None) -> Arrival:
    budget = NO_BUDGET if e2e_ms is None else Budget(e2e_ms=e2e_ms)
    return Arrival(at_ms=at_ms, prompt_tokens=4, output_tokens=10, budget=budget, klass="some")


def replayed(arrivals: list[Arrival], policy: DeadlinePolicy | OraclePolicy) -> tuple[Outcome, ...]:
    return simulate(arrivals, node=NODE, policy=policy, rng=np.random.default_rng(0))


def met(outcomes: tuple[Outcome, ...]) -> int:
    return sum(each.met for each in outcomes)


def test_each_window_has_its_widths_and_the_last_one_goes_on() -> None:
    policy = OraclePolicy(windows=((1, 2), (2, None), ALL), window_ms=100)
    easy = running_job(1, budget=Budget(e2e_ms=1e6))
    options = [policy.plan(situation_of(running=(easy,), now_ms=now), MENU, FLAT).options[1] for now in (0, 150, 900)]
    assert options == [L, M, XL]
    tight = running_job(1, budget=Budget(e2e_ms=150 + 10 * 3.4 * 1.2))
    assert policy.plan(situation_of(running=(tight,), now_ms=150), MENU, FLAT).options[1] == S


def test_its_windows_begin_with_the_load_whatever_the_engines_clock_says() -> None:
    policy = OraclePolicy(windows=((1, 2), (2, None)), window_ms=100, first_ms=30)
    first = replace(running_job(1, budget=Budget(e2e_ms=1e6)), arrived_ms=7030)  # so the load began at 7000
    options = [policy.plan(situation_of(running=(first,), now_ms=now), MENU, FLAT).options[1] for now in (7090, 7110)]
    assert options == [L, M]


def test_it_knows_who_will_come() -> None:
    """Two that are easy have both places until 202 ms, at their widest. A tight one comes at 100 ms: who does not know
    of it has been too slow by then, though it narrows all from there on."""
    arrivals = [arrival(0.0, e2e_ms=242.0), arrival(0.0, e2e_ms=242.0), arrival(100.0, e2e_ms=45.0)]
    assert met(replayed(arrivals, DeadlinePolicy())) == 2
    oracle = find_oracle(arrivals, node=NODE, rng=np.random.default_rng(0), windows=3, rollouts=30)
    assert met(replayed(arrivals, oracle)) == 3


def test_worth_is_budgets_first_and_then_quality() -> None:
    timing = Timing(ttft_ms=5, tpot_ms=5, e2e_ms=50)

    def outcome(e2e_ms: float | None, submodel: str) -> Outcome:
        arrived = arrival(0.0, e2e_ms=e2e_ms)
        return Outcome(arrival=arrived, status="done", timing=timing, submodels={submodel: 10})

    assert worth((outcome(100, "XL"), outcome(20, "XL"), outcome(None, "XL")), MENU) == pytest.approx(0.5 + QUALITY)
    assert worth((outcome(100, "S"), outcome(100, "XL")), MENU) == pytest.approx(1 + QUALITY / 2)
    assert worth((outcome(None, "S"),), MENU) == 1


@pytest.mark.parametrize("seed", range(3))
def test_it_is_never_worse_than_the_deadline_policy_on_the_load_that_it_knows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bounds = rng.choice([60.0, 150.0, 400.0, np.nan], size=30)
    times = np.cumsum(rng.exponential(60.0, size=30))
    arrivals = [
        arrival(float(at_ms), e2e_ms=None if np.isnan(bound) else float(bound))
        for at_ms, bound in zip(times, bounds, strict=True)
    ]
    oracle = find_oracle(arrivals, node=NODE, rng=rng, windows=4, rollouts=10)
    assert worth(replayed(arrivals, oracle), MENU) >= worth(replayed(arrivals, DeadlinePolicy()), MENU)


def test_without_a_load_it_is_the_deadline_policy() -> None:
    oracle = find_oracle([], node=NODE, rng=np.random.default_rng(0), windows=2, rollouts=2)
    assert oracle.windows == (ALL, ALL)
