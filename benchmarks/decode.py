"""How fast responses are decoded, ours and others', beside what the machine's memory allows.

All ways to decode get the same weights and the same prompts, greedy and in float32, and take turns, round by round, so
that a slow moment of the machine hits them alike. Each is timed for whole responses and for responses of one token;
the difference is what the steps take that make a token for every sequence. So reading the prompt, and what a library
does once for a call, count for nobody, whether or not the library says when its first token came.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.common.machine import Machine
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock

SCHEMA = 1
RUNTIME, ENGINE = "lts-ray runtime", "lts-ray engine"
TRANSFORMERS, CONTINUOUS, CTRANSLATE2 = "transformers generate", "transformers continuous batching", "CTranslate2"
OVER_TRANSFORMERS, OVER_CTRANSLATE2, CTRANSLATE2_BATCHES = 2.0, 0.9, (1, 8)
PROPORTIONAL = 0.15
"""What is wanted: times transformers' best, times CTranslate2 at these batches, and how near to the bytes."""

Prompts = Sequence[Sequence[int]]
Decode = Callable[[Prompts, int], list[list[int]]]
"""Of prompts and a number of tokens to exactly so many tokens for each, whatever ends a text."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, order=True)
class Way:
    """engine: who decodes. submodel: its name."""

    engine: str
    submodel: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way with so many sequences at once. agreement: the share of tokens until each response parts from ours.

    whole_ms, first_ms: round by round, responses of new_tokens and of one token. step_bytes: that a step must read.
    """

    way: Way
    batch: int
    new_tokens: int
    whole_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    step_bytes: int
    agreement: float

    @cached_property
    def step_ms(self) -> float:
        """Median over the rounds."""
        steps = self.new_tokens - 1
        return median((whole - first) / steps for whole, first in zip(self.whole_ms, self.first_ms, strict=True))

    @property
    def tokens_per_second(self) -> float:
        return 1e3 * self.batch / self.step_ms


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One result that is wanted, and what it came to."""

    what: str
    found: float
    least: float

    @property
    def met(self) -> bool:
        return self.found >= self.least

    def __str__(self) -> str:
        return f"{'met' if self.met else 'MISSED'}: {self.what}: {self.found:.2f}, wanted at least {self.least:.2f}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """bandwidth: bytes a second that the machine reads. versions: of the libraries compared.

    prediction_error: median, relative, of what the engine said its steps would take; None without an engine.
    """

    rows: tuple[Row, ...]
    submodels: tuple[str, ...]
    prompt_tokens: int
    bandwidth: float
    prediction_error: float | None
    threads: int
    seed: int
    machine: Machine
    versions: Mapping[str, str]

    @property
    def ours(self) -> str:
        """The engine, or the bare runtime where no engine took part."""
        return ENGINE if any(row.way.engine == ENGINE for row in self.rows) else RUNTIME

    def row(self, engine: str, submodel: str, batch: int) -> Row | None:
        return next((row for row in self.rows if row.way == Way(engine, submodel) and row.batch == batch), None)

    def bandwidth_share(self, row: Row) -> float:
        return row.step_bytes / (row.step_ms / 1e3) / self.bandwidth

    def wanted(self) -> list[Wanted]:
        """Only what was measured: over transformers' better way, over CTranslate2, and narrow widths by their bytes."""
        batches = sorted({row.batch for row in self.rows})
        full = self.submodels[-1]
        found = []
        for submodel in self.submodels:
            for batch in batches:
                ours = self.row(self.ours, submodel, batch)
                if ours is None:
                    continue
                at = f"{submodel}, batch {batch}"
                theirs = [row for name in (TRANSFORMERS, CONTINUOUS) if (row := self.row(name, submodel, batch))]
                if theirs:
                    ratio = min(row.step_ms for row in theirs) / ours.step_ms
                    found.append(Wanted(what=f"{at}: x transformers' best", found=ratio, least=OVER_TRANSFORMERS))
                other = self.row(CTRANSLATE2, submodel, batch)
                if other is not None and batch in CTRANSLATE2_BATCHES:
                    ratio = other.step_ms / ours.step_ms
                    found.append(Wanted(what=f"{at}: x CTranslate2", found=ratio, least=OVER_CTRANSLATE2))
                whole = self.row(self.ours, full, batch)
                if whole is not None and submodel != full:
                    share = (whole.step_ms / ours.step_ms) / (whole.step_bytes / ours.step_bytes)
                    what = f"{at}: gain over {full}, of what its bytes promise"
                    found.append(Wanted(what=what, found=share, least=1 - PROPORTIONAL))
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "versions": dict(self.versions),
            "threads": self.threads,
            "dtype": "float32",
            "seed": self.seed,
            "prompt_tokens": self.prompt_tokens,
            "read_bandwidth_gb_s": round(self.bandwidth / 1e9, 3),
            "step_prediction_error": None if self.prediction_error is None else round(self.prediction_error, 4),
            "rows": [
                {
                    **asdict(row.way),
                    "batch": row.batch,
                    "new_tokens": row.new_tokens,
                    "tokens_per_second": round(row.tokens_per_second, 2),
                    "step_ms": round(row.step_ms, 3),
                    "first_ms": round(median(row.first_ms), 2),
                    "step_mb": round(row.step_bytes / 1e6, 1),
                    "bandwidth_share": round(self.bandwidth_share(row), 4),
                    "agreement": round(row.agreement, 4),
                    "whole_ms": [round(each, 2) for each in row.whole_ms],
                }
                for row in self.rows
            ],
            "wanted": [{"what": each.what, "found": round(each.found, 3), "met": each.met} for each in self.wanted()],
        }


def compare(
    ways: Mapping[Way, Decode],
    prompts: Prompts,
    *,
    batches: Sequence[int],
    new_tokens: int,
    rounds: int,
    step_bytes: Callable[[str, int], int],
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> tuple[Row, ...]:
    """prompts: as many as the largest batch. step_bytes: of a submodel and a batch. The first of `ways` is ours.

    A round that is not timed comes first. Raises LtsRayError for a way that gives too few tokens, or too many.
    """
    whole: dict[tuple[Way, int], list[float]] = {(way, batch): [] for way in ways for batch in batches}
    first: dict[tuple[Way, int], list[float]] = {key: [] for key in whole}
    tokens: dict[tuple[Way, int], list[list[int]]] = {}
    order, done = deque(ways), 0

    def timed(way: Way, batch: int, count: int) -> float:
        begin = clock()
        found = ways[way](prompts[:batch], count)
        took_ms = (clock() - begin) * 1e3
        if [len(each) for each in found] != [count] * batch:
            raise LtsRayError(f"{way.engine} was to give {batch} x {count} tokens; got {[len(each) for each in found]}")
        tokens[way, batch] = found
        return took_ms

    for number in range(rounds + 1):
        for batch in batches:
            order.rotate()  # so that none always comes behind the same other
            for way in order:
                first_ms, whole_ms = timed(way, batch, 1), timed(way, batch, new_tokens if number else 2)
                if number:
                    first[way, batch].append(first_ms)
                    whole[way, batch].append(whole_ms)
                done += 1
                progress(done, len(whole) * (rounds + 1))
    ours = next(iter(ways)).engine
    return tuple(
        Row(
            way=way,
            batch=batch,
            new_tokens=new_tokens,
            whole_ms=tuple(whole[way, batch]),
            first_ms=tuple(first[way, batch]),
            step_bytes=step_bytes(way.submodel, batch),
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


def step_bytes(config: MatFormerConfig, submodel: Submodel, *, batch: int, context: int) -> int:
    """What a step has to read in float32: all layers, the output matrix, and keys and values of `context` tokens."""
    weights = config.decoder_params(submodel) + config.vocab_size * config.d_model
    cached = 2 * config.n_layer * config.n_kv_head * config.d_head * context
    return 4 * (weights + batch * cached)


def random_prompts(config: MatFormerConfig, *, count: int, tokens: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    found: list[list[int]] = torch.randint(config.vocab_size, (count, tokens), generator=generator).tolist()
    return found


def blocks_for(batch: int, tokens: int) -> int:
    """Blocks of the KV cache for so many sequences of so many tokens."""
    return batch * -(-tokens // BLOCK_TOKENS)


def bare_runtime(runtime: Runtime, submodel: Submodel) -> Decode:
    """The runtime in a loop of its own: what an engine around it can reach at most."""

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        responses: list[list[int]] = [[] for _ in prompts]
        held = blocks_for(1, max(map(len, prompts)) + new_tokens)
        blocks = [range(held * row, held * (row + 1)) for row in range(len(prompts))]
        pieces: Sequence[Sequence[int]] = prompts
        starts = [0] * len(prompts)
        for _ in range(new_tokens):
            segments = [
                Segment(
                    tokens=piece,
                    start=start,
                    blocks=row[: blocks_for(1, start + len(piece))],
                    submodel=submodel,
                    wants_logits=True,
                )
                for piece, start, row in zip(pieces, starts, blocks, strict=True)
            ]
            chosen: list[int] = runtime.run(segments).argmax(-1).tolist()
            starts = [segment.stop for segment in segments]
            pieces = [[token] for token in chosen]
            for response, token in zip(responses, chosen, strict=True):
                response.append(token)
        return responses

    return decode
