"""How much an engine under load takes: the same for the real one, the simulated one and the saturation rate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.runtime.runtime import BLOCK_TOKENS


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """context_length: of the load's requests, which may be less than the model's. slots: requests that run at once."""

    context_length: int
    slots: int = 8
    max_queue: int = 64
    chunk_tokens: int = 256

    def __post_init__(self) -> None:
        if min(self.context_length, self.slots, self.max_queue, self.chunk_tokens) < 1:
            raise LtsRayError(f"what an engine takes must be at least 1 of each; got {self.to_json()}")
        if self.chunk_tokens <= self.slots:
            raise LtsRayError(
                f"a step needs room for every running request and a part of a prompt: more than {self.slots} tokens; "
                f"got {self.chunk_tokens}"
            )

    @property
    def n_blocks(self) -> int:
        """Of the KV cache: a batch of the longest requests, and the one that the scheduler keeps free for each."""
        return self.slots * (ceil(self.context_length / BLOCK_TOKENS) + 1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
