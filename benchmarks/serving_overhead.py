"""What HTTP and Ray Serve add to the engine: the same requests to a server's URL and to an engine in this process.

Both hold the same model with the same settings, on the same node, and take turns: the one idles while the other works.
First single requests, for the time to the first token, then as many streams at once as run together. In the engine's
place another server may stand: then it is what one adds to the other, as an ingress does to a single deployment.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from time import monotonic
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import run_benchmark, shown_progress
from benchmarks.common.turns import Progress, turns
from benchmarks.load import load_options as options
from benchmarks.load.clients import Ask, Prompt, engine_client, server_client
from benchmarks.load.local_model import LoadCapacity, LocalModel, running
from lts_ray.cli.options import Model, Seed
from lts_ray.errors import LtsRayError
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import Clock
from serve.policies.budget import NO_BUDGET, Timing
from serve.policies.fixed import FixedPolicy
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import NO_CLASS

SCHEMA = 1
ENGINE, HTTP = "engine", "http"


@dataclass(frozen=True, kw_only=True)
class OverheadResult:
    """By "engine" and "http"."""

    ttft_ms: dict[str, list[float]]
    """Of each single request."""
    at_once_ms: dict[str, list[float]]
    """The same of each stream."""
    tokens_s: dict[str, list[float]]
    """Of each round of streams."""
    streams: int
    base: str = "the engine"
    """What stands under "engine"."""

    @property
    def added_ms(self) -> tuple[float, ...]:
        """Alone, and with all streams at once."""
        return tuple(median(ms[HTTP]) - median(ms[ENGINE]) for ms in (self.ttft_ms, self.at_once_ms))

    @property
    def lost(self) -> float:
        """Median over the rounds of the share of tokens per second that is lost."""
        pairs = zip(self.tokens_s[HTTP], self.tokens_s[ENGINE], strict=True)
        return median(1 - http / engine for http, engine in pairs)

    @property
    def lines(self) -> list[str]:
        ttft_ms = {way: median(values) for way, values in self.ttft_ms.items()}
        tokens_s = {way: median(values) for way, values in self.tokens_s.items()}
        return [
            f"the first token comes {self.added_ms[0]:.2f} ms later over HTTP (p50 {ttft_ms[HTTP]:.2f} ms, {self.base} "
            f"{ttft_ms[ENGINE]:.2f} ms, {len(self.ttft_ms[HTTP])} requests), {self.added_ms[1]:.2f} ms of streams",
            f"{self.streams} streams lose {100 * self.lost:.1f} % ({tokens_s[HTTP]:.1f} tokens/s over HTTP, "
            f"{tokens_s[ENGINE]:.1f} of {self.base}, {len(self.tokens_s[HTTP])} rounds)",
        ]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "added_ms": self.added_ms, "lost": self.lost, **asdict(self)}


def measure_overhead(
    url: str,
    model: LocalModel,
    *,
    costs: StepCosts | None,
    beside: str | None = None,
    rounds: int,
    singles: int,
    streams: int,
    prompt_tokens: int,
    tokens: int,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> OverheadResult:
    """costs: of the engine's steps. beside: a server's URL, in place of the engine, which needs no costs then.

    singles: requests of a round that are sent one after the other. streams: those that are sent at once.

    All without budgets, so by the universal model. A round that only warms up comes first.
    """
    if prompt_tokens + tokens > model.capacity.context_length:
        raise LtsRayError(
            f"{prompt_tokens} prompt tokens and {tokens} more do not fit the context of {model.capacity.context_length}"
        )
    engine = None if costs is None else model.engine(costs=costs, policy=FixedPolicy())
    rng = np.random.default_rng(seed)

    def prompts(count: int) -> list[Prompt]:
        return [tuple(row) for row in rng.integers(model.config.vocab_size, size=(count, prompt_tokens)).tolist()]

    async def measure() -> OverheadResult:
        ttft_ms: dict[str, list[float]] = {ENGINE: [], HTTP: []}
        at_once_ms: dict[str, list[float]] = {ENGINE: [], HTTP: []}
        tokens_s: dict[str, list[float]] = {ENGINE: [], HTTP: []}
        async with server_client(url) as ask_server, server_client(beside or url) as ask_beside:
            base = (ask_beside, monotonic) if engine is None else (engine_client(engine), engine.clock)
            ways: dict[str, tuple[Ask, Clock]] = {ENGINE: base, HTTP: (ask_server, monotonic)}
            for turn in turns(ways, ("singles", "streams"), rounds=rounds, warmup=1, progress=progress):
                ask, clock = ways[turn.way]
                if turn.task == "singles":
                    first_ms = [(await _timed(ask, prompt, 2, clock())).ttft_ms for prompt in prompts(singles)]
                    ttft_ms[turn.way] += first_ms if turn.counts else []
                else:
                    begin_s = clock()
                    timings = await asyncio.gather(*(_timed(ask, each, tokens, begin_s) for each in prompts(streams)))
                    if turn.counts:
                        tokens_s[turn.way].append(1e3 * tokens * streams / max(timing.e2e_ms for timing in timings))
                        at_once_ms[turn.way] += [timing.ttft_ms for timing in timings]
        named = {} if beside is None else {"base": beside}
        return OverheadResult(ttft_ms=ttft_ms, at_once_ms=at_once_ms, tokens_s=tokens_s, streams=streams, **named)

    with nullcontext() if engine is None else running(engine):
        return asyncio.run(measure())


async def _timed(ask: Ask, prompt: Prompt, tokens: int, due_s: float) -> Timing:
    arrival = Arrival(at_ms=0.0, prompt_tokens=len(prompt), output_tokens=tokens, budget=NO_BUDGET, klass=NO_CLASS)
    outcome = await ask(arrival, prompt, due_s)
    if outcome.timing is None or sum(outcome.submodels.values()) != tokens:
        raise LtsRayError(f"a request {outcome.status}: leave the endpoint alone while it is measured, see its log")
    return outcome.timing


def serving_overhead(
    url: Annotated[str, typer.Option(help="A server of the same model and settings on this node.")],
    beside: Annotated[str | None, typer.Option(help="Another server, in place of the engine.")] = None,
    model: Model = DEFAULT_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the server and the engine take turns.")] = 5,
    singles: Annotated[int, typer.Option(min=1, help="Requests of a round one by one, for the first token.")] = 10,
    streams: Annotated[int, typer.Option(min=1, help="Requests of a round at once, for tokens per second.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt, drawn at random.")] = 32,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the response to each request of --streams.")] = 64,
    slots: options.Slots = LoadCapacity.slots,
    chunk_tokens: options.ChunkTokens = LoadCapacity.chunk_tokens,
    threads: options.Threads = None,
    calibration: options.Calibration = options.CALIBRATION_S,
    costs: options.Costs = None,
    seed: Seed = 0,
) -> None:
    """What HTTP and Ray Serve add to the engine's time to the first token, and take of its tokens per second."""
    capacity = LoadCapacity(
        context_length=options.CONTEXT, slots=slots, max_queue=max(64, streams), chunk_tokens=chunk_tokens
    )
    local = LocalModel(model, capacity=capacity, threads=threads)
    known = None if beside else options.read_costs(costs) or local.calibrate(calibration)
    with shown_progress("asking") as progress:
        result = measure_overhead(
            url,
            local,
            costs=known,
            beside=beside,
            rounds=rounds,
            singles=singles,
            streams=streams,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            seed=seed,
            progress=progress,
        )
    print("\n".join(result.lines))
    print(json.dumps(result.to_json()))


if __name__ == "__main__":
    run_benchmark(serving_overhead)
