"""A whole load: arrivals of a trace, with lengths and budgets, all from one seed.

How long prompts and responses are is a mixture of kinds of request, each lognormal around its medians.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lts_ray.errors import LtsRayError
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses, Need, draw_budgets
from serve.traffic.traces import Times, Trace

TIMES, LENGTHS, BUDGETS, PROMPTS = range(4)
"""Streams of random numbers of one seed, so that the n-th request has the same lengths at every rate."""
MIN_CONTEXT = 8


@dataclass(frozen=True, kw_only=True)
class RequestKind:
    name: str
    share: float
    """Of all requests."""
    prompt_tokens: int
    """The median, as that of `output_tokens`."""
    output_tokens: int
    spread: float = 0.5
    """The standard deviation of both lengths' logarithms: 0.5 puts two thirds within a factor of 1.6."""


MIXTURE = (
    RequestKind(name="chat", share=0.6, prompt_tokens=32, output_tokens=48),
    RequestKind(name="document", share=0.2, prompt_tokens=224, output_tokens=32),
    RequestKind(name="code", share=0.2, prompt_tokens=96, output_tokens=80),
)
"""Short enough for two cores and a context of 512; most of the time goes to decoding, as with larger models."""


def draw_lengths(
    count: int, rng: np.random.Generator, *, context_length: int, mixture: Sequence[RequestKind] = MIXTURE
) -> NDArray[np.int64]:
    """Prompt and response of each request, [count, 2]. Together they fit the context.

    A prompt takes three quarters of the context at most; a response has two tokens at least, so that it has a TPOT.
    """
    if context_length < MIN_CONTEXT:
        raise LtsRayError(f"a load needs a context of at least {MIN_CONTEXT} tokens; got {context_length}")
    uniform = rng.uniform(size=(count, 3))  # row by row: the n-th request is the same whatever the count
    below = np.cumsum([kind.share for kind in mixture])
    kinds = np.searchsorted(below[:-1] / below[-1], uniform[:, 0], side="right")
    medians = np.array([(kind.prompt_tokens, kind.output_tokens) for kind in mixture])[kinds]
    spreads = np.array([kind.spread for kind in mixture])[kinds, None]
    drawn = np.rint(medians * np.exp(spreads * ndtri(uniform[:, 1:]))).astype(np.int64)
    prompt = np.clip(drawn[:, 0], 1, context_length * 3 // 4)
    output = np.clip(drawn[:, 1], 2, context_length - prompt)
    return np.stack([prompt, output], axis=1)


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
    return load_of(times, lengths, seed=seed, need=need, classes=classes)


def load_of(
    times: Times, lengths: NDArray[np.int64], *, seed: int, need: Need, classes: BudgetClasses
) -> tuple[Arrival, ...]:
    """times: [N], growing. lengths: [N, 2], as `draw_lengths` gives them."""
    budgets = draw_budgets(lengths, np.random.default_rng([seed, BUDGETS]), need=need, classes=classes)
    return tuple(
        Arrival(at_ms=float(at_ms), prompt_tokens=int(prompt), output_tokens=int(output), budget=budget, klass=klass)
        for at_ms, (prompt, output), (klass, budget) in zip(times, lengths, budgets, strict=True)
    )


def make_prompts(arrivals: Iterable[Arrival], *, seed: int, vocab_size: int) -> Iterator[tuple[int, ...]]:
    """Random tokens: no two prompts share a beginning, and what they say costs nothing."""
    rng = np.random.default_rng([seed, PROMPTS])
    return (tuple(rng.integers(vocab_size, size=arrival.prompt_tokens).tolist()) for arrival in arrivals)
