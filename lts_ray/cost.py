"""What a candidate costs on one target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lts_ray.record import record

Positive = Annotated[float, Field(gt=0)]


@record(what="cost")
class Cost:
    """What a candidate costs on one target."""

    prefill_ms: Positive
    """Of the target's batch of sequence_length tokens."""
    decode_ms: Positive | None
    """Of one more token for that batch, with a KV cache; None of an encoder, which has no such step."""
    peak_memory_mb: Positive
    """Weights, activations and KV cache, in 1e6 bytes."""
