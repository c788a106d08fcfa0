"""What a result must keep to. Parameters are counted before anything is built, latency and memory measured."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from lts_ray.errors import LtsRayError
from lts_ray.record import record


@record()
class Limits:
    """None: no limit."""

    min_decoder_params: Annotated[int, Gt(0)] | None = None
    """Of all layers, also an encoder's."""
    max_decoder_params: Annotated[int, Gt(0)] | None = None
    """Larger candidates are not built."""
    max_latency_ms: Annotated[float, Gt(0)] | None = None
    """Of each latency that is an objective."""
    max_memory_mb: Annotated[float, Gt(0)] | None = None
    """In 1e6 bytes; what takes more on a target is on no front of it."""

    def __post_init__(self) -> None:
        low, high = self.min_decoder_params, self.max_decoder_params
        if low is not None and high is not None and low > high:
            raise LtsRayError(f"min_decoder_params {low} is larger than max_decoder_params {high}")

    @property
    def words(self) -> str:
        """Those that are set."""
        given = {name.replace("_", " "): value for name, value in vars(self).items() if value is not None}
        return ", ".join(f"{name} {value:,}" for name, value in given.items())

    def admits_params(self, decoder_params: int) -> bool:
        low, high = self.min_decoder_params, self.max_decoder_params
        return (low is None or decoder_params >= low) and (high is None or decoder_params <= high)

    def of_objectives(self, latencies: int) -> tuple[float | None, ...]:
        """The greatest value of each objective: quality, `latencies` latencies, memory."""
        return (None, *(self.max_latency_ms,) * latencies, self.max_memory_mb)
