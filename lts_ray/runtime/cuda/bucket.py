"""The shapes that steps are padded to, so that few graphs serve all: numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_SINGLES = 256
USUAL_SINGLES = tuple(2**power for power in range(MOST_SINGLES.bit_length()))
LEAST_ROWS, MOST_ROWS = 16, 2048
"""Of a step that has pieces of prompts: of these and of single rows together."""
BESIDE_PIECES = (0, 16, 64, MOST_SINGLES)
"""Room for single rows in a step that has pieces too; for the logits that are asked for there, all but the first."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Single rows come first, right behind them those of pieces, then padding."""

    rows: int
    singles: int = 0
    """The most that are single rows."""
    wants: int = 0
    """Rows of logits."""
    tiles: int = 0
    """Of consecutive rows of one piece, which attention takes together. 0 where there are no pieces."""


LARGEST = Bucket(MOST_ROWS, MOST_SINGLES, MOST_SINGLES, MOST_ROWS)
"""A tile has two rows at least, and so has a piece."""


def bucket_for(singles: int, pieces: Sequence[int], wants: int, *, tile: int) -> Bucket:
    """The smallest that holds so many single rows, pieces of so many rows each, and rows of logits.

    None may pass those of LARGEST. Rows that decode alone want logits, nearly all: they have a bucket a power of 2.
    tile: the most rows of one.
    """
    if not pieces:
        room = _power(max(singles, wants))
        return Bucket(room, room, room)
    rows, tiles = _power(singles + sum(pieces), least=LEAST_ROWS), sum(-(-piece // tile) for piece in pieces)
    room = 2 * -(-rows // tile)
    while room < tiles:
        room *= 2
    beside, asked = _at_least(singles, BESIDE_PIECES), _at_least(wants, BESIDE_PIECES[1:])
    return Bucket(rows, min(beside, rows), min(asked, rows), room)


def usual_buckets(tile: int) -> list[Bucket]:
    """Of most steps: rows that decode, and pieces of prompts alone or beside them."""
    buckets = [bucket_for(rows, [], 1, tile=tile) for rows in USUAL_SINGLES]
    for rows in (2**power for power in range(MOST_ROWS.bit_length()) if 2**power >= LEAST_ROWS):
        beside = [min(singles, rows - 2) for singles in BESIDE_PIECES]
        buckets += [bucket_for(singles, [rows - singles], max(singles, 1), tile=tile) for singles in beside]
    return list(dict.fromkeys(buckets))


def _at_least(number: int, sizes: Sequence[int]) -> int:
    return next(size for size in sizes if size >= number)


def _power(number: int, least: int = 1) -> int:
    """The next power of 2."""
    return max(least, 1 << (number - 1).bit_length())
