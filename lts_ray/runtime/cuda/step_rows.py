"""The rows of one launch as plain lists, in the order in which they lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lts_ray.runtime.cuda.bucket import Bucket, bucket_for


@dataclass(slots=True)
class StepRows:
    """Single rows first, then pieces of prompts; tokens, positions, tables and shapes have a number a row."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    """Where in blocks each row's sequence's begin."""
    shapes: list[int] = field(default_factory=list)
    """See RowShapes.number."""
    blocks: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    pieces: list[int] = field(default_factory=list)
    """Rows of each piece."""
    wants: list[int] = field(default_factory=list)
    """In the caller's order: the rows whose logits are asked for."""

    @property
    def singles(self) -> int:
        return len(self.tokens) - sum(self.pieces)

    def bucket(self, tile: int) -> Bucket:
        return bucket_for(self.singles, self.pieces, len(self.wants), tile=tile)
