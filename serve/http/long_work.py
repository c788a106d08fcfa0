"""Work that is as long as a client wants it: much of it is done in another thread, so that no stream waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

LONG = 10_000
"""Characters to read or to write: some milliseconds' work."""

T = TypeVar("T")


async def done_apart(work: Callable[[], T], *, characters: int) -> T:
    """What `work` returns or raises. characters: about as many as it reads or writes."""
    return work() if characters < LONG else await asyncio.to_thread(work)
