"""How much an engine takes on at once: the same limits for the real engine, the simulated one and the command line."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lts_ray.errors import LtsRayError
from lts_ray.record import record

Count = Annotated[int, Field(ge=1)]


@record(what="capacity")
class Capacity:
    slots: Count = 8
    """The most requests that run at once."""
    max_queue: Count = 64
    """The most requests that wait beyond them."""
    chunk_tokens: Count = 256
    """The most tokens of one step: those of responses, and pieces of prompts."""

    def __post_init__(self) -> None:
        if self.chunk_tokens < self.slots:
            raise LtsRayError(
                f"chunk_tokens must be at least the {self.slots} requests that run at once, for a step has a token of "
                f"each; got {self.chunk_tokens}"
            )
