"""A whole load: arrivals of a trace, with lengths and budgets, all from one seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from benchmarks.load.budget_classes import BudgetClasses, Need, draw_budgets
from benchmarks.load.lengths import draw_lengths
from benchmarks.load.traces import Trace
from serve.simulate.arrival import Arrival

TIMES, LENGTHS, BUDGETS, PROMPTS = range(4)
"""Streams of random numbers of one seed, so that the n-th request has the same lengths at every rate."""


def make_load(
    trace: Trace,
    *,
    rate: float,
    seconds: float,
    seed: int,
    need: Need,
    context_length: int,
    classes: BudgetClasses,
) -> tuple[Arrival, ...]:
    """rate: requests per second. need: what budgets are multiples of."""
    times = trace(rate, seconds, np.random.default_rng([seed, TIMES]))
    lengths = draw_lengths(len(times), np.random.default_rng([seed, LENGTHS]), context_length=context_length)
    budgets = draw_budgets(lengths, np.random.default_rng([seed, BUDGETS]), need=need, classes=classes)
    return tuple(
        Arrival(at_ms=float(at_ms), prompt_tokens=int(prompt), output_tokens=int(output), budget=budget, klass=klass)
        for at_ms, (prompt, output), (klass, budget) in zip(times, lengths, budgets, strict=True)
    )


def make_prompts(arrivals: Iterable[Arrival], *, seed: int, vocab_size: int) -> Iterator[tuple[int, ...]]:
    """Random tokens: no two prompts share a beginning, and what they say costs nothing."""
    rng = np.random.default_rng([seed, PROMPTS])
    return (tuple(rng.integers(vocab_size, size=each.prompt_tokens).tolist()) for each in arrivals)
