"""What an engine under a made-up load takes at once, and how long the load's requests are."""

from __future__ import annotations

from lts_ray.record import record
from serve.engine.blocks import blocks_for_batch
from serve.policies.capacity import Capacity, Count


@record(what="capacity")
class LoadCapacity(Capacity):
    context_length: Count
    """Of the load's requests, which may be less than the model's."""

    @property
    def n_blocks(self) -> int:
        """Of the KV cache: enough for a batch of the longest requests."""
        return blocks_for_batch(self.slots, self.context_length)
