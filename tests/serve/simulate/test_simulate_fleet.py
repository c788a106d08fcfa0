"""Several simulated replicas behind a router: one alone is as `simulate` has it, and more are as the router says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engine.step import Step
from serve.policies.budget import Budget
from serve.policies.named_policies import policy_named
from serve.policies.policy import Situation
from serve.policies.request import Request
from serve.routing.budget_router import BudgetRouter
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route, Router
from serve.routing.simple_routers import LeastOutstanding, PowerOfTwo, PrefixAware, RoundRobin, StaticGrid
from serve.simulate.fleet_run import FleetRun
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.simulate.simulate_fleet import simulate_fleet
from serve.traffic.arrival import Arrival
from tests.serve.simulate.kinds import kind_of
from tests.serve.simulate.test_simulate import FLAT, NODE, arrival, loads

SLOW = replace(NODE, costs=FLAT.scaled(4))
ROUTERS: tuple[Callable[[], Router], ...] = (
    BudgetRouter,
    RoundRobin,
    LeastOutstanding,
    PowerOfTwo,
    PrefixAware,
    lambda: StaticGrid(kinds=[(10.0, "r0"), (1e9, "r1")]),
)


def run(arrivals: list[Arrival], router: Router, *nodes: SimulatedReplica, policy: str = "deadline") -> FleetRun:
    kinds = [kind_of(f"r{n}", node) for n, node in enumerate(nodes)]
    rng = np.random.default_rng(3)
    return simulate_fleet(arrivals, kinds=kinds, router=router, policy=lambda: policy_named(policy), rng=rng)


@settings(max_examples=30)
@given(loads(), st.sampled_from(ROUTERS), st.sampled_from(["deadline", "fixed"]), st.sampled_from([None, 12]))
def test_one_replica_behind_any_router_is_as_without_one(
    arrivals: list[Arrival], router: Callable[[], Router], policy: str, n_blocks: int | None
) -> None:
    roomy = replace(NODE.capacity, max_queue=20)  # an ingress takes those in their first step for waiting
    node = replace(NODE, n_blocks=n_blocks, noise=0.1, attainment=0.9, capacity=roomy)
    rng = np.random.default_rng(3)
    alone = simulate(arrivals, node=node, policy=policy_named(policy), rng=rng)
    assert run(arrivals, router(), node, policy=policy).outcomes == alone


@pytest.mark.parametrize("router", ROUTERS)
def test_nothing_is_lost_and_only_full_queues_refuse(router: Callable[[], Router]) -> None:
    arrivals = [arrival(at_ms, output=6, budget=Budget(e2e_ms=300.0)) for at_ms in range(30)]
    played = run(arrivals, router(), NODE, SLOW, NODE)
    for outcome, place in zip(played.outcomes, played.places, strict=True):
        assert (outcome.status == "rejected") == (place is None)
        assert sum(outcome.submodels.values()) == (6 if place else 0)
    refused = played.places.count(None)
    assert 0 < refused < 30
    assert None not in played.places[:12]  # before, there is room in some queue
    assert run(arrivals, router(), NODE, SLOW, NODE) == played


def test_a_budget_that_only_the_fast_node_keeps_goes_there() -> None:
    tight = [arrival(1000.0 * n, output=5, budget=Budget(e2e_ms=5 * 3.4 * 2)) for n in range(4)]
    played = run(tight, BudgetRouter(), SLOW, NODE)
    assert played.places == ("r1-0",) * 4
    assert all(outcome.met for outcome in played.outcomes)
    in_turns = run(tight, RoundRobin(), SLOW, NODE)
    assert in_turns.places == ("r0-0", "r1-0") * 2
    assert [outcome.met for outcome in in_turns.outcomes] == [False, True] * 2


@dataclass
class Looking:
    """Sends all to the first, and keeps what it saw."""

    name: str = "looking"
    seen: list[tuple[float, Situation]] = field(default_factory=list)

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        self.seen.append((now_ms, replicas[0].situation))
        return Route(replica=replicas[0].id)


def test_a_router_sees_the_tokens_of_ended_steps_and_what_it_sent_before() -> None:
    looking = Looking()
    run([arrival(0.0), arrival(1.0), arrival(21.0)], looking, NODE, policy="fixed")  # a step takes 20.2 ms
    assert [now_ms for now_ms, _ in looking.seen] == [0.0, 1.0, 21.0]
    produced = [[job.produced for job in situation.jobs] for _, situation in looking.seen]
    assert produced == [[], [0], [1, 0]]


def test_the_way_to_an_engine_and_back_is_on_top_of_the_steps() -> None:
    """The second comes before the first has begun, and is there too late for its first step. Two run at once."""
    node = replace(NODE, hand_over_ms=3.0, delivery_ms=2.0)
    requests = [arrival(0.0, output=2), arrival(2.0, output=1), arrival(5.5, output=1)]
    for outcome, steps in zip(run(requests, RoundRobin(), node, policy="fixed").outcomes, (2, 2, 3), strict=True):
        assert outcome.end_ms == pytest.approx(3.0 + steps * 20.2 + 2.0)


def test_a_router_counts_what_is_still_on_its_way() -> None:
    node = replace(NODE, hand_over_ms=3.0)
    assert run([arrival(0.0), arrival(1.0)], LeastOutstanding(), node, node).places == ("r0-0", "r1-0")
    full = replace(node, capacity=replace(node.capacity, max_queue=1))
    assert [each.status for each in run([arrival(0.0), arrival(1.0)], RoundRobin(), full).outcomes] == [
        "done",
        "rejected",
    ]


def test_an_engine_that_has_lived_believes_what_its_steps_took() -> None:
    """By the calibration 4 more tokens fit; its steps took four times as long, and a narrower one is chosen."""
    lived = Step(
        parts=(),
        groups=(),
        quiet_ms=20.2,
        predicted_ms=20.2,
        preempted=(),
        reused_tokens=0,
        switches=0,
        decoded=1,
        reads_prompt=False,
    )
    new = replace(NODE, costs=FLAT.scaled(4), believed=FLAT, attainment=0.99)
    old = replace(new, lived=((lived, 4 * 20.2),) * 50)
    tight = [arrival(output=4, budget=Budget(e2e_ms=4 * 20.2 * 1.2))]
    assert run(tight, RoundRobin(), new).outcomes[0].submodels["XL"] >= 1
    assert "XL" not in run(tight, RoundRobin(), old).outcomes[0].submodels
