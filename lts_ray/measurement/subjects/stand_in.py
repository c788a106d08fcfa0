"""Weights for a model that is only measured: quick to make, and as quick to compute with as trained ones.

Drawing 100 million random numbers takes seconds, and a model left as it is allocated holds zeros or denormals, with
which a CPU computes faster or slower than with a model's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TILE = 65_521
"""Numbers drawn once and repeated; a prime, so that the rows of a matrix differ."""
STD = 0.02
DRAWS = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_",
         "xavier_uniform_", "orthogonal_")  # fmt: skip


class _SkipDraws(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def skipped_initialization() -> Iterator[None]:
    """Modules built inside keep their parameters as allocated where they would be drawn; tables are computed."""
    with _SkipDraws():
        yield


@torch.no_grad()
def stand_in_weights(module: nn.Module) -> None:
    """Fill all parameters in place: scales of norms with ones, all else with small normal numbers."""
    tile = torch.randn(TILE, generator=torch.Generator().manual_seed(0)) * STD
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
        else:
            fill(parameter.view(-1), tile)


def fill(flat: Tensor, tile: Tensor) -> None:
    """flat: [N], filled with `tile` over and over."""
    whole = len(flat) // len(tile) * len(tile)
    flat[:whole].view(-1, len(tile)).copy_(tile)
    flat[whole:].copy_(tile[: len(flat) - whole])
