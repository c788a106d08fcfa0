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
    """decoded: of the decoder's own tokens. sources: by decoder layer, of the encoder's output; empty until it read."""

    decoded: BackboneCache
    sources: list[Memory] = field(default_factory=list)

    @property
    def lengths(self) -> Tensor:
        """[rows], int64, on the CPU: how many decoded tokens each row holds. The model advances it."""
        return self.decoded.lengths

    def place(self, tokens: Tensor) -> int:
        """Where tokens [B, T] go. Raises LtsRayError where they fit no row, or not all rows alike."""
        rows, length = tokens.shape
        starts = set(self.lengths.tolist())
        if not self.sources:
            raise LtsRayError("nothing was read yet: a decoder needs a source to decode from")
        if len(self.lengths) != rows or len(starts) != 1:
            raise LtsRayError(
                f"T5 takes a cache of {rows} rows of one length for {rows} rows of tokens; "
                f"got lengths {self.lengths.tolist()}"
            )
        start = int(starts.pop())
        if start + length > self.decoded.capacity:
            raise LtsRayError(f"{start + length} tokens do not fit: the cache holds {self.decoded.capacity} tokens")
        return start
