"""Keys and values of the tokens seen so far, for backbones whose layers differ in their number of heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, kw_only=True)
class BackboneCache:
    """A fixed block of memory that a backbone's `forward` appends to."""

    keys: Tensor
    """[n_layer, rows, length, d_model]; n_head * d_head is d_model in every layer, so one block holds all."""
    values: Tensor
    """As the keys."""
    lengths: Tensor
    """[rows], int64, on the CPU: how many tokens each row holds. The model advances it; less rewinds a row."""

    @classmethod
    def empty(cls, n_layer: int, *, rows: int, length: int, like: Tensor) -> BackboneCache:
        """like: [..., d_model], of the parameters' type and on their device."""
        shape = (n_layer, rows, length, like.shape[-1])
        return cls(
            keys=torch.zeros(shape, dtype=like.dtype, device=like.device),
            values=torch.zeros(shape, dtype=like.dtype, device=like.device),
            lengths=torch.zeros(rows, dtype=torch.int64),
        )

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.keys.shape[2]

    def common_length(self, rows: int, model: str) -> int:
        """The tokens that each of these rows holds. Raises LtsRayError where they hold different numbers."""
        lengths = self.lengths.tolist()
        if len(lengths) != rows or len(set(lengths)) != 1:
            raise LtsRayError(
                f"{model} takes a cache of {rows} rows of one length for {rows} rows of tokens; got lengths {lengths}"
            )
        return int(lengths[0])

    def write(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put k, v [B, T, d_model] behind the `start` tokens of each row; return all keys and values up to there."""
        end = start + k.shape[1]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, start:end] = k
        values[:, start:end] = v
        return keys[:, :end], values[:, :end]
