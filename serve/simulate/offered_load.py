"""The requests that come to a simulated fleet: of an arrival process or a recorded trace, at a rate or a load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lts_ray.errors import LtsRayError
from serve.simulate.fleet_kinds import batch_ms
from serve.simulate.saturation import REQUESTS, saturation_rate
from serve.simulate.simulated_kind import SimulatedKind
from serve.simulate.simulation_settings import SimulationSettings
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import Need
from serve.traffic.load import make_load
from serve.traffic.recorded_trace import RecordedTrace, read_recorded
from serve.traffic.traces import is_trace, trace_named

LOAD, SECONDS = 0.7, 60.0
"""Of an arrival process, where nothing is said."""
MOST = 10_000_000
"""Requests: more would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class OfferedLoad:
    arrivals: tuple[Arrival, ...]
    rate: float
    """Requests per second, the mean."""
    seconds: float
    """For which they come."""


def offered_load(settings: SimulationSettings, kinds: Sequence[SimulatedKind], *, context_length: int) -> OfferedLoad:
    """Raises LtsRayError for a trace that is none, or a load that cannot be made of it."""
    recorded = None if is_trace(settings.trace) else read_recorded(Path(settings.trace))
    fastest = min(kinds, key=batch_ms).node
    universal, chunk_tokens = fastest.menu.universal, fastest.capacity.chunk_tokens
    rate = settings.rate or _rate(settings, kinds, recorded, context_length)
    seconds = settings.seconds or (SECONDS if recorded is None else len(recorded.times) / rate)
    if rate * seconds > MOST:
        raise LtsRayError(f"a load of {rate * seconds:.3g} requests is above the {MOST:,} that are simulated at once")
    how: dict[str, Any] = {
        "rate": rate,
        "seconds": seconds,
        "seed": settings.seed,
        "need": Need(costs=fastest.costs, option=universal, chunk_tokens=chunk_tokens),
        "context_length": context_length,
        "classes": settings.budgets,
    }
    arrivals = make_load(trace_named(settings.trace), **how) if recorded is None else recorded.load(**how)
    if not arrivals:
        raise LtsRayError(f"no request comes in {seconds:g} s at {rate:.3g} a second: give more of either")
    return OfferedLoad(arrivals=arrivals, rate=rate, seconds=seconds)


def _rate(
    settings: SimulationSettings, kinds: Sequence[SimulatedKind], recorded: RecordedTrace | None, context_length: int
) -> float:
    """As recorded, or the load's multiple of what the first replicas bear."""
    if recorded is not None and settings.load is None:
        return recorded.rate
    lengths = None if recorded is None else recorded.sample(REQUESTS, context_length=context_length)
    bears = saturation_of(kinds, context_length=context_length, lengths=lengths)
    if not bears:
        raise LtsRayError("a load is in multiples of what the first replicas bear, and there are none: give a rate")
    return bears * (settings.load or LOAD)


def saturation_of(
    kinds: Sequence[SimulatedKind], *, context_length: int, lengths: NDArray[np.int64] | None = None
) -> float:
    """Requests per second that the replicas which serve at first bear together."""

    def of_one(kind: SimulatedKind) -> float:
        node = kind.node
        return saturation_rate(
            node.menu, node.costs, capacity=node.capacity, context_length=context_length, lengths=lengths
        )

    return sum(kind.replicas * of_one(kind) for kind in kinds if kind.replicas)
