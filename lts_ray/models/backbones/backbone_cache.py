"""Keys and values of the tokens seen so far, for backbones whose layers differ in their number of heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BackboneCache:
    """A fixed block of memory that a backbone's `forward` appends to.

    keys, values: [n_layer, rows, length, d_model]; n_head * d_head is d_model in every layer, so one block holds all
    lengths: [rows], int64, on the CPU: how many tokens each row holds. The model advances it; whoever writes a smaller
    number rewinds the row.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.keys.shape[2]

    def rows(self, start: int, stop: int) -> BackboneCache:
        """Rows start..stop-1 as a cache of their own that shares this one's memory."""
        return BackboneCache(
            keys=self.keys[:, start:stop], values=self.values[:, start:stop], lengths=self.lengths[start:stop]
        )

    def truncate(self, row: int, length: int) -> None:
        """Forget a row's tokens from `length` on."""
        self.lengths[row] = length
