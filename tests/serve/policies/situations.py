"""What tests of policies share: the tiny menu, costs that can be added up by hand, and jobs in any state."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from lts_ray.runtime.step_costs import PlaneCosts, StepCosts
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.capacity import Capacity
from serve.policies.menu import Option, menu_of_granularities
from serve.policies.policy import Job, Situation
from serve.policies.request import Request
from tests.serve.models import CONFIG, tiny_menu

MENU = tiny_menu()  # neurons: S 24, M 48, L 96, XL 192
S, M, L, XL = (MENU.named[name] for name in ("S", "M", "L", "XL"))

FLAT = StepCosts(grid=(1, 1000), base=(1.0, 1.0), neuron=(0.1, 0.1), head=(0.0, 0.0), attended=0.0)
"""Rows cost nothing, widths do: a step takes 3.4, 5.8, 10.6 or 20.2 ms, as wide as its widest row."""

RISING = StepCosts(
    grid=(1, 4, 64),
    base=(2.0, 2.0, 20.0),
    neuron=(0.05, 0.06, 0.5),
    head=(0.5, 0.7, 4.0),
    attended=0.01,
    prompt_attended=0.003,
    slowdown=1.5,
    prompt_slowdown=1.25,
    overhead_ms=0.25,
)

STAIRS = replace(
    RISING,
    grid=(1, 2, 3, 4, 5, 8),
    base=(2.0, 2.0, 3.0, 3.0, 5.0, 5.0),
    neuron=(0.05, 0.05, 0.06, 0.06, 0.08, 0.08),
    head=(0.5, 0.5, 0.5, 0.5, 1.0, 1.0),
)
"""Rows are padded to 1, 2, 4 or 8."""

LOSSES = {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0, "S@int8": 4.01, "M@int8": 3.01, "L@int8": 2.01, "XL@int8": 1.01}
LOSSES |= {"S@int4": 4.1, "M@int4": 3.1, "L@int4": 2.1, "XL@int4": 1.1}
MIXED = menu_of_granularities(CONFIG, LOSSES, precisions=("float32", "int8", "int4"))
MIXED = replace(MIXED, elastic=tuple(sorted(MIXED.options, key=lambda option: option.shortfall)))
"""The same widths, each at three precisions, whether worth it or not."""

PLANES = replace(
    RISING,
    beside=(
        PlaneCosts(plane="upper", base=(0.5, 0.7, 20.0), neuron=(0.01, 0.03, 0.6), head=(0.1, 0.3, 4.5)),
        PlaneCosts(plane="lower", base=(0.4, 0.4, 0.5), neuron=(0.02, 0.02, 0.03), head=(0.1, 0.1, 0.2)),
    ),
    once=0.3,
)
"""Few rows cost what they read, many what they compute."""


def waiting_job(
    id: int,
    *,
    budget: Budget = NO_BUDGET,
    arrived_ms: float = 0.0,
    prompt_tokens: int = 4,
    max_tokens: int = 10,
    pinned: Option | None = None,
    priority: int = 0,
) -> Job:
    prompt = (0,) * prompt_tokens
    return Job(
        id=id,
        request=Request(prompt=prompt, max_tokens=max_tokens, budget=budget, pinned=pinned, priority=priority),
        arrived_ms=arrived_ms,
    )


def with_budget(job: Job, budget: Budget) -> Job:
    return replace(job, request=replace(job.request, budget=budget))


def running_job(
    id: int,
    *,
    budget: Budget = NO_BUDGET,
    remaining: int = 10,
    produced: int = 1,
    first_ms: float = 0.0,
    option: Option | None = None,
    pinned: Option | None = None,
) -> Job:
    """In the middle of its response; it came at 0 with 4 tokens."""
    job = waiting_job(id, budget=budget, max_tokens=produced + remaining, pinned=pinned)
    return replace(job, cached=4 + produced - 1, produced=produced, first_ms=first_ms, option=option)


def situation_of(
    *,
    running: tuple[Job, ...] = (),
    waiting: tuple[Job, ...] = (),
    now_ms: float = 0.0,
    slots: int = 4,
    chunk: int = 16,
) -> Situation:
    return Situation(
        now_ms=now_ms, running=running, waiting=waiting, capacity=Capacity(slots=slots, chunk_tokens=chunk)
    )


def with_priority(job: Job, priority: int) -> Job:
    return replace(job, request=replace(job.request, priority=priority))


def later(job: Job, *, now_ms: float, option: Option) -> Job:
    """After a step with all that it waited for in it."""
    return replace(
        job,
        cached=job.cached + job.pending,
        produced=job.produced + 1,
        first_ms=now_ms if job.first_ms is None else job.first_ms,
        option=option,
    )


limits = st.one_of(st.none(), st.floats(1, 2000))
budgets = st.builds(Budget, ttft_ms=limits, tpot_ms=st.one_of(st.none(), st.floats(1, 60)), e2e_ms=limits)
pins = st.sampled_from([None, None, None, S, XL, MIXED.named["S@int8"], MIXED.named["L@int4"]])


@st.composite
def jobs(draw: st.DrawFn, id: int, *, runs: bool) -> Job:
    job = waiting_job(
        id,
        budget=draw(budgets),
        arrived_ms=draw(st.floats(0, 500)),
        prompt_tokens=draw(st.integers(1, 40)),
        max_tokens=draw(st.integers(1, 30)),
        pinned=draw(pins),
    )
    produced = draw(st.integers(0, job.request.max_tokens - 1))
    if produced:
        first_ms = job.arrived_ms + draw(st.floats(0, 400))
        job = replace(job, produced=produced, first_ms=first_ms, option=draw(st.sampled_from([S, M, L, XL])))
    if not runs:
        return job
    whole = len(job.request.prompt) + job.produced
    cached = whole - 1 if produced and draw(st.booleans()) else draw(st.integers(0, whole - 1))
    return replace(job, cached=cached)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    slots = draw(st.integers(1, 5))
    running = tuple(draw(jobs(id, runs=True)) for id in range(draw(st.integers(0, slots))))
    waiting = tuple(draw(jobs(100 + id, runs=False)) for id in range(draw(st.integers(0, 6))))
    waiting = tuple(sorted(waiting, key=lambda job: job.arrived_ms))
    return Situation(
        now_ms=draw(st.floats(500, 1500)),
        running=running,
        waiting=waiting,
        capacity=Capacity(slots=slots, chunk_tokens=draw(st.integers(slots + 1, 24))),
    )
