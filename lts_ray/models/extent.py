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
from lts_ray.models.elastic_config import ElasticConfig
from lts_ray.submodel import Submodel

Widths = int | tuple[int, ...]
"""How much of one part runs: one number for all rows, or one per row."""


@dataclass(frozen=True, slots=True)
class Extent:
    widths: tuple[Widths, ...]
    """FFN neurons of each layer; 0: the row leaves the layer out."""
    heads: tuple[Widths, ...] = ()
    """Of each layer; empty where all rows have all of them."""
    d_model: Widths = 0
    """Of what runs between layers; 0 where all rows have all of it."""

    @classmethod
    def of(cls, submodel: Submodel | Sequence[Submodel], rows: int, config: ElasticConfig) -> Extent:
        """submodel: one for all rows, or one per row. Raises LtsRayError where the model does not have one of them."""
        if isinstance(submodel, Submodel):
            chosen = _as_stored(config.check(submodel))
            return cls(chosen.widths, chosen.heads, chosen.d_model)
        if len(submodel) != rows:
            raise LtsRayError(f"{len(submodel)} submodels for {rows} rows: give one, or one per row")
        checked = {chosen: _as_stored(config.check(chosen)) for chosen in set(submodel)}
        of_rows = [checked[chosen] for chosen in submodel]
        heads: tuple[Widths, ...] = ()
        if any(row.heads for row in of_rows):
            heads = _columns(row.heads or config.elastic_heads for row in of_rows)
        d_model: Widths = 0
        if any(row.d_model for row in of_rows):
            d_model = _agreed(tuple(row.d_model or config.elastic_d_model for row in of_rows))
        return cls(_columns(row.widths for row in of_rows), heads, d_model)


def _as_stored(submodel: Submodel) -> Submodel:
    if submodel.precision:
        raise LtsRayError(
            f"a model's own pass runs its weights as they are: {submodel.precision} is a runtime's, or `at_precision`'s"
        )
    return submodel


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
