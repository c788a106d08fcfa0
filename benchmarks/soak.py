"""A steady load for a long time: how much memory grows, what fails, and how well steps go on being predicted."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import run_benchmark, shown_progress
from benchmarks.common.turns import Progress
from benchmarks.load import load_options as options
from benchmarks.load.clients import Ask, engine_client, replay_load, server_client
from benchmarks.load.engine_slowdown import engine_slowdown
from benchmarks.load.local_model import LoadCapacity, LocalModel, running
from benchmarks.load.step_log import StepLog
from lts_ray.cli.options import Model, Seed
from lts_ray.errors import LtsRayError
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import Clock
from serve.policies.named_policies import policy_named
from serve.simulate.request_outcome import Outcome
from serve.traffic.budget_classes import BudgetClasses
from serve.traffic.load import make_load, make_prompts
from serve.traffic.traces import poisson

SCHEMA = 1
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SETTLING = 0.2
"""The first part of a run does not count: pools fill, code is loaded, the allocator finds its level."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Of what counts of a run."""

    minutes: float
    mean_mb: float
    """MiB."""
    mb_per_minute: float
    """Of the line through the samples."""

    @property
    def share(self) -> float:
        """What the line rises by, over the mean."""
        return self.mb_per_minute * self.minutes / self.mean_mb


@dataclass(frozen=True, kw_only=True)
class SoakResult:
    load: float
    """In multiples of the universal model's saturation."""
    rate: float
    """Requests per second."""
    seconds: float
    requests: int
    rejected: int
    failed: int
    attainment: float | None
    """Of the requests with a budget, the share whose budget was kept."""
    steps: int | None
    """None of a server elsewhere, as the error of their predicted times."""
    step_error: float | None
    memory: Growth | None

    @property
    def lines(self) -> list[str]:
        """What a person wants to know."""
        lines = [
            f"{self.requests} requests in {self.seconds / 60:.1f} minutes, {self.rate:.2f}/s ({self.load:g} of "
            f"saturation): {self.failed} failed, {self.rejected} rejected"
        ]
        if self.attainment is not None:
            lines.append(f"budgets kept: {100 * self.attainment:.1f} %")
        if self.step_error is not None:
            lines.append(f"steps: {self.steps}, median prediction error {100 * self.step_error:.1f} %")
        if self.memory is not None:
            lines.append(
                f"memory: {self.memory.mb_per_minute:+.3f} MB/min around {self.memory.mean_mb:.0f} MB, "
                f"{100 * self.memory.share:+.2f} % in {self.memory.minutes:.1f} minutes"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        memory = None if self.memory is None else {**asdict(self.memory), "share": self.memory.share}
        return {"schema": SCHEMA, **asdict(self), "memory": memory}


def measure_soak(
    model: LocalModel,
    *,
    costs: StepCosts,
    seconds: float,
    load: float,
    policy: str,
    url: str | None = None,
    pid: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> SoakResult:
    """url: a server of the same model on this node; None: an engine in this process. pid: whose memory counts.

    Saturation is that of an engine in this process in both cases; it works off a backlog first. `progress` is told how
    many requests are over, and of how many.
    """
    if url is not None and pid is None:
        raise LtsRayError("give the server's process with --pid: the memory that counts is its, not this one's")
    chosen = policy_named(policy)
    slowdown = engine_slowdown(model, costs)
    rate = load * model.saturation(costs) / slowdown
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
    samples: list[tuple[float, int]] = []
    log = StepLog()

    def ended(number: int, outcome: Outcome) -> None:
        tally[outcome.status] += 1
        tally["with budget"] += bool(outcome.budget)
        tally["kept"] += bool(outcome.budget) and outcome.met
        progress(tally["done"] + tally["rejected"] + tally["failed"], len(arrivals))

    async def watched(ask: Ask, clock: Clock) -> None:
        watcher = asyncio.create_task(sampled(samples, clock=clock, pid=pid if url else None))
        try:
            await replay_load(ask, arrivals, prompts, clock=clock, ended=ended)
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def watched_server(url: str) -> None:
        async with server_client(url) as ask:
            await watched(ask, monotonic)

    gc.collect()
    if url is None:
        with running(model.engine(costs=costs, policy=chosen, observer=log)) as engine:
            asyncio.run(watched(engine_client(engine), engine.clock))
    else:
        asyncio.run(watched_server(url))
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


def resident_bytes(pid: int | None = None) -> int:
    """pid: None for this process."""
    path = Path("/proc") / ("self" if pid is None else str(pid)) / "statm"
    try:
        return int(path.read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except OSError as error:
        raise LtsRayError(f"cannot read the memory of process {pid or os.getpid()}: {error}") from None


async def sampled(
    samples: list[tuple[float, int]], *, clock: Clock, pid: int | None = None, every_s: float = 1.0
) -> None:
    """Append (seconds since the start, resident bytes) until cancelled."""
    begin_s = clock()
    while True:
        samples.append((clock() - begin_s, resident_bytes(pid)))
        await asyncio.sleep(every_s)


def growth(samples: Sequence[tuple[float, int]]) -> Growth | None:
    """None where there are not two samples that count."""
    end_s = samples[-1][0] if samples else 0.0
    counted = np.array([sample for sample in samples if sample[0] >= SETTLING * end_s])  # [N, 2]
    if len(counted) < 2:
        return None
    minutes, megabytes = counted[:, 0] / 60, counted[:, 1] / 2**20
    slope, _ = np.polyfit(minutes, megabytes, 1)
    return Growth(
        minutes=float(minutes[-1] - minutes[0]),
        mean_mb=float(megabytes.mean()),
        mb_per_minute=float(slope),
    )


def soak(
    minutes: Annotated[float, typer.Option("--minutes", "-n", min=0.01, help="How long the load lasts.")] = 30.0,
    load: Annotated[float, typer.Option(min=0.01, help="In multiples of the universal model's saturation.")] = 0.8,
    policy: Annotated[str, typer.Option(help="Name of the policy, as in the server's configuration.")] = "deadline",
    model: Model = DEFAULT_MODEL,
    url: Annotated[str | None, typer.Option(help="A server of the same model; default: an engine here.")] = None,
    pid: Annotated[int | None, typer.Option(help="With --url: the process whose memory is watched.")] = None,
    frontier: options.Frontier = None,
    target: options.TargetName = None,
    context: options.Context = options.CONTEXT,
    slots: options.Slots = LoadCapacity.slots,
    max_queue: options.MaxQueue = LoadCapacity.max_queue,
    chunk_tokens: options.ChunkTokens = LoadCapacity.chunk_tokens,
    threads: options.Threads = None,
    calibration: options.Calibration = options.CALIBRATION_S,
    costs: options.Costs = None,
    seed: Seed = 0,
) -> None:
    """A steady load for a long time: how much memory grows, and what fails."""
    capacity = LoadCapacity(context_length=context, slots=slots, max_queue=max_queue, chunk_tokens=chunk_tokens)
    local = LocalModel(model, capacity=capacity, threads=threads, frontier=frontier, target=target)
    known = options.read_costs(costs) or local.calibrate(calibration)
    with shown_progress("soaking") as progress:
        result = measure_soak(
            local,
            costs=known,
            seconds=60 * minutes,
            load=load,
            policy=policy,
            url=url,
            pid=pid,
            seed=seed,
            progress=progress,
        )
    print("\n".join(result.lines))
    print(json.dumps(result.to_json()))


if __name__ == "__main__":
    run_benchmark(soak)
