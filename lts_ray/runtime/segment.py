"""What a step runs of one sequence: a piece of its prompt, or its newest token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lts_ray.submodel import Submodel


@dataclass(kw_only=True, slots=True)
class Segment:
    """Not to be changed; frozen it would take thrice as long to make, which every row of every step pays."""

    tokens: Sequence[int]
    """They go to the places start, start + 1, … of the sequence, and must not be empty."""
    start: int
    """The places before it have been written by earlier segments."""
    blocks: Sequence[int]
    """The KV cache's blocks that hold the sequence's places 0 … start + len(tokens) - 1, in order."""
    submodel: Submodel
    """The width of all of the segment's tokens."""
    wants_logits: bool
    """Whether the next token is asked for, after the segment's last one."""

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)
