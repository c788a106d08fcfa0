"""The training-free proxies by name, and what one costs: one forward pass on a batch, for most a backward one too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lts_ray.errors import LtsRayError
from lts_ray.proxies.live_model import LiveModel
from lts_ray.proxies.saliency import fisher, grad_norm, snip, synflow
from lts_ray.proxies.separation import jacob_cov, relu_log_det


@dataclass(frozen=True, kw_only=True)
class ZeroCostScore:
    name: str
    value: float
    flops: int
    """Of matrix products and attention, for one batch as given; a multiplication and an addition are two."""


PROXIES: Mapping[str, Callable[[LiveModel, Tensor], float]] = {
    "snip": snip,
    "synflow": synflow,
    "grad_norm": grad_norm,
    "fisher": fisher,
    "jacob_cov": jacob_cov,
    "relu_log_det": relu_log_det,
}
"""The value for a model and tokens [B, T]. By their authors, a higher one is expected of a better model."""


def zero_cost_score(name: str, model: LiveModel, tokens: Tensor) -> ZeroCostScore:
    """Compute one proxy on tokens [B, T]. The module is left as it is."""
    if name not in PROXIES:
        raise LtsRayError(f"unknown proxy {name!r}; known: {', '.join(PROXIES)}")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels are not all counted
        value = PROXIES[name](model, tokens)
    return ZeroCostScore(name=name, value=value, flops=int(counter.get_total_flops()))


def random_batch(vocab_size: int, *, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """[rows, length] token ids, all equally likely: a batch where no data set is at hand."""
    return torch.randint(vocab_size, (rows, length), generator=generator, device=generator.device)
