"""What an autoscaler could reach that knows the load: replicas are there when requests come, and gone when they have.

At each moment it wants what the busiest stretch needs of those until a replica that is asked for now would serve. What
a replica bears it is told. How much there is to be above that, `headroom`, is for who runs it to try: it knows the
rate, not what bursts within a stretch do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serve.autoscaling.autoscaler import Scaling
from serve.autoscaling.fleet_state import FleetState
from serve.autoscaling.replica_mix import MixedKind, cheapest_mix
from serve.traffic.arrival import Arrival

STRETCH_S = 30.0


class ScalingOracle:
    name = "oracle"

    def __init__(self, arrivals: Sequence[Arrival], *, bears: Mapping[str, float], headroom: float = 1.0) -> None:
        """bears: requests a second of one replica, by kind."""
        times_s = np.array([arrival.at_ms / 1e3 for arrival in arrivals])
        stretches = int(times_s.max(initial=0.0) // STRETCH_S) + 1
        self._rates = np.bincount((times_s // STRETCH_S).astype(int), minlength=stretches) / STRETCH_S
        self._bears, self._headroom = bears, headroom

    def decide(self, state: FleetState) -> Scaling:
        ahead_s = max(kind.start_s for kind in state.kinds) + STRETCH_S
        begin, end = (int(at_s // STRETCH_S) for at_s in (state.now_s, state.now_s + ahead_s))
        rate = self._headroom * float(self._rates[begin : end + 1].max(initial=0.0))
        mixed = [
            MixedKind(
                bears=self._bears[kind.name],
                cost=kind.cost_per_hour,
                least=kind.min_replicas,
                most=kind.max_replicas,
            )
            for kind in state.kinds
        ]
        counts = cheapest_mix(mixed, rate)
        targets = {kind.name: count for kind, count in zip(state.kinds, counts, strict=True)}
        return Scaling(targets=targets, reason=f"{rate:.3g} requests/s until {ahead_s:.0f} s from now")
