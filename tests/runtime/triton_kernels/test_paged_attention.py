"""Attention over pages, against torch's over the gathered places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lts_ray.runtime.triton_kernels.paged_attention import paged_attention, tiles_options

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
UNTOUCHED = 7.0


class Paged:
    """Rows of a step that attend to sequences of random keys and values, in blocks dealt out at random.

    Each sequence has as many places as its last row sees; what lies behind them is no number.
    """

    def __init__(
        self,
        sequences: list[int],
        rows: list[tuple[int, int, int]],
        device: torch.device,
        dtype: torch.dtype,
        *,
        n_head: int = 6,
        n_kv: int = 2,
        d_head: int = 16,
    ) -> None:
        """`rows` are (sequence, position, query heads). A sequence shares the first block of the one before it."""
        random = torch.Generator().manual_seed(0)
        self.n_head, self.n_kv, self.d_head, self.rows = n_head, n_kv, d_head, rows
        counts = [-(-places // 16) for places in sequences]
        n_blocks = sum(counts) + 1
        deck = torch.randperm(n_blocks, generator=random).tolist()
        self.blocks = [[deck.pop() for _ in range(count)] for count in counts]
        for one, before in zip(self.blocks[1:], self.blocks, strict=False):
            one[0] = before[0]
        cache = torch.full((2, n_blocks, n_kv, 16, d_head), torch.nan)
        for table, places in zip(self.blocks, sequences, strict=True):
            for number, block in enumerate(table):
                inside = min(16, places - 16 * number)
                cache[:, block, :, :inside] = torch.randn((2, n_kv, inside, d_head), generator=random)
        starts = torch.tensor([0, *counts]).cumsum(0)

        def whole(values: Any) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        self.keys, self.values = cache.to(device, dtype)
        self.q = torch.randn((len(rows), n_head * d_head), generator=random).to(device, dtype)
        self.positions = whole([position for _, position, _ in rows])
        self.tables = whole([int(starts[sequence]) for sequence, _, _ in rows])
        self.flat = whole([block for table in self.blocks for block in table])
        self.heads = whole([heads for _, _, heads in rows])
        self.arrived = whole([[0] * n_kv] * len(rows))

    def run(
        self,
        *,
        singles: int = 0,
        tiles: list[tuple[int, int]] | None = None,
        tile_rows: int = 1,
        splits: int = 1,
        chunk: int = 16,
    ) -> torch.Tensor:
        """attended [rows, n_head, d_head]."""
        device = self.q.device
        alone = torch.tensor([singles], dtype=torch.int32, device=device)
        first, size = torch.tensor(tiles or [(0, 0)], dtype=torch.int32, device=device).T.contiguous()
        partial = torch.full((len(self.rows), self.n_head, splits, self.d_head), torch.nan, device=device)
        marks = torch.full((len(self.rows), self.n_head, splits, 2), torch.nan, device=device)
        attended = torch.full_like(self.q, UNTOUCHED)
        grid = (len(tiles or self.rows), self.n_kv, splits)
        paged_attention[grid](
            *(self.q, self.keys, self.values, self.positions, self.tables, self.flat, self.heads),
            *(alone, first, size, partial, marks, self.arrived, attended, self.d_head**-0.5),
            N_HEAD=self.n_head,
            N_KV=self.n_kv,
            D_HEAD=self.d_head,
            ROWS=tile_rows,
            SPLITS=splits,
            SPLIT_PLACES=32,
            CHUNK=chunk,
            num_warps=4,
            num_stages=5,
            enable_fp_fusion=True,
        )
        return attended.view(len(self.rows), self.n_head, self.d_head).float().cpu()

    def expected(self, row: int) -> torch.Tensor:
        """[n_head, d_head], heads past the row's own 0."""
        sequence, position, heads = self.rows[row]
        places = [self.blocks[sequence][place // 16] * 16 + place % 16 for place in range(position + 1)]
        key, value = (
            cache.transpose(1, 2).flatten(0, 1)[places].float().cpu().transpose(0, 1)
            for cache in (self.keys, self.values)
        )
        query = self.q[row].view(self.n_head, 1, self.d_head).float().cpu()
        attended = scaled_dot_product_attention(query[None], key[None], value[None], enable_gqa=True)[0, :, 0]
        attended[heads:] = 0
        return attended


def check(paged: Paged, attended: torch.Tensor, rows: list[int]) -> None:
    expected = torch.stack([paged.expected(row) for row in rows])
    torch.testing.assert_close(attended[rows], expected, rtol=0, atol=TOLERANCE[paged.q.dtype])
    others = [row for row in range(len(paged.rows)) if row not in rows]
    assert (attended[others] == UNTOUCHED).all()


@pytest.mark.parametrize(("n_head", "n_kv", "d_head"), [(6, 2, 16), (4, 4, 8), (4, 1, 80)])
def test_rows(device: torch.device, dtype: torch.dtype, n_head: int, n_kv: int, d_head: int) -> None:
    """Lengths on both sides of a block's and a chunk's edge, fewer heads, a row of padding, one of a later piece."""
    few = n_head // 2 if n_kv > 1 else n_head
    rows = [(0, 0, n_head), (1, 15, few), (2, 16, n_head), (0, 0, 0), (3, 69, n_head), (3, 31, few), (3, 3, n_head)]
    paged = Paged([1, 16, 17, 70], rows, device, dtype, n_head=n_head, n_kv=n_kv, d_head=d_head)
    check(paged, paged.run(singles=6, chunk=32), [0, 1, 2, 4, 5])


@pytest.mark.parametrize(("n_head", "n_kv", "d_head", "splits"), [(6, 2, 16, 4), (16, 1, 72, 8)])
def test_splits(device: torch.device, dtype: torch.dtype, n_head: int, n_kv: int, d_head: int, splits: int) -> None:
    """As many as a row's places ask for, and bit for bit the same each time; more than are put together at once."""
    rows = [(0, 31, n_head), (1, 32, n_head // n_kv), (2, 180, n_head), (3, 0, 0)]
    paged = Paged([32, 33, 181, 3], rows, device, dtype, n_head=n_head, n_kv=n_kv, d_head=d_head)
    attended = paged.run(singles=4, splits=splits, chunk=32)
    check(paged, attended, [0, 1, 2])
    assert (paged.arrived == 0).all()
    assert torch.equal(paged.run(singles=4, splits=splits, chunk=32), attended)


@pytest.mark.parametrize("usual", [False, True])
def test_tiles(device: torch.device, dtype: torch.dtype, usual: bool) -> None:
    """A piece that begins a sequence, one that goes on with another over a chunk's edge, a row alone, no tile."""
    rows = [(0, place, 3) for place in range(7)] + [(1, place, 6) for place in range(60, 85)] + [(2, 3, 6)] * 2
    paged = Paged([7, 85, 4], rows, device, dtype)
    options = tiles_options(3, 16, dtype.itemsize) if usual else {"ROWS": 5, "CHUNK": 16}
    most = options["ROWS"]
    tiles = [
        (first, min(most, stop - first)) for start, stop in ((0, 7), (7, 32)) for first in range(start, stop, most)
    ]
    attended = paged.run(tiles=[*tiles, (0, 0), (32, 1)], tile_rows=most, chunk=options["CHUNK"])
    check(paged, attended, list(range(33)))
