"""The next token from logits: greedy, or drawn at a temperature from the most likely ones. No global randomness."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature: 0 is greedy. top_p: draw from the smallest set of tokens whose probability reaches this."""

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not isfinite(self.temperature) or self.temperature < 0:
            raise LtsRayError(f"temperature must be a number of at least 0; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise LtsRayError(f"top_p must be above 0 and at most 1; got {self.top_p}")


GREEDY = Sampling()


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """logits: [vocab_size]. Draws on the CPU, so that a seed gives the same tokens whatever the model runs on."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    return draw(probabilities(logits, sampling), generator)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What `sample` draws from at a temperature above 0: [..., vocab_size], float32, on the CPU, each row sums to 1."""
    logits = logits.detach().float().cpu()
    # Subtracting the maximum first keeps a tiny temperature from overflowing to inf - inf.
    scaled = torch.softmax((logits - logits.amax(-1, keepdim=True)) / sampling.temperature, dim=-1)
    if sampling.top_p == 1:
        return scaled
    ordered, tokens = scaled.sort(dim=-1, descending=True, stable=True)
    # A token stays while the mass before it is below top_p: the most likely one always does.
    ordered *= ordered.cumsum(-1) - ordered < sampling.top_p
    return torch.zeros_like(scaled).scatter_(-1, tokens, ordered / ordered.sum(-1, keepdim=True))


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """An index, drawn in proportion to `weights` [n]."""
    return int(torch.multinomial(weights, 1, generator=generator))
