"""Confidence routing (MatFormer, section 2, dynamic workloads): a small submodel decodes, and where it is unsure of the
next token the universal model reads that place again, and its logits decide.

Both write into one KV cache. Reading again overwrites the place's keys and values, so that all later tokens rest on
the richer ones. That is what sets routing apart from choosing between two models' answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lts_ray.decoding.plain_loop import check_length
from lts_ray.decoding.sampling import GREEDY, Sampling, sample
from lts_ray.models.universal_model import UniversalModel
from lts_ray.record import record
from lts_ray.submodel import Submodel


@record(what="confidence")
class Confidence:
    """When a prediction counts as unsure."""

    measure: Literal["margin", "entropy"] = "margin"
    """margin: how far the probabilities of the two most likely tokens are apart. entropy: of the distribution, nats."""
    threshold: float
    """A margin below it is unsure (0: none is; above 1: all are), or an entropy above it."""

    def is_unsure(self, logits: Tensor) -> Tensor:
        """[..., vocab_size] to [...], bool."""
        logits = logits.float()
        if self.measure == "margin":
            best = torch.exp(logits.topk(2, dim=-1).values - logits.logsumexp(-1, keepdim=True))
            return best[..., 0] - best[..., 1] < self.threshold
        log_p = torch.log_softmax(logits, dim=-1)
        return -(log_p.exp() * log_p).sum(-1) > self.threshold


class Routed(NamedTuple):
    token: int
    by_universal: bool


def decode_with_confidence(
    model: UniversalModel,
    prompt_ids: Sequence[int],
    *,
    small: Submodel,
    large: Submodel,
    confidence: Confidence,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    eos_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Routed]:
    """Yield at most `max_tokens` tokens, each with who chose it. Any of `eos_ids` ends the response, and is not in it.

    `large` reads the prompt, in one forward, and so chooses the first token. Raises LtsRayError, before that, when
    prompt and response do not fit the context together.
    """
    config = model.config
    check_length(len(prompt_ids), max_tokens, config.context_length)
    for submodel in (small, large):
        config.check(submodel)
    cache = model.empty_cache(length=len(prompt_ids) + max_tokens)
    generator = torch.Generator() if generator is None else generator

    def steps() -> Iterator[Routed]:
        tokens, held = list(prompt_ids), 0
        for place in range(max_tokens):
            with torch.inference_mode():  # around the step only: between yields the mode would leak to the caller
                step = torch.tensor([tokens], device=cache.keys.device)
                by_universal = place == 0
                if not by_universal:
                    logits = model(step, submodel=small, cache=cache, last_only=True)[0, -1]
                    by_universal = bool(confidence.is_unsure(logits))
                if by_universal:
                    cache.truncate(0, held)
                    logits = model(step, submodel=large, cache=cache, last_only=True)[0, -1]
                token = sample(logits, sampling, generator)
            if token in eos_ids:
                return
            yield Routed(token, by_universal)
            held += len(tokens)
            tokens = [token]

    return steps()
