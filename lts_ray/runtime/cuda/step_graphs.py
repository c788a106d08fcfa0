"""CUDA graphs of steps, one a bucket: a step costs the host one call, however many kernels it has."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lts_ray.runtime.cuda.bucket import Bucket


class StepGraphs:
    """Of launches that read and write the same memory every time, and take none. On a CPU they run as they are."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._graphs = device, dict[Bucket, torch.cuda.CUDAGraph]()

    def run(self, bucket: Bucket, launch: Callable[[], None]) -> None:
        """launch: the bucket's step. On the current stream."""
        if self._device.type != "cuda":
            launch()
        elif (graph := self._graphs.get(bucket)) is not None:
            graph.replay()
        else:
            self._graphs[bucket] = self._captured(launch)

    def _captured(self, launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Runs the step, which compiles and loads what is new, and then records it without running it."""
        current = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph, which stops the world: it waits for the device and empties the allocator's cache.
        # Not in inference mode: torch keeps numbers for all graphs of a process, which what captures first makes, and
        # which outside that mode may then not be written to any more.
        with torch.cuda.stream(stream), torch.inference_mode(False):
            launch()
            with _uncollected():
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    launch()
                finally:
                    graph.capture_end()
        current.wait_stream(stream)
        return graph


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected within: a graph that is given up during another one's capture ends the process."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
