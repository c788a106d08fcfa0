"""What a candidate costs on one target."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a submodel costs on one target.

    prefill_ms: the target's batch of sequence_length tokens. decode_ms: one more token for that batch, with KV cache;
    None of an encoder, which has no such step. peak_memory_mb: weights, activations and KV cache, in 1e6 bytes.
    """

    prefill_ms: float
    decode_ms: float | None
    peak_memory_mb: float

    def __post_init__(self) -> None:
        if any(not isfinite(each) or each <= 0 for each in asdict(self).values() if each is not None):
            raise LtsRayError(f"costs must be finite and positive; got {asdict(self)}")
