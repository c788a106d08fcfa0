"""Confidence routing (MatFormer, section 2, dynamic workloads): a small submodel decodes, and where it is unsure of the
next token the universal model reads that place again, and its logits decide.

Both write into one KV cache. Reading again overwrites the place's keys and values, so that all later tokens rest on
the richer ones. That is what sets routing apart from choosing between two models' answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lts_ray.decoding.plain_loop import check_length
from lts_ray.decoding.sampling import GREEDY, Sampling, sample
from lts_ray.errors import LtsRayError
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel

Measure = Literal["margin", "entropy"]
FAR = 1e9
"""From any margin and any entropy."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """When a prediction counts as unsure.

    margin: the two most likely tokens' probabilities are less than `threshold` apart; 0 never, above 1 always.
    entropy: it is above `threshold` nats.
    """

    measure: Measure = "margin"
    threshold: float

    def __post_init__(self) -> None:
        if self.measure not in ("margin", "entropy"):
            raise LtsRayError(f"the measure of confidence is margin or entropy; got {self.measure!r}")
        if not isfinite(self.threshold):
            raise LtsRayError(f"the confidence threshold must be a number; got {self.threshold}")

    def is_unsure(self, logits: Tensor) -> Tensor:
        """[..., vocab_size] to [...], bool."""
        found = score(logits, self.measure)
        return found < self.threshold if self.measure == "margin" else found > self.threshold


class Routed(NamedTuple):
    token: int
    by_universal: bool


def score(logits: Tensor, measure: Measure) -> Tensor:
    """Margin (a difference of probabilities) or entropy (nats): [..., vocab_size] to [...]."""
    logits = logits.float()
    if measure == "margin":
        best = torch.exp(logits.topk(2, dim=-1).values - logits.logsumexp(-1, keepdim=True))
        return best[..., 0] - best[..., 1]
    found = torch.log_softmax(logits, dim=-1)
    return -(found.exp() * found).sum(-1)


def decode_with_confidence(
    model: UniversalModel,
    prompt_ids: Sequence[int],
    *,
    small: Submodel,
    large: Submodel,
    confidence: Confidence,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Routed]:
    """Yield at most `max_tokens` tokens, each with who chose it; `eos_id` ends the response and is not part of it.

    `large` reads the prompt, in one forward, and so chooses the first token. Raises LtsRayError, before that, when
    prompt and response do not fit the context together.
    """
    config = model.config
    check_length(len(prompt_ids), max_tokens, config.context_length)
    for each in (small, large):
        config.check(each)
    weight = model.weight
    length = len(prompt_ids) + max_tokens
    cache = KVCache.empty(config, rows=1, length=length, dtype=weight.dtype, device=weight.device)
    generator = torch.Generator() if generator is None else generator

    def steps() -> Iterator[Routed]:
        tokens, held = list(prompt_ids), 0
        for place in range(max_tokens):
            with torch.inference_mode():  # around the step only: between yields the mode would leak to the caller
                step = torch.tensor([tokens], device=weight.device)
                by_universal = place == 0
                if not by_universal:
                    logits = model(step, submodel=small, cache=cache, last_only=True)[0, -1]
                    by_universal = bool(confidence.is_unsure(logits))
                if by_universal:
                    cache.truncate(0, held)
                    logits = model(step, submodel=large, cache=cache, last_only=True)[0, -1]
                token = sample(logits, sampling, generator)
            if token == eos_id:
                return
            yield Routed(token, by_universal)
            held += len(tokens)
            tokens = [token]

    return steps()


def teacher_forced(
    model: UniversalModel, tokens: Tensor, *, small: Submodel, large: Submodel, confidence: Confidence
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The logits that routing gives at every place of given texts, all texts at the same time.

    tokens: [B, T]. As in `decode_with_confidence`, `large` reads the first token of each. Yields for each of the other
    T - 1 places the logits that decide [B, vocab_size], the small submodel's own, and which rows were unsure [B], bool.
    """
    rows, length = tokens.shape
    weight = model.weight
    cache = KVCache.empty(model.config, rows=rows, length=length, dtype=weight.dtype, device=weight.device)
    model.hidden(tokens[:, :1], submodel=large, cache=cache)
    for place in range(1, length):
        step = tokens[:, place : place + 1]
        own = model(step, submodel=small, cache=cache)[:, 0]
        unsure = confidence.is_unsure(own)
        decided = own
        if bool(unsure.any()):
            # `large` reads all rows again; where the small one was sure, its keys and values are put back.
            sure = (~unsure).nonzero()[:, 0]
            kept = [each[:, sure, :, place] for each in (cache.keys, cache.values)]
            cache.lengths.sub_(1)
            again = model(step, submodel=large, cache=cache)[:, 0]
            for each, saved in zip((cache.keys, cache.values), kept, strict=True):
                each[:, sure, :, place] = saved
            decided = torch.where(unsure[:, None], again, own)
        yield decided, own, unsure


def calibrate(
    model: UniversalModel,
    small: Submodel,
    large: Submodel,
    blocks: Tensor,
    share: float,
    *,
    measure: Measure = "margin",
    passes: int = 2,
) -> Confidence:
    """The threshold at which about `share` of the places of a text are the large submodel's.

    blocks: [N, T + 1], int64, as `validation_loss` takes. How sure the small submodel is depends on the keys and
    values that it reads, and so on the threshold itself: each pass takes the quantile of what the last threshold gave.
    """
    if not 0 <= share <= 1:
        raise LtsRayError(f"the share of universal tokens is from 0 to 1; got {share}")
    if blocks.shape[0] == 0 or blocks.shape[1] < 3:
        raise LtsRayError("there is no text to calibrate on: give at least one block of two tokens and a target")
    found = Confidence(measure=measure, threshold=-FAR if measure == "margin" else FAR)  # never unsure
    tokens = blocks[:, :-1].to(model.weight.device)
    with torch.inference_mode():
        for _ in range(passes):
            routed = teacher_forced(model, tokens, small=small, large=large, confidence=found)
            scores = torch.stack([score(own, measure) for _, own, _ in routed]).flatten()
            quantile = share if measure == "margin" else 1 - share
            found = replace(found, threshold=_between(scores, quantile))
    return found


def _between(scores: Tensor, quantile: float) -> float:
    """A number with this share of the scores below it: halfway to the next; far away where that is none or all."""
    ordered = scores.sort().values.tolist()
    below = round(quantile * len(ordered))
    if below in (0, len(ordered)):
        return -FAR if below == 0 else FAR
    return float(ordered[below - 1] + ordered[below]) / 2
