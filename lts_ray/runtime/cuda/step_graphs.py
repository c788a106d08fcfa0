"""CUDA graphs of steps, one a bucket: a step costs the host one call, however many kernels it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lts_ray.runtime.cuda.bucket import Bucket


class StepGraphs:
    """Of launches that read and write the same memory every time, and take none. On a CPU they run as they are."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._graphs = device, dict[Bucket, torch.cuda.CUDAGraph]()
        self._pool: Any = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, bucket: Bucket, launch: Callable[[], None]) -> None:
        """launch: the bucket's step. On the current stream."""
        if self._pool is None:
            launch()
        elif (graph := self._graphs.get(bucket)) is not None:
            graph.replay()
        else:
            self._graphs[bucket] = self._captured(launch)

    def _captured(self, launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Runs the step, which compiles what is new, and then records it without running it."""
        current = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph, which stops the world: it collects garbage and empties the allocator's cache.
        with torch.cuda.stream(stream):
            launch()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return graph
