"""Situations of all kinds, and what Python says of them where the compiled code is not asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hypothesis import strategies as st

from lts_ray.runtime.step_costs import StepCosts
from serve.policies import compiled
from serve.policies.budget import Budget
from serve.policies.capacity import Capacity
from serve.policies.deviation import Deviation
from serve.policies.policy import Job, Situation
from serve.policies.request import Request
from tests.serve.policies.situations import FLAT, MIXED, PLANES, RISING, STAIRS

T = TypeVar("T")
bounds = st.none() | st.floats(-50, 2000)
any_budgets = st.builds(Budget, ttft_ms=bounds, tpot_ms=st.none() | st.floats(0, 60), e2e_ms=bounds)
any_costs = st.sampled_from(
    [
        FLAT,
        RISING,
        PLANES,
        STAIRS,
        StepCosts(grid=(1,), base=(0.5,), neuron=(0.01,), head=(0.1,), attended=0.001, overhead_ms=1.0),
    ]
)
deviations = st.sampled_from(
    [
        Deviation(horizons_ms=(1.0,), likely=((1.0,),) * 3, safe=((1.15,),) * 3),
        Deviation(
            horizons_ms=(1.0, 16.0, 256.0),
            likely=((1.0, 1.1, 1.05), (0.9, 1.0, 1.0), (1.2, 1.0, 1.0)),
            safe=((3.0, 1.5, 1.2), (2.0, 1.4, 1.1), (2.5, 1.2, 1.15)),
        ),
    ]
)


@st.composite
def job(draw: st.DrawFn, id: int, *, runs: bool, priorities: st.SearchStrategy[int]) -> Job:
    prompt, most = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    pinned = draw(st.none() | st.sampled_from(list(MIXED.options)))
    request = Request(
        prompt=(0,) * prompt,
        max_tokens=most,
        budget=draw(any_budgets),
        pinned=pinned,
        priority=draw(priorities),
    )
    arrived_ms = draw(st.floats(0, 1000))
    produced = draw(st.integers(0, most - 1)) if draw(st.booleans()) else 0
    length = prompt + produced
    cached = draw(st.sampled_from([length - 1, draw(st.integers(0, length - 1))])) if runs else 0
    first_ms = arrived_ms + draw(st.floats(0, 500)) if produced else None
    return Job(id=id, request=request, arrived_ms=arrived_ms, cached=cached, produced=produced, first_ms=first_ms)


@st.composite
def any_situations(draw: st.DrawFn) -> Situation:
    slots = draw(st.integers(1, 6))
    priorities = draw(st.sampled_from([st.just(0), st.integers(-1, 1)]))
    running = [draw(job(id, runs=True, priorities=priorities)) for id in range(draw(st.integers(0, slots)))]
    waiting = [draw(job(id, runs=False, priorities=priorities)) for id in range(100, 100 + draw(st.integers(0, 9)))]
    chunk_tokens = draw(st.integers(slots, 60))
    return Situation(
        now_ms=1000.0 + draw(st.floats(0, 500)),
        running=tuple(running),
        waiting=tuple(sorted(waiting, key=lambda job: job.arrived_ms)),
        capacity=Capacity(slots=slots, chunk_tokens=chunk_tokens),
        deviation=draw(deviations),
    )


@contextmanager
def uncompiled() -> Iterator[None]:
    decision, compiled.decision = compiled.decision, None
    try:
        yield
    finally:
        compiled.decision = decision


def both(act: Callable[[], T]) -> tuple[T, T]:
    with uncompiled():
        slow = act()
    return act(), slow
