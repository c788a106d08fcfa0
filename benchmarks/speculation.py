"""What speculative decoding gains within one MatFormer: acceptance and speed against the verifier alone.

All configurations and the verifier alone take turns, prompt by prompt and repeat by repeat, so that a slow moment of
the machine hits them alike. Timed is what follows the first token; a drafter with a cache of its own reads the prompt
in that time, one that shares the verifier's never does. Beside what was measured stands what the costs of single
forwards predict: where a draft cannot gain, they say why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch

from benchmarks.common.machine import Machine
from benchmarks.common.turns import Progress, Responses, timed_responses
from benchmarks.speculation_text import Text
from lts_ray.decoding.draft_costs import LONGEST, measure_costs
from lts_ray.decoding.draft_length import ADAPTIVE, Adaptive, Costs, Length
from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import GREEDY, Sampling
from lts_ray.decoding.speculative import Round, Statistics, speculate, tokens_of
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.timing import Clock

SCHEMA = 1
LENGTHS: tuple[Length, ...] = (1, 2, 3, 4, 6, ADAPTIVE)
ALONE = 3
"""Turns of the verifier alone: every speed is over its time."""
GAIN = 1.02
"""A smaller gain may be the clock's."""


@dataclass(frozen=True, order=True, kw_only=True)
class Configuration:
    draft: str
    shared: bool
    length: Length


@dataclass(frozen=True, kw_only=True)
class Row:
    """speed: the verifier's own time over the configuration's. predicted_speed: by the costs, for the rounds it had.

    same: responses that are the verifier's token for token. Greedy, all are, but for logits that round apart.
    """

    configuration: Configuration
    statistics: Statistics
    speed: float
    predicted_speed: float
    same: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """costs: by draft, in seconds; the first of `verify` is the verifier's plain step. token_ms: of it alone."""

    verifier: str
    sampling: Sampling
    responses: int
    prompt_tokens: int
    tokens: int
    threads: int
    draft_vocabulary: int | None
    token_ms: float
    costs: Mapping[str, Costs]
    rows: tuple[Row, ...]
    machine: Machine

    def best(self, draft: str) -> Row:
        return max((row for row in self.rows if row.configuration.draft == draft), key=lambda row: row.speed)

    def sharing_gain(self, draft: str) -> float | None:
        """Median over the lengths of shared speed over separate speed; None where only one of them was measured."""
        speeds = {(row.configuration.length, row.configuration.shared): row.speed for row in self.rows_of(draft)}
        gains = [
            speed / speeds[length, False]
            for (length, shared), speed in speeds.items()
            if shared and (length, False) in speeds
        ]
        return median(gains) if gains else None

    def rows_of(self, draft: str) -> list[Row]:
        return [row for row in self.rows if row.configuration.draft == draft]

    def verdicts(self) -> list[str]:
        """For each draft whether it gains here, with which length, and what decides that."""
        return [self._verdict(draft, costs) for draft, costs in self.costs.items()]

    def _verdict(self, draft: str, costs: Costs) -> str:
        best, rows = self.best(draft), self.rows_of(draft)
        length, step = best.configuration.length, costs.draft / costs.verify[0]
        stand = max(row.statistics.acceptance for row in rows)
        cost = f"a drafted token costs {step:.2f} of a step of {self.verifier}"
        how = f"{length} length" if length == ADAPTIVE else f"length {length}"
        at = f"{best.speed:.2f}x with {how} and a {'shared' if best.configuration.shared else 'separate'} cache"
        if best.speed >= GAIN:
            return f"{draft} gains: {at}; {cost}, and up to {stand:.2f} of the tokens stand"
        if costs.break_even > 1:
            return f"{draft} cannot gain: {cost}, too much even if every token stood; best: {at}"
        needed = f"{costs.break_even:.2f} of its tokens have to stand"
        return f"{draft} does not gain: {cost}, so {needed}, and at most {stand:.2f} do; best: {at}"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "threads": self.threads,
            "verifier": self.verifier,
            "sampling": asdict(self.sampling),
            "responses": self.responses,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "draft_vocabulary": self.draft_vocabulary,
            "token_ms": round(self.token_ms, 4),
            "costs": {
                draft: {
                    "draft": round(costs.draft / costs.verify[0], 4),
                    "verify": [round(each / costs.verify[0], 4) for each in costs.verify],
                    "break_even": None if costs.break_even > 1 else round(costs.break_even, 4),
                }
                for draft, costs in self.costs.items()
            },
            "rows": [
                {
                    **asdict(row.configuration),
                    "acceptance": round(row.statistics.acceptance, 4),
                    "accepted_share": round(row.statistics.accepted_share, 4),
                    "tokens_per_step": round(row.statistics.tokens_per_step, 4),
                    "speed": round(row.speed, 4),
                    "predicted_speed": round(row.predicted_speed, 4),
                    "same": row.same,
                }
                for row in self.rows
            ],
        }


def run(
    model: MatFormer,
    text: Text,
    *,
    drafts: Sequence[str] = ("S", "M", "L"),
    verifier: str = "XL",
    lengths: Sequence[Length] = LENGTHS,
    sharing: Sequence[bool] = (True, False),
    tokens: int = 64,
    sampling: Sampling = GREEDY,
    doubt: float = 0.0,
    repeats: int = 3,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> Result:
    """tokens: of each response. Torch's threads stay as they are. Raises LtsRayError for what cannot be measured."""
    if tokens < 2 or repeats < 1 or not drafts or not lengths or not sharing:
        raise LtsRayError("speculation needs at least 2 tokens, a repeat, a draft, a length and a kind of cache")
    submodels = {name: model.config.submodel(name) for name in (*drafts, verifier)}
    prompts = text.prompts.tolist()
    measured = measure_costs(
        model,
        prompts[0],
        drafts=[submodels[draft] for draft in drafts],
        submodel=submodels[verifier],
        longest=max(LONGEST if length == ADAPTIVE else int(length) for length in lengths),
        draft_vocabulary=text.draft_vocabulary,
        sampling=sampling,
        clock=clock,
    )
    costs = dict(zip(drafts, measured, strict=True))
    configurations = [
        Configuration(draft=draft, shared=shared, length=length)
        for draft, shared, length in product(drafts, sharing, lengths)
    ]

    def alone(index: int) -> Iterator[Round]:
        response = generate(
            model,
            prompts[index],
            submodel=submodels[verifier],
            max_tokens=tokens,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed + index),
        )
        return (Round(tokens=(token,), drafted=0, accepted=0) for token in response)

    def speculative(configuration: Configuration, index: int) -> Iterator[Round]:
        length = configuration.length
        return speculate(
            model,
            prompts[index],
            draft=submodels[configuration.draft],
            submodel=submodels[verifier],
            max_tokens=tokens,
            length=length if isinstance(length, int) else Adaptive(costs=costs[configuration.draft]),
            shared=configuration.shared,
            draft_vocabulary=text.draft_vocabulary,
            doubt=doubt,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed + index),
        )

    ways: dict[Configuration | int, Callable[[int], Iterator[Round]]] = dict.fromkeys(range(ALONE), alone)
    ways |= {each: partial(speculative, each) for each in configurations}
    found = timed_responses(ways, responses=len(prompts), rounds=repeats, clock=clock, progress=progress)
    plain_s = median(found[turn].total_seconds for turn in range(ALONE))
    return Result(
        verifier=verifier,
        sampling=sampling,
        responses=len(prompts),
        prompt_tokens=text.prompts.shape[1],
        tokens=tokens,
        threads=torch.get_num_threads(),
        draft_vocabulary=None if text.draft_vocabulary is None else len(text.draft_vocabulary),
        token_ms=1000 * plain_s / (len(prompts) * (tokens - 1)),
        costs=costs,
        rows=tuple(_row(each, found[each], found[0], plain_s, costs[each.draft]) for each in configurations),
        machine=Machine.here(),
    )


def _row(
    configuration: Configuration, found: Responses[Round], plain: Responses[Round], plain_s: float, costs: Costs
) -> Row:
    rounds = [each for response in found.items for each in response[1:]]
    predicted = sum(each.drafted * costs.draft + costs.verify[each.drafted] for each in rounds)
    return Row(
        configuration=configuration,
        statistics=Statistics.of(found.items),
        speed=plain_s / found.total_seconds,
        predicted_speed=sum(len(each.tokens) for each in rounds) * costs.verify[0] / predicted,
        same=sum(
            list(tokens_of(response)) == list(tokens_of(other))
            for response, other in zip(found.items, plain.items, strict=True)
        ),
    )
