"""Clocks, and threads to run on while one looks at them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Step = Callable[[], None]


def timed(step: Step, *, wait: Step, clock: Clock = time.perf_counter) -> float:
    """One run of `step` in milliseconds. `wait` returns when the device has done its work."""
    begin = clock()
    step()
    wait()
    # Rounded as it is logged, so that a resumed search computes with the same numbers.
    return round((clock() - begin) * 1000, 4)


def waiter(device: torch.device) -> Step:
    """What to call before the clock is read: a GPU only queues work, a CPU has done it."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Run the block with `count` intra-op threads (None: as many as now), then restore the number there was."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


Clock = Callable[[], float]
