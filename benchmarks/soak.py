"""A steady load for a long time: memory stays flat, nothing fails, steps go on being predicted well."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from benchmarks.load.budget_classes import BudgetClasses
from benchmarks.load.client_engine import Ask, Prompt, asking, replay
from benchmarks.load.client_http import asking as asking_url
from benchmarks.load.client_http import connected
from benchmarks.load.load import make_load, make_prompts
from benchmarks.load.local_model import LocalModel
from benchmarks.load.resident_memory import Growth, growth, sampled
from benchmarks.load.saturation import saturation_rate
from benchmarks.load.step_log import StepLog
from benchmarks.load.traces import poisson
from benchmarks.load.trial import engine_slowdown
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.named_policies import policy_named
from serve.simulate.arrival import Arrival
from serve.simulate.request_outcome import Outcome

SCHEMA = 1
LOAD = 0.8
Progress = Callable[[int, int], None]
"""Told how many requests are over, and of how many."""


@dataclass(frozen=True, kw_only=True)
class SoakResult:
    """rate: requests per second. attainment: of the requests with a budget. step_error: None of a server elsewhere."""

    load: float
    rate: float
    seconds: float
    requests: int
    rejected: int
    failed: int
    attainment: float | None
    steps: int | None
    step_error: float | None
    memory: Growth | None

    @property
    def lines(self) -> list[str]:
        """What a person wants to know."""
        found = [
            f"{self.requests} requests in {self.seconds / 60:.1f} minutes, {self.rate:.2f}/s ({self.load:g} of "
            f"saturation): {self.failed} failed, {self.rejected} rejected"
        ]
        if self.attainment is not None:
            found.append(f"budgets kept: {100 * self.attainment:.1f} %")
        if self.step_error is not None:
            found.append(f"steps: {self.steps}, median prediction error {100 * self.step_error:.1f} %; wanted 10 %")
        if self.memory is not None:
            verdict = "flat" if self.memory.is_flat else "GROWS"
            found.append(
                f"memory: {verdict}, {self.memory.mb_per_minute:+.3f} MB/min around {self.memory.mean_mb:.0f} MB, over "
                f"{self.memory.minutes:.1f} minutes"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "load": self.load,
            "rate": self.rate,
            "seconds": self.seconds,
            "requests": self.requests,
            "rejected": self.rejected,
            "failed": self.failed,
            "attainment": self.attainment,
            "steps": self.steps,
            "step_error": self.step_error,
            "memory": None if self.memory is None else self.memory.to_json(),
        }


def soak(
    model: LocalModel,
    *,
    costs: StepCosts,
    seconds: float,
    load: float = LOAD,
    policy: str = "deadline",
    url: str | None = None,
    pid: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> SoakResult:
    """url: a server of the same model on this node; None: an engine in this process. pid: whose memory counts.

    Saturation is that of an engine in this process in both cases; it works off a backlog first.
    """
    if url is not None and pid is None:
        raise LtsRayError("give the server's process with --pid: the memory that counts is its, not this one's")
    chosen = policy_named(policy)
    slowdown = engine_slowdown(model, costs)
    rate = load * saturation_rate(model.menu, costs, capacity=model.capacity) / slowdown
    arrivals = make_load(
        poisson,
        rate=rate,
        seconds=seconds,
        seed=seed,
        need=model.need(costs.scaled(slowdown)),
        context_length=model.capacity.context_length,
        classes=BudgetClasses(),
    )
    prompts = make_prompts(arrivals, seed=seed, vocab_size=model.config.vocab_size)
    tally: Counter[str] = Counter()

    def ended(number: int, outcome: Outcome) -> None:
        tally[outcome.status] += 1
        tally["with budget"] += bool(outcome.budget)
        tally["kept"] += bool(outcome.budget) and outcome.met
        progress(tally["done"] + tally["rejected"] + tally["failed"], len(arrivals))

    log = StepLog()
    samples: list[tuple[float, int]] = []
    gc.collect()
    if url is None:
        engine = model.engine(costs=costs, policy=chosen, observer=log)
        engine.start()
        try:
            asyncio.run(_watched(asking(engine), arrivals, prompts, samples, ended, engine.clock, pid=None))
        finally:
            engine.stop()
    else:
        asyncio.run(_watched_url(url, arrivals, prompts, samples, ended, pid=pid))
    return SoakResult(
        load=load,
        rate=rate,
        seconds=seconds,
        requests=len(arrivals),
        rejected=tally["rejected"],
        failed=tally["failed"],
        attainment=tally["kept"] / tally["with budget"] if tally["with budget"] else None,
        steps=log.steps if url is None else None,
        step_error=log.median_error,
        memory=growth(samples),
    )


async def _watched(
    ask: Ask,
    arrivals: Iterable[Arrival],
    prompts: Iterable[Prompt],
    samples: list[tuple[float, int]],
    ended: Callable[[int, Outcome], None],
    clock: Callable[[], float],
    *,
    pid: int | None,
) -> None:
    watcher = asyncio.create_task(sampled(samples, clock=clock, pid=pid))
    try:
        await replay(ask, arrivals, prompts, clock=clock, ended=ended)
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


async def _watched_url(
    url: str,
    arrivals: Iterable[Arrival],
    prompts: Iterable[Prompt],
    samples: list[tuple[float, int]],
    ended: Callable[[int, Outcome], None],
    *,
    pid: int | None,
) -> None:
    async with connected(url) as client:
        ask = await asking_url(client)
        await _watched(ask, arrivals, prompts, samples, ended, monotonic, pid=pid)
