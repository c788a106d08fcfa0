"""What a result must keep to. Parameters are counted before anything is built, latency and memory measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None: no limit. max_latency_ms: of each latency that is an objective."""

    min_decoder_params: int | None = None
    max_decoder_params: int | None = None
    max_latency_ms: float | None = None
    max_memory_mb: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not value > 0:
                raise LtsRayError(f"{each.name} must be positive; got {value}")
        low, high = self.min_decoder_params, self.max_decoder_params
        if low is not None and high is not None and low > high:
            raise LtsRayError(f"min_decoder_params {low} is larger than max_decoder_params {high}")

    def admits_params(self, decoder_params: int) -> bool:
        low, high = self.min_decoder_params, self.max_decoder_params
        return (low is None or decoder_params >= low) and (high is None or decoder_params <= high)

    def of_objectives(self, latencies: int) -> tuple[float | None, ...]:
        """The greatest value of each objective: quality, `latencies` latencies, memory."""
        return (None, *(self.max_latency_ms,) * latencies, self.max_memory_mb)

    def to_json(self) -> Mapping[str, Any]:
        return asdict(self)
