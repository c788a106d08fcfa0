"""How fast this machine reads memory: what decoding is measured against, since it reads all weights for a token.

Several ways to read a large buffer take turns and the fastest run counts: each is slowed by something of its own, and
none can be faster than the memory. A copy is no way to read: it writes as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from benchmarks.common.turns import timed_turns
from lts_ray.timing import Clock, torch_threads

MEGABYTES = 512
"""Of the buffer: more than any cache holds."""
ROUNDS = 5
COLUMNS = 4096

WAYS: tuple[Callable[[Tensor], object], ...] = (
    lambda buffer: buffer.sum(),
    lambda buffer: buffer.amax(),
    lambda buffer: buffer.view(-1).dot(buffer.view(-1)),
    lambda buffer: buffer @ buffer[0],
)
"""Each reads [N, COLUMNS] once."""


def read_bandwidth(*, threads: int, megabytes: int = MEGABYTES, clock: Clock = time.perf_counter) -> float:
    """Bytes per second, with so many torch threads."""
    with torch_threads(threads), torch.inference_mode():
        buffer = torch.ones(max(1, megabytes * 1_000_000 // (4 * COLUMNS)), COLUMNS)
        ways = {way: partial(lambda way, number: way(buffer), way) for way in WAYS}
        best_ms = min(chain(*timed_turns(ways, rounds=ROUNDS, clock=clock).values()))
    return 4 * buffer.numel() / (best_ms / 1e3)
