"""Ways to decode, and how long the steps of each take.

All ways take turns, and each is timed for whole responses and for responses of one token: the difference is what the
steps take that make a token for every sequence. So reading the prompt, and what a library does once for a call, are in
no figure, whether or not the library says when its first token came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from statistics import fmean, median

from benchmarks.common.turns import Progress, turns
from lts_ray.errors import LtsRayError
from lts_ray.timing import Clock

Prompts = Sequence[Sequence[int]]
Decode = Callable[[Prompts, int], list[list[int]]]
"""Of prompts and a number of tokens to exactly so many tokens for each, whatever ends a text."""
RUNTIME, ENGINE = "lts-ray runtime", "lts-ray engine"
TRANSFORMERS, CONTINUOUS, CTRANSLATE2 = "transformers generate", "transformers continuous batching", "CTranslate2"


@dataclass(frozen=True, order=True)
class Way:
    engine: str
    """Which library decodes, by the name that results use."""
    submodel: str


@dataclass(frozen=True, kw_only=True)
class DecodeWork:
    """What is asked of each way to decode."""

    submodels: Sequence[str]
    batches: Sequence[int]
    """Sequences at once."""
    prompt_tokens: int
    new_tokens: int
    threads: int

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, kw_only=True)
class DecodeTimes:
    """One way with so many sequences at once."""

    way: Way
    batch: int
    new_tokens: int
    whole_ms: tuple[float, ...]
    """Of responses of new_tokens, round by round."""
    first_ms: tuple[float, ...]
    """Of responses of one token."""
    agreement: float
    """The share of tokens until each response parts from ours."""

    @cached_property
    def step_ms(self) -> float:
        """Median over the rounds."""
        steps = self.new_tokens - 1
        return median((whole - first) / steps for whole, first in zip(self.whole_ms, self.first_ms, strict=True))

    @property
    def tokens_per_second(self) -> float:
        return 1e3 * self.batch / self.step_ms


def time_decoding(
    ways: Mapping[Way, Decode],
    prompts: Prompts,
    work: DecodeWork,
    *,
    rounds: int,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> tuple[DecodeTimes, ...]:
    """prompts: as many as the largest batch. The first of `ways` is ours, with which the others' tokens are compared.

    A round that is not timed comes first. Raises LtsRayError for a way that gives too few tokens, or too many.
    """
    whole: dict[tuple[Way, int], list[float]] = {(way, batch): [] for way in ways for batch in work.batches}
    first: dict[tuple[Way, int], list[float]] = {key: [] for key in whole}
    tokens: dict[tuple[Way, int], list[list[int]]] = {}

    def timed(way: Way, batch: int, count: int) -> float:
        begin = clock()
        responses = ways[way](prompts[:batch], count)
        took_ms = (clock() - begin) * 1e3
        lengths = [len(response) for response in responses]
        if lengths != [count] * batch:
            raise LtsRayError(f"{way.engine} was to give {batch} x {count} tokens; got {lengths}")
        tokens[way, batch] = responses
        return took_ms

    for turn in turns(ways, work.batches, rounds=rounds, warmup=1, progress=progress):
        way, batch = turn.way, turn.task
        first_ms, whole_ms = timed(way, batch, 1), timed(way, batch, work.new_tokens if turn.counts else 2)
        if turn.counts:
            first[way, batch].append(first_ms)
            whole[way, batch].append(whole_ms)
    ours = next(iter(ways)).engine
    return tuple(
        DecodeTimes(
            way=way,
            batch=batch,
            new_tokens=work.new_tokens,
            whole_ms=tuple(whole[way, batch]),
            first_ms=tuple(first[way, batch]),
            agreement=agreement(tokens[way, batch], tokens[Way(ours, way.submodel), batch]),
        )
        for way, batch in whole
    )


def agreement(left: Iterable[Sequence[int]], right: Iterable[Sequence[int]]) -> float:
    """The mean share of each response before it parts from the other: rounding may part them, and then all differs."""
    return fmean(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True))) / len(one)
        for one, other in zip(left, right, strict=True)
    )
