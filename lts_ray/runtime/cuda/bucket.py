"""The shapes that steps are padded to, so that few graphs serve all: numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_SINGLES = 256
MOST_PIECES = 2048
TILE = 16
"""Rows of one piece of a prompt that attention takes together."""
USUAL_SINGLES = tuple(2**power for power in range(MOST_SINGLES.bit_length()))
BESIDE_PIECES = (0, 16, 64, MOST_SINGLES)
"""Room for single rows in a step that has pieces too; for the logits that are asked for there, all but the first."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows 0 … singles - 1 are single rows and their padding, those behind them the rows of pieces and theirs."""

    singles: int
    pieces: int = 0
    """Rows of pieces of prompts."""
    wants: int = 0
    """Rows of logits."""
    tiles: int = 0
    """Of up to TILE consecutive rows of one piece. 0 where there are no pieces."""

    @property
    def rows(self) -> int:
        return self.singles + self.pieces


def bucket_for(singles: int, pieces: Sequence[int], wants: int) -> Bucket:
    """The smallest that holds so many single rows, pieces of so many rows each, and rows of logits.

    None of them may pass its MOST. Decoding rows alone, or nearly, all want logits: they have one bucket a power of 2.
    """
    if not pieces:
        room = _power(max(singles, wants))
        return Bucket(room, wants=room)
    rows, tiles = _power(sum(pieces), least=TILE), sum(-(-piece // TILE) for piece in pieces)
    room = 2 * (rows // TILE)
    while room < tiles:
        room *= 2
    return Bucket(_at_least(singles, BESIDE_PIECES), rows, _at_least(wants, BESIDE_PIECES[1:]), room)


def _at_least(number: int, sizes: Sequence[int]) -> int:
    return next(size for size in sizes if size >= number)


def _power(number: int, least: int = 1) -> int:
    """The next power of 2."""
    return max(least, 1 << (number - 1).bit_length())
