"""The next token from logits: greedy, or drawn at a temperature from the most likely ones. No global randomness.

Logits are cut in vLLM's order: temperature, min_p, top_k, top_p. It is transformers' too, but for min_p, which there
comes last. What is left is drawn from in the order of ids. What depends on earlier tokens, or on which token is which,
is in `sampler.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite, log, nextafter

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError

HEAD = 1024
"""Tokens among which top_p looks first: they nearly always hold its mass, and sorting them is no work."""
MAX_BIAS = 100.0
"""OpenAI's: that much bans a token, or makes it certain. Penalties may be as large."""
MIN_REPETITION_PENALTY = 0.01
"""Logits are divided by it, and must stay numbers."""
COLDEST = 1e-30
"""Smaller temperatures are 0 in float32, and mean the same."""
DRAWN_AHEAD = 32
BROKEN_LOGITS = "the model's logits are no numbers, so that no token can be drawn: its weights are broken"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens whose probability reaches this, of one at least: 0 is greedy."""
    top_k: int = 0
    """Draw from so many most likely tokens, and those as likely as the last; 0 is off."""
    min_p: float = 0.0
    """Draw from tokens at least so likely, with the most likely one as 1."""
    repetition_penalty: float = 1.0
    """Of tokens in prompt or response, positive logits are divided by it and others multiplied."""
    presence_penalty: float = 0.0
    """Taken off the logits of the response's tokens, once."""
    frequency_penalty: float = 0.0
    """Taken off the logits of the response's tokens, as often as they came."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to a token's logit."""
    min_tokens: int = 0
    """The response does not end before it has as many."""

    def __post_init__(self) -> None:
        if not isfinite(self.temperature) or self.temperature < 0:
            raise LtsRayError(f"temperature must be a number of at least 0; got {self.temperature}")
        if not 0 <= self.top_p <= 1:
            raise LtsRayError(f"top_p must be from 0 to 1; got {self.top_p}")
        if self.top_k < 0:
            raise LtsRayError(f"top_k must be at least 1, or 0 for all tokens; got {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise LtsRayError(f"min_p must be from 0 to 1; got {self.min_p}")
        if not MIN_REPETITION_PENALTY <= self.repetition_penalty <= MAX_BIAS:
            raise LtsRayError(
                f"repetition_penalty must be from {MIN_REPETITION_PENALTY} to {MAX_BIAS:g}; "
                f"got {self.repetition_penalty}"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) <= MAX_BIAS:
                raise LtsRayError(f"{name} must be from {-MAX_BIAS:g} to {MAX_BIAS:g}; got {getattr(self, name)}")
        for token, bias in self.logit_bias.items():
            if token < 0 or not abs(bias) <= MAX_BIAS:
                raise LtsRayError(
                    f"logit_bias is from {-MAX_BIAS:g} to {MAX_BIAS:g} for token ids from 0; got {bias} for {token}"
                )
        if self.min_tokens < 0:
            raise LtsRayError(f"min_tokens must be at least 0; got {self.min_tokens}")

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def edits_logits(self) -> bool:
        """Whether single tokens' logits change, by what they are or by what came before."""
        return self.has_penalties or bool(self.logit_bias) or self.min_tokens > 0


GREEDY = Sampling()


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """logits: [vocab_size]. Draws on the CPU, so that a seed gives the same tokens whatever the model runs on.

    Raises LtsRayError for what only a Sampler can honour, which knows the earlier tokens.
    """
    _check_plain(sampling)
    return pick_token(logits, sampling, partial(draw_share, generator))


def pick_token(logits: Tensor, sampling: Sampling, draw: Callable[[], float]) -> int:
    """`sample`, of logits that have been edited already. draw: gives a `draw_share`, of which one is taken if any."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    tokens, weights = _candidates(logits.detach().float().cpu(), sampling)
    place = _index_at(weights, draw)
    return place if tokens is None else int(tokens[place])


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What `sample` draws from at a temperature above 0: [..., vocab_size], float32, on the CPU, each row sums to 1."""
    _check_plain(sampling)
    logits = logits.detach().float().cpu()
    if sampling.top_k == 0 and sampling.min_p == 0 and sampling.top_p == 1:
        return torch.softmax(_scaled(logits, sampling.temperature), dim=-1)
    shares = torch.zeros_like(logits)
    for row, out in zip(_rows(logits), _rows(shares), strict=True):
        tokens, weights = _candidates(row, sampling)
        weights = weights / weights.sum()
        out[... if tokens is None else tokens] = weights
    return shares


def draw_index(weights: Tensor, generator: torch.Generator) -> int:
    """An index, drawn in proportion to `weights` [n]: one random number, whatever n is."""
    return _index_at(weights, partial(draw_share, generator))


def _index_at(weights: Tensor, draw: Callable[[], float]) -> int:
    bounds = weights.cumsum(0, dtype=torch.float64)
    total = float(bounds[-1])
    if not 0 < total < float("inf"):  # NaN too
        raise LtsRayError(BROKEN_LOGITS)
    at = min(draw() * total, nextafter(total, 0.0))  # rounding must not reach the total, which is no token's
    return int(torch.searchsorted(bounds, at, right=True))


def draw_share(generator: torch.Generator) -> float:
    """The random number of one token, from 0 to 1, below 1."""
    return float(torch.rand((), dtype=torch.float64, generator=generator))


def draw_shares(generator: torch.Generator) -> Iterator[float]:
    """As `draw_share` again and again, but some are drawn ahead: that takes no longer than one does."""
    while True:
        yield from torch.rand(DRAWN_AHEAD, dtype=torch.float64, generator=generator).tolist()


def _candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor | None, Tensor]:
    """Of one row [vocab_size]: the tokens that may be drawn (None: all), and their weights, not normalised."""
    scaled = _scaled(logits, sampling.temperature)
    floor = log(sampling.min_p) if sampling.min_p > 0 else float("-inf")
    if 0 < sampling.top_k < len(scaled):
        floor = max(floor, float(scaled.topk(sampling.top_k, sorted=False).values.min()))
    weights = scaled.exp()
    if floor > float("-inf"):
        weights = torch.where(scaled >= floor, weights, 0.0)
    if sampling.top_p == 1:
        return None, weights
    return nucleus(weights, sampling.top_p)


def nucleus(weights: Tensor, top_p: float, *, head: int = HEAD) -> tuple[Tensor, Tensor]:
    """The heaviest tokens [k], and their weights, until they have the share `top_p` of all `weights` [vocab_size].

    Of equals the one with the smaller id is kept first. Both are in the order of ids, in which tokens are drawn
    whatever cut them: so a device needs no sort. head: how many are sorted first, which changes no result.
    """
    tokens = _heaviest(weights, top_p, head).sort().values
    return tokens, weights[tokens]


def _heaviest(weights: Tensor, top_p: float, head: int) -> Tensor:
    wanted = top_p * weights.sum(dtype=torch.float64)
    if head < len(weights):
        heaviest = weights.topk(head, sorted=False)
        order = heaviest.indices.sort().indices  # topk leaves open which comes first among equals
        ordered, places = heaviest.values[order].sort(descending=True, stable=True)
        kept = _reaching(ordered, wanted)
        # Beyond the head there may be equals of its last one, and which of them it holds is left open too.
        if kept < head and ordered[kept - 1] > ordered[-1]:
            return heaviest.indices[order][places[:kept]]
    ordered, tokens = weights.sort(descending=True, stable=True)
    return tokens[: _reaching(ordered, wanted)]


def _reaching(ordered: Tensor, wanted: Tensor) -> int:
    """A token stays while the mass before it is below what is wanted: the heaviest always does."""
    before = ordered.cumsum(0, dtype=torch.float64) - ordered
    return max(1, int((before < wanted).sum()))


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Subtracting the maximum first keeps a tiny temperature from overflowing to inf - inf."""
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, COLDEST)


def _rows(values: Tensor) -> Tensor:
    """[..., n] to [rows, n]: the same memory if it is contiguous, as new tensors are."""
    return values.reshape(-1, values.shape[-1])


def _check_plain(sampling: Sampling) -> None:
    if sampling.edits_logits:
        raise LtsRayError("penalties, logit_bias and min_tokens are for the serving engine: leave them out here")
