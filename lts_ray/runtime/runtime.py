"""What the serving engine needs of the code that multiplies the matrices: run a step, return logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.segment import Segment

BLOCK_TOKENS = 16
"""Places of a block of the KV cache: one vector of the widest registers, so that a block's scores are one of them."""


class Runtime(Protocol):
    """Holds the weights and the KV cache's memory. Which sequence uses which block is the caller's to know."""

    n_blocks: int
    """Blocks of BLOCK_TOKENS places; any of 0 … n_blocks - 1 may stand in a segment."""

    @property
    def config(self) -> DecoderConfig:
        """The model's."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """That segments' submodels may have, the most precise first; one that names none runs in the first."""
        ...

    @property
    def kept_bytes(self) -> int:
        """What it keeps in memory beside the weights: the KV cache, and what its largest step so far took and kept."""
        ...

    def forget(self) -> None:
        """Give back what memory the KV cache takes; what its blocks held is lost."""
        ...

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Run all segments in one step, each at its own submodel. Not for two threads at once.

        Keys and values of the segments' tokens are in their blocks afterwards. Two segments may share blocks that
        neither writes. Returns logits, [segments that want them, vocab_size], float32 on the CPU, in the segments'
        order; valid until the next run. Each row is what its sequence would get alone.
        """
        ...
