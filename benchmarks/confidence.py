"""What confidence routing is worth: quality against time, beside fixed submodels that take the same time.

Quality is taken on a text, read token by token as routing decodes. Time is taken by decoding, all ways in turn; a
sampled response is not as hard as the text, so the time that is reported is that of the text's share of universal
tokens: what was timed, plus what a universal token costs for each by which the two shares differ. Fixed submodels of
many sizes give loss as a function of time; a routed pair is worth its trouble where its loss is below that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.machine import Machine
from benchmarks.common.turns import Responses, timed_responses
from lts_ray.decoding.confidence import Confidence, Measure, Routed, calibrate, decode_with_confidence
from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.consistency import Consistency, Predictor, consistency
from lts_ray.evaluation.routed_loss import RoutedLoss, routed_loss
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock

SCHEMA = 1
ALWAYS = Confidence(threshold=1.1)
"""Unsure: no margin is above 1."""
AS_TEXT = Sampling(temperature=1.0)
"""How timed responses are drawn: greedy ones repeat themselves, and a model is sure of what it repeats."""
StageProgress = Callable[[str, int, int], None]
"""Told of the stage ("calibrating", "reading" or "decoding"), how much of it is done, and of how much."""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One submodel for all tokens."""

    submodel: Submodel
    relative_size: float
    quality: RoutedLoss
    token_ms: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A small submodel with a threshold. share: asked for. fixed_loss: of fixed submodels at the same time per token.

    timed_share: of universal tokens in the responses that were timed. fixed_loss is None where none is as fast.
    """

    small: str
    share: float
    confidence: Confidence
    quality: RoutedLoss
    token_ms: float
    timed_share: float
    fixed_loss: float | None

    @property
    def gain(self) -> float | None:
        """Nats per token by which routing is better than a fixed submodel of the same time."""
        return None if self.fixed_loss is None else self.fixed_loss - self.quality.loss


@dataclass(frozen=True, kw_only=True)
class Result:
    measure: Measure
    threads: int
    tokens: int
    responses: int
    fixed: tuple[Fixed, ...]
    pairs: tuple[Pair, ...]
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "threads": self.threads,
            "measure": self.measure,
            "tokens": self.tokens,
            "responses": self.responses,
            "fixed": [
                {
                    "widths": each.submodel.to_json(),
                    "relative_size": round(each.relative_size, 4),
                    **_quality_to_json(each.quality),
                    "token_ms": round(each.token_ms, 4),
                }
                for each in self.fixed
            ],
            "pairs": [
                {
                    "small": each.small,
                    "share": each.share,
                    "threshold": round(each.confidence.threshold, 6),
                    **_quality_to_json(each.quality),
                    "token_ms": round(each.token_ms, 4),
                    "timed_share": round(each.timed_share, 4),
                    "fixed_loss": None if each.fixed_loss is None else round(each.fixed_loss, 5),
                    "gain": None if each.gain is None else round(each.gain, 5),
                }
                for each in self.pairs
            ],
        }


def _quality_to_json(quality: RoutedLoss) -> dict[str, float]:
    return {
        "loss": round(quality.loss, 5),
        "agreement": round(quality.agreement, 4),
        "kl": round(quality.kl, 5),
        "universal_share": round(quality.universal_share, 4),
    }


def run(
    model: MatFormer,
    calibration: Tensor,
    blocks: Tensor,
    *,
    small: Sequence[str] = ("S", "M"),
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.5),
    fixed: Sequence[Submodel],
    measure: Measure = "margin",
    prompt_tokens: int = 32,
    tokens: int = 48,
    responses: int = 4,
    repeats: int = 3,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    progress: StageProgress = lambda stage, done, total: None,
) -> Result:
    """calibration, blocks: [N, T + 1], different texts: thresholds come from the first, qualities from the second.

    fixed: the submodels that routing is held against; the universal one is the dearest of them, given or not. tokens,
    responses: of the timed decoding behind the blocks' first `prompt_tokens`. Raises LtsRayError for what does not fit.
    """
    if not 1 <= responses <= blocks.shape[0] or not 1 <= prompt_tokens < blocks.shape[1] or tokens < 2 or repeats < 1:
        raise LtsRayError(
            f"{responses} responses of {tokens} tokens behind {prompt_tokens} tokens each, from {blocks.shape[0]} "
            f"blocks of {blocks.shape[1] - 1}: need at least one response, of 2 tokens, and a block for each"
        )
    large = model.config.universal
    submodels = {name: model.config.submodel(name) for name in small}
    wanted = [(name, share) for name in small for share in shares]
    confidences = {}
    for done, (name, share) in enumerate(wanted, start=1):
        confidences[name, share] = calibrate(model, submodels[name], large, calibration, share, measure=measure)
        progress("calibrating", done, len(wanted))

    chosen = list(dict.fromkeys([*fixed, large]))
    read: dict[Submodel | tuple[str, float], RoutedLoss] = dict(zip(chosen, by_one(model, chosen, blocks), strict=True))
    for done, (name, share) in enumerate(wanted, start=1):
        confidence = confidences[name, share]
        read[name, share] = routed_loss(model, blocks, small=submodels[name], large=large, confidence=confidence)
        progress("reading", done, len(wanted))

    prompts = blocks[:responses, :prompt_tokens].tolist()

    def alone(submodel: Submodel, index: int) -> Iterator[Routed]:
        generator = torch.Generator().manual_seed(seed + index)
        response = generate(
            model, prompts[index], submodel=submodel, max_tokens=tokens, sampling=AS_TEXT, generator=generator
        )
        return (Routed(token, submodel == large) for token in response)

    def routed(name: str, confidence: Confidence, index: int) -> Iterator[Routed]:
        return decode_with_confidence(
            model,
            prompts[index],
            small=submodels[name],
            large=large,
            confidence=confidence,
            max_tokens=tokens,
            sampling=AS_TEXT,
            generator=torch.Generator().manual_seed(seed + index),
        )

    ways: dict[Submodel | tuple[str, float | None], Callable[[int], Iterator[Routed]]] = {}
    ways |= {each: partial(alone, each) for each in chosen}
    for name in small:  # None, and not a share: always the universal one, after the small one's own step
        ways[name, None] = partial(routed, name, ALWAYS)
    ways |= {key: partial(routed, key[0], found) for key, found in confidences.items()}
    timed = timed_responses(
        ways, responses=responses, rounds=repeats, clock=clock, progress=partial(progress, "decoding")
    )
    ms = {way: 1000 * found.total_seconds / (responses * (tokens - 1)) for way, found in timed.items()}
    curve = [(ms[each], read[each].loss) for each in chosen]

    def pair(name: str, share: float) -> Pair:
        quality, timed_share = read[name, share], _universal_share(timed[name, share])
        per_universal = (ms[name, None] - ms[name, share]) / (1 - timed_share) if timed_share < 1 else 0.0
        token_ms = ms[name, share] + (quality.universal_share - timed_share) * per_universal
        return Pair(
            small=name,
            share=share,
            confidence=confidences[name, share],
            quality=quality,
            token_ms=token_ms,
            timed_share=timed_share,
            fixed_loss=loss_at(curve, token_ms),
        )

    return Result(
        measure=measure,
        threads=torch.get_num_threads(),
        tokens=read[large].tokens,
        responses=responses,
        fixed=tuple(
            Fixed(submodel=each, relative_size=model.config.relative_size(each), quality=read[each], token_ms=ms[each])
            for each in chosen
        ),
        pairs=tuple(pair(name, share) for name, share in wanted),
        machine=Machine.here(),
    )


def by_one(model: MatFormer, submodels: Sequence[Submodel], blocks: Tensor) -> list[RoutedLoss]:
    """Each submodel alone, over the places that routing counts: means over all, less what each block's first adds."""
    universal, places = model.config.universal, blocks.shape[1] - 1

    def measured(part: Tensor) -> list[Consistency]:
        return consistency(Predictor(model, universal), [Predictor(model, each) for each in submodels], part)

    def without_first(every: float, first: float) -> float:
        return (places * every - first) / (places - 1)

    return [
        RoutedLoss(
            loss=without_first(every.loss, first.loss),
            agreement=without_first(every.agreement, first.agreement),
            kl=without_first(every.kl, first.kl),
            universal_share=float(submodel == universal),
            tokens=blocks[:, 2:].numel(),
        )
        for submodel, every, first in zip(submodels, measured(blocks), measured(blocks[:, :2]), strict=True)
    ]


def _universal_share(found: Responses[Routed]) -> float:
    """Of the tokens that were timed: all but the first of each response."""
    by_universal = [each.by_universal for response in found.items for each in response[1:]]
    return sum(by_universal) / len(by_universal)


def loss_at(curve: Sequence[tuple[float, float]], token_ms: float) -> float | None:
    """The least loss that fixed submodels, (time, loss) each, have in this time; straight lines between them.

    One that is slower and no better counts for nothing. None in less time than the fastest takes; in more than the
    best one takes, the best one's loss.
    """
    useful: list[tuple[float, float]] = []
    for point in sorted(curve):
        if not useful or point[1] < useful[-1][1]:
            useful.append(point)
    times, losses = zip(*useful, strict=True)
    return None if token_ms < times[0] else float(np.interp(token_ms, times, losses))
