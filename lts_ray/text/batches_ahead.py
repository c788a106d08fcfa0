"""Batches that are read while the step before them runs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from lts_ray.text.batches import Batches


class BatchesAhead:
    """For one worker: what `Batches` gives, step after step, in memory that a GPU copies from by itself."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Tensor]] | None = None

    def batch(self, step: int, *, rank: int = 0, workers: int = 1) -> Tensor:
        """As of `Batches`; a step that does not follow the last one is read when it is asked for."""
        step_read, read = self._next or (-1, Future())
        if step_read != step:
            read = self._reader.submit(self._read, step, rank, workers)
        self._next = step + 1, self._reader.submit(self._read, step + 1, rank, workers)
        return read.result()

    def _read(self, step: int, rank: int, workers: int) -> Tensor:
        batch = self._batches.batch(step, rank=rank, workers=workers)
        return batch.pin_memory() if torch.cuda.is_available() else batch
