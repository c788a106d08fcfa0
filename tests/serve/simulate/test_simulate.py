"""The simulator: times that can be added up by hand, and what must hold for every load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.policies.capacity import Capacity
from serve.policies.named_policies import POLICIES, policy_named
from serve.policies.policy import Policy
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival
from tests.serve.models import tiny_menu

MENU = tiny_menu()
FLAT = StepCosts(grid=(1, 1000), base=(1.0, 1.0), neuron=(0.1, 0.1), head=(0.0, 0.0), attended=0.0)
NODE = SimulatedReplica(
    menu=MENU, costs=FLAT, capacity=Capacity(slots=2, max_queue=4, chunk_tokens=16)
)  # steps of S 3.4, M 5.8, L 10.6, XL 20.2 ms


def arrival(at_ms: float = 0.0, *, prompt: int = 4, output: int = 5, budget: Budget = NO_BUDGET) -> Arrival:
    return Arrival(at_ms=at_ms, prompt_tokens=prompt, output_tokens=output, budget=budget, klass="some")


def run(
    *arrivals: Arrival, node: SimulatedReplica = NODE, policy: Policy | None = None, seed: int = 0
) -> tuple[Outcome, ...]:
    policy = policy or policy_named("fixed")
    return simulate(arrivals, node=node, policy=policy, rng=np.random.default_rng(seed))


def timing_of(outcome: Outcome) -> Timing:
    assert outcome.timing is not None
    return outcome.timing


def test_one_that_is_alone_takes_the_pieces_of_its_prompt_and_a_step_for_each_later_token() -> None:
    (outcome,) = run(arrival(1000.0, prompt=40, output=5))
    assert timing_of(outcome).ttft_ms == pytest.approx(3 * 20.2)
    assert timing_of(outcome).tpot_ms == pytest.approx(20.2)
    assert timing_of(outcome).e2e_ms == pytest.approx(7 * 20.2)
    assert (outcome.status, outcome.submodels) == ("done", {"XL": 5})


def test_who_comes_during_a_step_joins_the_next_one() -> None:
    first, second = run(arrival(0.0, output=3), arrival(1.0, output=1))
    assert timing_of(first).e2e_ms == pytest.approx(3 * 20.2)
    assert timing_of(second).ttft_ms == pytest.approx(2 * 20.2 - 1.0)
    assert timing_of(second).tpot_ms == 0


def test_who_finds_the_queue_full_is_rejected() -> None:
    outcomes = run(*(arrival(0.0) for _ in range(5)), arrival(1.0), arrival(150.0))
    assert [each.status for each in outcomes] == [*["done"] * 4, "rejected", "done", "done"]
    assert outcomes[4].timing is None
    assert outcomes[4].submodels == {}


def test_tokens_are_counted_by_the_submodel_that_made_them() -> None:
    tight = arrival(budget=Budget(e2e_ms=5 * 5.8 * 1.2))
    (outcome,) = run(tight, policy=policy_named("deadline"))
    assert outcome.met
    assert sum(outcome.submodels.values()) == 5
    assert outcome.submodels.keys() <= {"L", "M", "S"}


def test_a_policy_that_believes_in_a_faster_node_is_late_where_the_truth_would_have_told_it() -> None:
    tight = arrival(budget=Budget(e2e_ms=5 * 12.0))
    fooled = run(tight, node=replace(NODE, believed=FLAT.scaled(0.5)), policy=policy_named("idle-feasible"))
    told = run(tight, policy=policy_named("idle-feasible"))
    assert (fooled[0].submodels, fooled[0].met) == ({"XL": 5}, False)
    assert (told[0].submodels, told[0].met) == ({"L": 5}, True)


def test_noise_scales_steps_around_what_they_cost_and_comes_from_the_generator_alone() -> None:
    node = replace(NODE, noise=0.2)
    long = arrival(output=2000)
    first, again, other = (timing_of(run(long, node=node, seed=seed)[0]).e2e_ms for seed in (1, 1, 2))
    assert first == again != other
    assert first == pytest.approx(2000 * 20.2 * np.exp(0.2**2 / 2), rel=0.02)


@st.composite
def loads(draw: st.DrawFn) -> list[Arrival]:
    at_ms = sorted(draw(st.lists(st.floats(0, 2000), min_size=1, max_size=14)))
    limits = st.one_of(st.none(), st.floats(10, 2000))
    budgets = st.builds(Budget, ttft_ms=limits, tpot_ms=limits, e2e_ms=limits)
    sizes = st.integers(1, 40)
    return [arrival(each, prompt=draw(sizes), output=draw(sizes), budget=draw(budgets)) for each in at_ms]


@settings(max_examples=40)
@given(loads(), st.sampled_from(sorted(POLICIES)), st.sampled_from([None, 12]))
def test_nobody_is_lost_and_nobody_gets_more_or_less_than_what_was_asked_for(
    arrivals: list[Arrival], name: str, n_blocks: int | None
) -> None:
    """Even where the cache is so small that requests must make room for others."""
    node = replace(NODE, n_blocks=n_blocks, capacity=replace(NODE.capacity, slots=4), noise=0.1)
    outcomes = run(*arrivals, node=node, policy=policy_named(name))
    assert [each.arrival for each in outcomes] == arrivals
    for each in outcomes:
        if each.status == "rejected":
            continue
        timing = timing_of(each)
        assert sum(each.submodels.values()) == each.arrival.output_tokens
        assert 0 < timing.ttft_ms <= timing.e2e_ms
        assert each.budget or each.submodels == {"XL": each.arrival.output_tokens}
    again = run(*arrivals, node=node, policy=policy_named(name))
    assert again == outcomes


def test_steps_that_read_prompts_have_recorded_noise_of_their_own() -> None:
    node = replace(NODE, recorded=(2.0,), recorded_prompts=(3.0,))
    first, second = run(arrival(prompt=40, output=5), arrival(9 * 20.2 + 1.0, prompt=15, output=2), node=node)
    assert timing_of(first).ttft_ms == pytest.approx(3 * 3 * 20.2)
    assert timing_of(second).ttft_ms == pytest.approx((2 + 3) * 20.2 - 1.0)  # runs of steps are cut short for it
    assert timing_of(second).tpot_ms == pytest.approx(2 * 20.2)
