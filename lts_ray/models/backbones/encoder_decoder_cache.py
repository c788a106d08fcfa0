"""What a decoder of an encoder–decoder remembers: its own tokens, and each layer's view of what the encoder read."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_cache import BackboneCache

Memory = tuple[Tensor, Tensor]
"""Keys and values, [B, S, d_model] each."""


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderCache:
    decoded: BackboneCache
    """Of the decoder's own tokens."""
    sources: list[Memory] = field(default_factory=list)
    """Of the encoder's output, by decoder layer; empty until a source was read."""

    @property
    def lengths(self) -> Tensor:
        """[rows], int64, on the CPU: how many decoded tokens each row holds. The model advances it."""
        return self.decoded.lengths

    def place(self, tokens: Tensor) -> int:
        """Where tokens [B, T] go. Raises LtsRayError where they fit no row, or not all rows alike."""
        rows, length = tokens.shape
        if not self.sources:
            raise LtsRayError("nothing was read yet: a decoder needs a source to decode from")
        start = self.decoded.common_length(rows, "T5")
        if start + length > self.decoded.capacity:
            raise LtsRayError(f"{start + length} tokens do not fit: the cache holds {self.decoded.capacity} tokens")
        return start
