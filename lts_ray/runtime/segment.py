"""What a step runs of one sequence: a piece of its prompt, or its newest token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """tokens: they go to the places start, start + 1, … of the sequence, and must not be empty.

    blocks: the KV cache's blocks that hold the sequence's places 0 … start + len(tokens) - 1, in order; the places
    before `start` have been written by earlier segments. submodel: the width of all of the segment's tokens.
    wants_logits: whether the next token is asked for, after the segment's last one.
    """

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    submodel: Submodel
    wants_logits: bool

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)
