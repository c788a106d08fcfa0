"""A step's data on the host, filled while the device is at earlier steps: see StepData for what is where."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lts_ray.pick import Pick
from lts_ray.runtime.cuda.bucket import Bucket
from lts_ray.runtime.cuda.row_shapes import Numbers
from lts_ray.runtime.cuda.step_data import StepData
from lts_ray.runtime.cuda.step_rows import StepRows

MOST_TOP_K = 2**31 - 1
Views = dict[str, npt.NDArray[np.generic]]


class HostData:
    def __init__(self, size: int, n_layer: int, *, block_tokens: int, tile: int, is_pinned: bool) -> None:
        """size: in numbers of 4 bytes."""
        self.memory = torch.zeros(size, dtype=torch.int32, pin_memory=is_pinned)
        self._numbers = self.memory.numpy()
        self._n_layer, self._block_tokens, self._tile = n_layer, block_tokens, tile
        self._views: dict[Bucket, tuple[int, Views]] = {}

    def fill(self, bucket: Bucket, rows: StepRows, lines: Numbers, picks: Sequence[Pick]) -> Tensor:
        """The beginning of the memory, as much as this step needs. lines: see RowShapes; picks: see CudaSteps."""
        before, to = self._views_of(bucket)
        numbers = self._numbers
        numbers[:before] = 0
        blocks = numbers[before : before + len(rows.blocks)]
        blocks[:] = rows.blocks
        count, singles = len(rows.tokens), rows.singles
        to["places"][:] = -1
        # All at once, for each call of numpy's takes as long as some fifty rows do.
        listed = np.frombuffer(array("i", rows.tokens + rows.positions + rows.tables + rows.shapes), dtype=np.int32)
        of_rows = listed.reshape(4, count)
        _, positions, tables, shapes = of_rows
        of_layers = lines.take(shapes, axis=1)
        block, offset = np.divmod(positions, self._block_tokens)
        of_rows[3] = blocks[tables + block] * self._block_tokens + offset
        to["rows"][:, :count] = of_rows
        to["lines"][:, :count] = of_layers
        if rows.pieces:
            self._fill_tiles(to, rows.pieces, singles)
        to["wants"][: len(rows.wants)] = rows.wants
        to["counts"][0], to["singles"][0] = len(rows.wants), singles
        temperatures = [pick.temperature for pick in picks]
        if any(temperatures):
            for name, of_picks in (
                ("draws", [pick.draw for pick in picks]),
                ("temperatures", temperatures),
                ("top_ps", [pick.top_p for pick in picks]),
                ("min_ps", [pick.min_p for pick in picks]),
                ("top_ks", [pick.top_k if pick.top_k < MOST_TOP_K else MOST_TOP_K for pick in picks]),
            ):
                to[name][: len(picks)] = of_picks
        return self.memory[: before + len(rows.blocks)]

    def _fill_tiles(self, to: Views, pieces: Sequence[int], start: int) -> None:
        firsts: list[int] = []
        sizes: list[int] = []
        for piece in pieces:
            whole, rest = divmod(piece, self._tile)
            firsts += range(start, start + piece, self._tile)
            sizes += [self._tile] * whole + [rest] * (rest > 0)
            start += piece
        to["firsts"][: len(firsts)] = firsts
        to["sizes"][: len(sizes)] = sizes

    def _views_of(self, bucket: Bucket) -> tuple[int, Views]:
        """How many numbers lie before the blocks, and the views as numpy's; with them those of several together, which
        lie one behind the other: rows, [4, R], from tokens to places, and lines, [1 + 2 L, R], from dims to heads."""
        if (known := self._views.get(bucket)) is None:
            data = StepData.of(self.memory, bucket, self._n_layer)
            names = [name for name in StepData.__slots__ if name not in ("bucket", "blocks")]
            views = {name: getattr(data, name).numpy() for name in names}
            start, before = int(data.tokens.storage_offset()), int(data.blocks.storage_offset())
            together = self._numbers[start:before].reshape(5 + 2 * self._n_layer, -1)[:, : bucket.rows]
            known = self._views[bucket] = before, views | {"rows": together[:4], "lines": together[4:]}
        return known
