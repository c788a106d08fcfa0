"""Keys and values of the tokens seen so far, one row per sequence; every width of a model shares one layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.models.decoder_config import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """A fixed block of memory that a universal model's passes append to.

    keys, values: [n_layer, rows, n_kv_head, length, d_head]
    lengths: [rows], int64, on the CPU: how many tokens each row holds. The model advances it.

    No submodel touches keys and values' shapes, so a row may change its submodel between steps.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor

    @classmethod
    def empty(
        cls, config: DecoderConfig, *, rows: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> KVCache:
        of_token = config.cache_shape
        shape = (of_token.n_layer, rows, of_token.n_kv_head, length, of_token.d_head)
        return cls(
            keys=torch.zeros(shape, dtype=dtype, device=device),
            values=torch.zeros(shape, dtype=dtype, device=device),
            lengths=torch.zeros(rows, dtype=torch.int64),
        )

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.keys.shape[3]

    def rows(self, start: int, stop: int) -> KVCache:
        """Rows start..stop-1 as a cache of their own that shares this one's memory."""
        return KVCache(
            keys=self.keys[:, start:stop], values=self.values[:, start:stop], lengths=self.lengths[start:stop]
        )

    def truncate(self, row: int, length: int) -> None:
        """Forget a row's tokens from `length` on."""
        self.lengths[row] = length
