"""The router that knows the load."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from serve.policies.deadline import DeadlinePolicy
from serve.policies.policy import Policy
from serve.routing.budget_router import BudgetRouter
from serve.routing.router import Router
from serve.routing.simple_routers import LeastOutstanding, RoundRobin
from serve.simulate.fleet_oracle import FleetOracle, find_fleet_oracle
from serve.simulate.fleet_run import FleetRun
from serve.simulate.oracle import worth
from serve.simulate.simulate_fleet import simulate_fleet
from serve.traffic.arrival import Arrival
from tests.serve.policies.situations import FLAT, MENU
from tests.serve.simulate.kinds import kind_of
from tests.serve.simulate.test_oracle import NODE, arrival

FLEET = [
    kind_of("fast", NODE, cost=2.0),
    kind_of("slow", replace(NODE, costs=FLAT.scaled(2))),
]


def load(seed: int, count: int) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    times, bounds = np.cumsum(rng.exponential(40.0, size=count)), rng.choice([45.0, 90.0, 250.0], size=count)
    return [arrival(float(at_ms), e2e_ms=float(bound)) for at_ms, bound in zip(times, bounds, strict=True)]


def policy() -> Policy:
    return DeadlinePolicy()


def replayed(arrivals: list[Arrival], router: Router) -> FleetRun:
    rng = np.random.default_rng(0)
    return simulate_fleet(arrivals, kinds=FLEET, router=router, policy=policy, rng=rng)


def found(arrivals: list[Arrival], *, replays: int) -> FleetOracle:
    rng = np.random.default_rng(1)
    starts = (RoundRobin, LeastOutstanding, BudgetRouter)
    return find_fleet_oracle(arrivals, kinds=FLEET, starts=starts, policy=policy, rng=rng, replays=replays)


@pytest.mark.parametrize("seed", range(2))
def test_it_finds_the_best_of_all_placements_of_a_few_requests(seed: int) -> None:
    arrivals = load(seed, 5)
    every = product(("fast-0", "slow-0"), repeat=len(arrivals))
    best = max(worth(replayed(arrivals, FleetOracle(places=places)).outcomes, MENU) for places in every)
    reached = worth(replayed(arrivals, found(arrivals, replays=60)).outcomes, MENU)
    assert best - 0.01 < reached <= best + 1e-9  # as many budgets, at nearly the same quality


@pytest.mark.parametrize("seed", range(3))
def test_it_is_never_worse_than_the_routers_that_it_begins_with(seed: int) -> None:
    arrivals = load(seed, 15)
    reached = worth(replayed(arrivals, found(arrivals, replays=8)).outcomes, MENU)
    for router in (RoundRobin(), LeastOutstanding(), BudgetRouter()):
        assert reached >= worth(replayed(arrivals, router).outcomes, MENU)


def test_it_knows_who_will_come() -> None:
    """A tight one comes that only the fast replica can keep, in a place there that loose ones have not taken."""
    arrivals = [*(arrival(at_ms, e2e_ms=460.0) for at_ms in (0.0, 1.0, 2.0)), arrival(100.0, e2e_ms=60.0)]
    assert not replayed(arrivals, RoundRobin()).outcomes[-1].met
    run = replayed(arrivals, found(arrivals, replays=60))
    assert run.places[-1] == "fast-0"
    assert all(outcome.met for outcome in run.outcomes)


def test_where_no_place_is_told_or_it_takes_no_request_the_first_open_one_gets_it() -> None:
    arrivals = load(0, 3)
    assert replayed(arrivals, FleetOracle(places=[None, "gone", "slow-0"])).places == ("fast-0", "fast-0", "slow-0")
    assert found([], replays=3).places == ()
