"""How much of each part of a model the rows of one pass run: one number where they agree, else one per row.

One rule holds for everything that nests, neurons, heads and d_model: a row's part is a prefix, and what a row does not
have is 0. Then a product with the widest row's prefix of a matrix is right for every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic import ElasticConfig
from lts_ray.submodel import Submodel

Widths = int | tuple[int, ...]
"""How much of one part runs: one number for all rows, or one per row."""


@dataclass(frozen=True, slots=True)
class Extent:
    """widths, heads: of each layer; 0 neurons: the row leaves the layer out. d_model: of what runs between layers.

    heads is empty, and d_model 0, where all rows have all of them.
    """

    widths: tuple[Widths, ...]
    heads: tuple[Widths, ...] = ()
    d_model: Widths = 0

    @classmethod
    def of(cls, submodel: Submodel | Sequence[Submodel], rows: int, config: ElasticConfig) -> Extent:
        """submodel: one for all rows, or one per row. Raises LtsRayError where the model does not have one of them."""
        if isinstance(submodel, Submodel):
            chosen = config.check(submodel)
            return cls(chosen.widths, chosen.heads, chosen.d_model)
        if len(submodel) != rows:
            raise LtsRayError(f"{len(submodel)} submodels for {rows} rows: give one, or one per row")
        checked = {each: config.check(each) for each in set(submodel)}
        each_row = [checked[each] for each in submodel]
        heads: tuple[Widths, ...] = ()
        if any(each.heads for each in checked.values()):
            heads = _columns(each.heads or config.elastic_heads for each in each_row)
        d_model: Widths = 0
        if any(each.d_model for each in checked.values()):
            d_model = _agreed(tuple(each.d_model or config.elastic_d_model for each in each_row))
        return cls(_columns(each.widths for each in each_row), heads, d_model)


def _columns(rows: Iterable[Sequence[int]]) -> tuple[Widths, ...]:
    return tuple(_agreed(column) for column in zip(*rows, strict=True))


def _agreed(column: tuple[int, ...]) -> Widths:
    return column[0] if len(set(column)) == 1 else column


def most(widths: Widths) -> int:
    return widths if isinstance(widths, int) else max(widths)


def cut(x: Tensor, widths: Widths) -> Tensor:
    """Each row up to its own width, and 0 past it, as wide as the widest: x [B, T, D] to [B, T, most(widths)].

    x may be of no more than the widest already.
    """
    x = x[..., : most(widths)]
    if isinstance(widths, int):
        return x
    own = torch.tensor(widths, device=x.device)[:, None, None]  # [B, 1, 1]
    return x.masked_fill(torch.arange(x.shape[-1], device=x.device) >= own, 0)
