"""How much an engine takes on at once: the same limits for the real engine, the simulated one and the command line."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lts_ray.errors import LtsRayError
from lts_ray.record import record

Count = Annotated[int, Field(ge=1)]
USUAL = {"cpu": (8, 256), "cuda": (64, 512)}
"""Slots and tokens of a step where nothing is said, by device. On a GPU a row that decodes costs next to nothing until
its products take as long as the weights' way from memory: an H200 multiplies 190 times for each number that it reads,
and by far not that often in a small product. A step of 512 tokens is mostly products: a longer one has little to gain,
and those that decode wait for it."""


@record(what="capacity")
class Capacity:
    slots: Count = USUAL["cpu"][0]
    """The most requests that run at once."""
    max_queue: Count = 64
    """The most requests that wait beyond them."""
    chunk_tokens: Count = USUAL["cpu"][1]
    """The most tokens of one step: those of responses, and pieces of prompts."""

    def __post_init__(self) -> None:
        if self.chunk_tokens < self.slots:
            raise LtsRayError(
                f"chunk_tokens must be at least the {self.slots} requests that run at once, for a step has a token of "
                f"each; got {self.chunk_tokens}"
            )

    @classmethod
    def on(
        cls, device: str, *, slots: int | None = None, chunk_tokens: int | None = None, max_queue: int = 64
    ) -> Capacity:
        """None: what is usual on the device, or fits the other. Raises LtsRayError where the two do not fit."""
        usual_slots, usual_chunk = USUAL[device]
        slots = slots or min(usual_slots, chunk_tokens or usual_chunk)
        return cls(slots=slots, max_queue=max_queue, chunk_tokens=chunk_tokens or max(usual_chunk, slots))
