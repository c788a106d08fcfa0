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

from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.common.turns import Progress, timed_turns, turns
from lts_ray.errors import LtsRayError
from lts_ray.precision import PRECISIONS
from lts_ray.timing import Clock

Prompts = Sequence[Sequence[int]]
Decode = Callable[[Prompts, int], list[list[int]]]
"""Of prompts and a number of tokens to exactly so many tokens for each, whatever ends a text."""
RUNTIME, ENGINE = "lts-ray runtime", "lts-ray engine"
TRANSFORMERS, CONTINUOUS, CTRANSLATE2 = "transformers generate", "transformers continuous batching", "CTranslate2"
LLAMA_CPP, OPENVINO = "llama.cpp", "OpenVINO GenAI"
KINDS: Mapping[str, str] = {
    **{precision: precision for precision in PRECISIONS},
    **{"F32": "float32", "F16": "bfloat16", "Q8_0": "int8", "Q4_0": "int4"},
}
"""Which of our precisions one is to be compared with, by the name that its library's users know."""


@dataclass(frozen=True, order=True)
class Way:
    engine: str
    """Which library decodes, by the name that results use."""
    submodel: str
    precision: str = "float32"
    """Of KINDS."""

    @property
    def text(self) -> str:
        return f"{self.submodel}@{self.precision}"

    @property
    def kind(self) -> tuple[str, str, str]:
        """With the precision of ours."""
        return self.engine, self.submodel, KINDS[self.precision]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    decode: Decode
    loss: Callable[[Tensor], float]
    """Of windows of a text, [N, T + 1], in nats a token, by the same arithmetic as decodes."""
    weight_bytes: float
    """Of one of the weights that a step reads, on average."""
    head_bytes: float | None = None
    """Of one of the output matrix; None: as of the others."""
    cache_bytes: int = 4
    """Of a number of the KV cache."""


def mean_nats(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """pairs: logits, [n, vocab_size], and the tokens that came, [n]."""
    total, count = 0.0, 0
    for logits, tokens in pairs:
        total += float(cross_entropy(logits.float(), tokens, reduction="sum"))
        count += len(tokens)
    return total / count


def by_window(logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
    """The loss by a library that gives all logits of a row of tokens: [T] to [T, vocab_size]."""
    return lambda windows: mean_nats((logits(window[:-1]), window[1:]) for window in windows)


@dataclass(frozen=True, kw_only=True)
class DecodeWork:
    """What is asked of each way to decode."""

    submodels: Sequence[str]
    precisions: Sequence[str]
    """Of ours."""
    batches: Sequence[int]
    """Sequences at once."""
    prompt_tokens: int
    new_tokens: int
    read_tokens: int
    """Of a longer prompt, read alone."""
    threads: int

    @property
    def length(self) -> int:
        return max(self.prompt_tokens + self.new_tokens, self.read_tokens + 1)

    @property
    def step_tokens(self) -> int:
        """The most that a step reads."""
        return max(max(self.batches) * self.prompt_tokens, self.read_tokens)


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
    """The share of tokens until each response parts from ours in the most precise of our precisions."""

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
    ours = {way.submodel: way for way in reversed(list(ways))}
    return tuple(
        DecodeTimes(
            way=way,
            batch=batch,
            new_tokens=work.new_tokens,
            whole_ms=tuple(whole[way, batch]),
            first_ms=tuple(first[way, batch]),
            agreement=agreement(tokens[way, batch], tokens[ours[way.submodel], batch]),
        )
        for way, batch in whole
    )


def time_reading(
    ways: Mapping[Way, Decode], prompt: Sequence[int], *, rounds: int, clock: Clock = time.perf_counter
) -> dict[Way, float]:
    """Milliseconds from a prompt to its first token; the median."""
    reads = {way: lambda number, decode=decode: decode([prompt], 1) for way, decode in ways.items()}
    return {way: median(times) for way, times in timed_turns(reads, rounds=rounds, warmup=1, clock=clock).items()}


def agreement(left: Iterable[Sequence[int]], right: Iterable[Sequence[int]]) -> float:
    """The mean share of each response before it parts from the other: rounding may part them, and then all differs."""
    return fmean(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True))) / len(one)
        for one, other in zip(left, right, strict=True)
    )
