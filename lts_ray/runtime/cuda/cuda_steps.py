"""Steps on one device, one after the other: the data goes there in one copy, and a graph does the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextvars import copy_context
from itertools import cycle

import torch

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.pick import Pick
from lts_ray.runtime.cuda.bucket import LARGEST, Bucket, usual_buckets
from lts_ray.runtime.cuda.cuda_weights import CudaWeights
from lts_ray.runtime.cuda.host_data import HostData
from lts_ray.runtime.cuda.launch import compile_steps, launch_step
from lts_ray.runtime.cuda.row_shapes import RowShapes
from lts_ray.runtime.cuda.step_data import StepData
from lts_ray.runtime.cuda.step_graphs import StepGraphs
from lts_ray.runtime.cuda.step_memory import StepMemory
from lts_ray.runtime.cuda.step_rows import StepRows
from lts_ray.runtime.cuda.tiles import memory_tiles, piece_rows

RING = 2
"""Pieces of host memory: one is filled while the copy of another waits for its turn."""
MOST_CHOSEN = 2**16
"""Tokens that one step may choose, in however many launches."""

logger = logging.getLogger(__name__)


class CudaSteps:
    """Not for two threads at once."""

    def __init__(
        self, model: MatFormer, *, n_blocks: int, block_tokens: int, most_blocks: int, early: bool | None = None
    ) -> None:
        """most_blocks: of a launch's block tables together. early: let a kernel begin before the one before it has
        ended; None: where the device can."""
        config, device = model.config, model.weight.device
        self.device, self.shapes = device, RowShapes(config)
        item_size = model.weight.itemsize
        stat_tiles, head_tiles, splits = memory_tiles(config, item_size)
        self._tile = piece_rows(config, item_size)
        self._weights, self._n_layer = CudaWeights.of(model), config.n_layer
        on_device = device.type == "cuda"
        if on_device:  # what the weights have left behind as they were joined is for others
            torch.cuda.empty_cache()
        self.memory = StepMemory.of(
            config,
            dtype=model.weight.dtype,
            device=device,
            n_blocks=n_blocks,
            block_tokens=block_tokens,
            rows=LARGEST.rows,
            wants=LARGEST.wants,
            stat_tiles=stat_tiles,
            head_tiles=head_tiles,
            parts=splits * LARGEST.singles,
            most_chosen=MOST_CHOSEN,
        )
        self._early = on_device and torch.cuda.get_device_capability(device) >= (9, 0) if early is None else early
        size = StepData.numbers(LARGEST, config.n_layer) + most_blocks
        self._data = torch.zeros(size, dtype=torch.int32, device=device)
        self._of_bucket: dict[Bucket, StepData] = {}
        hosts = [
            HostData(size, config.n_layer, block_tokens=block_tokens, tile=self._tile, is_pinned=on_device)
            for _ in range(RING)
        ]
        self._ring = cycle([(host, torch.cuda.Event() if on_device else None) for host in hosts])  # type: ignore[no-untyped-call]
        self._graphs = StepGraphs(device)

    @property
    def nbytes(self) -> int:
        """On the device, beside the weights."""
        return self.memory.nbytes + self._data.nbytes

    def prepare(self) -> None:
        """Compile and capture what most steps need, by steps of nothing but padding."""
        buckets, begun = usual_buckets(self._tile), time.perf_counter()
        logger.info("capturing CUDA graphs; kernels that Triton's cache does not hold are compiled first")
        # In a context of its own: after a failure Triton 3.6 would still take it for compiling, and refuse more.
        data = map(self._data_of, buckets)
        copy_context().run(compile_steps, self._weights, self.memory, data, early=self._early)
        for bucket in [*buckets, *buckets]:  # a graph goes to the device when it is first replayed
            self.run(StepRows(), bucket=bucket)
        torch.cuda.synchronize(self.device)
        logger.info("captured CUDA graphs of %d kinds of steps in %.1f s", len(buckets), time.perf_counter() - begun)

    def run(self, rows: StepRows, picks: Sequence[Pick] = (), *, bucket: Bucket | None = None) -> None:
        """On the current stream, without waiting: logits and chosen tokens of rows.wants are in the memory then.

        picks: of the wants; none: greedy. bucket: None: the smallest that holds the rows.
        """
        bucket = rows.bucket(self._tile) if bucket is None else bucket
        host, copied = next(self._ring)
        if copied is not None:
            copied.synchronize()
        filled = host.fill(bucket, rows, self.shapes.lines, picks)
        self._data[: filled.numel()].copy_(filled, non_blocking=True)
        if copied is not None:
            copied.record()
        data = self._data_of(bucket)
        self._graphs.run(bucket, lambda: launch_step(self._weights, self.memory, data, early=self._early))

    def _data_of(self, bucket: Bucket) -> StepData:
        if bucket not in self._of_bucket:
            self._of_bucket[bucket] = StepData.of(self._data, bucket, self._n_layer)
        return self._of_bucket[bucket]
