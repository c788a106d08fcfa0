"""How a step's products are cut into tiles: by the model's shape and the number of rows, so that a few hundred programs
are there to read the weights at once. Numbers only.

A product of few rows waits for memory: small tiles of columns, so that even the narrowest submodel has one for every
multiprocessor, and long runs of each matrix's rows in flight. A product of many rows is arithmetic: tiles as large as
the tensor cores like them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.cuda.bucket import MOST_SINGLES, USUAL_SINGLES, Bucket
from lts_ray.runtime.triton_kernels.paged_attention import rows_options, tiles_options

FEWEST_COLUMNS = 8
"""Of a tile of a product that leads into the residual; and of the head, HEAD_COLUMNS."""
HEAD_COLUMNS = 16
SMALLEST_DOT = 16
"""In every direction."""
MANY_ROWS = 256
"""From so many on, tiles are large, and the norm is a kernel of its own."""


@dataclass(frozen=True, slots=True)
class Tile:
    rows: int
    """1: without tensor cores."""
    columns: int
    """Of the result: rows of the matrix."""
    steps: int
    """Columns of the matrix at a time."""
    warps: int = 4
    stages: int = 4
    """Pieces of the matrix in flight, the one in use included."""


@dataclass(frozen=True, slots=True)
class StepTiles:
    """Of one bucket, by the product; see lts_ray.runtime.triton_kernels."""

    qkv: Tile
    """Its columns are of half a head."""
    out: Tile
    """Has as many columns as down; and ffn as many rows as down."""
    ffn: Tile
    down: Tile
    head: Tile
    norm_apart: bool


def step_tiles(config: MatFormerConfig, bucket: Bucket, item_size: int = 2) -> StepTiles:
    """What suits a bucket. item_size: bytes of a weight."""
    tiles = _by_rows(bucket.rows)
    d_model, d_in, widest = config.d_model, config.n_head * config.d_head, max(config.widths)
    half = -(-config.d_head // 2)
    qkv = _fitted(tiles.qkv, half, d_model, item_size)
    if config.family.qk_norm:  # a norm of a head needs all of it in one program
        columns = _power(max(half, qkv.columns))
        qkv = replace(qkv, columns=columns, steps=max(SMALLEST_DOT, qkv.steps * qkv.columns // columns))
    return replace(
        tiles,
        qkv=qkv,
        out=_fitted(tiles.out, d_model, d_in, item_size),
        ffn=_fitted(tiles.ffn, widest, d_model, item_size),
        down=_fitted(tiles.down, d_model, widest, item_size),
        head=_fitted(_by_rows(max(1, bucket.wants)).head, config.vocab_size, d_model, item_size),
    )


def piece_rows(config: MatFormerConfig, item_size: int) -> int:
    """Of a piece of a prompt, that attention takes together. item_size: bytes of a weight."""
    return tiles_options(config.head_step, config.d_head, item_size)["ROWS"]


def memory_tiles(config: MatFormerConfig, item_size: int) -> tuple[int, int, int]:
    """The most of any bucket: tiles of d_model, tiles of the vocabulary, and splits of a context: of these as many as
    make, times MOST_SINGLES, the largest product of single rows and splits."""
    parts = [rows * rows_options(rows, config.n_kv_head, config.d_head, item_size)["SPLITS"] for rows in USUAL_SINGLES]
    columns = -(-config.d_model // FEWEST_COLUMNS)
    return columns, -(-config.vocab_size // HEAD_COLUMNS), -(-max(parts) // MOST_SINGLES)


def _by_rows(rows: int) -> StepTiles:
    """Before they are fitted to a model."""
    if rows == 1:
        narrow = Tile(1, FEWEST_COLUMNS, 512)
        return StepTiles(
            qkv=narrow, out=narrow, ffn=narrow, down=narrow, head=Tile(1, HEAD_COLUMNS, 512, stages=3), norm_apart=False
        )
    if rows <= 32:
        size = 16 if rows <= 16 else 32
        narrow = Tile(size, 16, 256)
        return StepTiles(
            qkv=Tile(size, 16, 128, stages=5),
            out=narrow,
            ffn=Tile(size, size, 128),
            down=narrow,
            head=Tile(size, 64, 128, stages=3),
            norm_apart=False,
        )
    if rows < MANY_ROWS:
        # Each tile of columns reads all rows again, from the second-level cache: the wider, the less of that.
        narrow = Tile(64, 32, 128)
        return StepTiles(
            qkv=narrow,
            out=narrow,
            ffn=Tile(64, 64, 64),
            down=narrow,
            head=Tile(64, 128, 64),
            norm_apart=False,
        )
    wide = Tile(128, 64, 64, warps=8)
    into = replace(wide, columns=64 if rows < 1024 else 128)
    return StepTiles(
        qkv=replace(wide, columns=32),
        out=into,
        ffn=replace(wide, stages=3),
        down=into,
        head=Tile(64, 128, 64),
        norm_apart=True,
    )


def _fitted(tile: Tile, columns: int, steps: int, item_size: int) -> Tile:
    """No larger than what there is: a matrix of so many rows and columns. float32 has half as many numbers in as many
    bytes, and is multiplied in three parts, which take registers."""
    least, most, part = (
        (1, tile.columns, 2) if tile.rows == 1 else (SMALLEST_DOT, max(SMALLEST_DOT, min(32, tile.rows // 2)), 4)
    )
    if item_size < 4:
        most, part = tile.columns, 1
    return replace(
        tile,
        columns=max(least, min(tile.columns, most, _power(columns))),
        steps=max(SMALLEST_DOT, min(tile.steps // part, _power(steps))),
    )


def _power(number: int) -> int:
    """The next power of 2."""
    return 1 << (number - 1).bit_length()
