"""What HTTP and Ray Serve add to the engine: the same requests to a server's URL and to an engine in this process.

Both hold the same model with the same settings, on the same node, and take turns: the one idles while the other works.
First single requests, for the time to the first token, then as many streams at once as run together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.load.budget_classes import NO_CLASS
from benchmarks.load.client_engine import Ask, asking
from benchmarks.load.client_http import asking as asking_url
from benchmarks.load.client_http import connected
from benchmarks.load.local_model import LocalModel
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET, Timing
from serve.policies.fixed import FixedPolicy
from serve.simulate.arrival import Arrival
from serve.simulate.request_outcome import Outcome

SCHEMA = 1
ADDED_MS, LOST = 10.0, 0.1
"""What is wanted: at most so much more to the first token at p50, and less than this share of the tokens per second."""
Progress = Callable[[int, int], None]
"""Told how many rounds are done, and of how many."""
ENGINE, HTTP = "engine", "http"


@dataclass(frozen=True, kw_only=True)
class EndpointResult:
    """By "engine" and "http". ttft_ms: of each single request. tokens_s: of each round of streams."""

    ttft_ms: dict[str, list[float]]
    tokens_s: dict[str, list[float]]
    streams: int

    @property
    def added_ms(self) -> float:
        return median(self.ttft_ms[HTTP]) - median(self.ttft_ms[ENGINE])

    @property
    def lost(self) -> float:
        """Median over the rounds of the share of tokens per second that is lost."""
        pairs = zip(self.tokens_s[HTTP], self.tokens_s[ENGINE], strict=True)
        return median(1 - http / engine for http, engine in pairs)

    @property
    def lines(self) -> list[str]:
        http, engine = median(self.ttft_ms[HTTP]), median(self.ttft_ms[ENGINE])
        streamed, alone = median(self.tokens_s[HTTP]), median(self.tokens_s[ENGINE])
        return [
            f"{'holds' if self.added_ms <= ADDED_MS else 'MISSED'}: the first token comes {self.added_ms:.2f} ms later "
            f"over HTTP (p50 {http:.2f} ms, engine {engine:.2f} ms, {len(self.ttft_ms[HTTP])} requests); wanted at "
            f"most {ADDED_MS:g} ms",
            f"{'holds' if self.lost < LOST else 'MISSED'}: {self.streams} streams lose {100 * self.lost:.1f} % "
            f"({streamed:.1f} tokens/s over HTTP, {alone:.1f} in the engine, {len(self.tokens_s[HTTP])} rounds); "
            f"wanted less than {100 * LOST:g} %",
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "added_ms": round(self.added_ms, 3),
            "lost": round(self.lost, 4),
            "streams": self.streams,
            "ttft_ms": {way: [round(each, 3) for each in found] for way, found in self.ttft_ms.items()},
            "tokens_s": {way: [round(each, 2) for each in found] for way, found in self.tokens_s.items()},
        }


def measure_endpoint(
    url: str,
    model: LocalModel,
    *,
    costs: StepCosts,
    rounds: int = 5,
    singles: int = 10,
    streams: int = 8,
    prompt_tokens: int = 32,
    tokens: int = 64,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> EndpointResult:
    """singles: requests of a round that are sent one after the other. streams: those that are sent at once.

    All without budgets, so by the universal model. A round that only warms up comes first.
    """
    if prompt_tokens + tokens > model.capacity.context_length:
        raise LtsRayError(
            f"{prompt_tokens} prompt tokens and {tokens} more do not fit the context of {model.capacity.context_length}"
        )
    engine = model.engine(costs=costs, policy=FixedPolicy())
    rng = np.random.default_rng(seed)

    def prompts(count: int) -> list[tuple[int, ...]]:
        return [tuple(row) for row in rng.integers(model.config.vocab_size, size=(count, prompt_tokens)).tolist()]

    async def measure() -> EndpointResult:
        ttft_ms: dict[str, list[float]] = {ENGINE: [], HTTP: []}
        tokens_s: dict[str, list[float]] = {ENGINE: [], HTTP: []}
        async with connected(url) as client:
            ways: dict[str, tuple[Ask, Callable[[], float]]] = {
                ENGINE: (asking(engine), engine.clock),
                HTTP: (await asking_url(client), monotonic),
            }
            for number in range(rounds + 1):
                order = list(ways) if number % 2 else list(reversed(ways))
                for way in order:
                    found = await _singles(*ways[way], prompts(singles), prompt_tokens)
                    if number > 0:
                        ttft_ms[way] += found
                for way in order:
                    rate = await _streams(*ways[way], prompts(streams), prompt_tokens, tokens)
                    if number > 0:
                        tokens_s[way].append(rate)
                progress(number, rounds)
        return EndpointResult(ttft_ms=ttft_ms, tokens_s=tokens_s, streams=streams)

    engine.start()
    try:
        return asyncio.run(measure())
    finally:
        engine.stop()


async def _singles(
    ask: Ask, clock: Callable[[], float], prompts: Sequence[tuple[int, ...]], prompt_tokens: int
) -> list[float]:
    found = []
    for prompt in prompts:
        outcome = await ask(_arrival(prompt_tokens, 2), prompt, clock())
        found.append(_timing_of(outcome).ttft_ms)
    return found


async def _streams(
    ask: Ask, clock: Callable[[], float], prompts: Sequence[tuple[int, ...]], prompt_tokens: int, tokens: int
) -> float:
    """Tokens per second of all together, from the first request to the last token."""
    begin_s = clock()
    outcomes = await asyncio.gather(*(ask(_arrival(prompt_tokens, tokens), prompt, begin_s) for prompt in prompts))
    last_ms = max(_timing_of(each).e2e_ms for each in outcomes)
    return 1e3 * sum(sum(each.submodels.values()) for each in outcomes) / last_ms


def _arrival(prompt_tokens: int, output_tokens: int) -> Arrival:
    return Arrival(
        at_ms=0.0, prompt_tokens=prompt_tokens, output_tokens=output_tokens, budget=NO_BUDGET, klass=NO_CLASS
    )


def _timing_of(outcome: Outcome) -> Timing:
    if outcome.timing is None:
        raise LtsRayError(f"a request {outcome.status}: leave the endpoint alone while it is measured, see its log")
    return outcome.timing
