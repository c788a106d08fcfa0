"""What others scale by, for comparison: each kind by itself, without a look at quality, cost or what is to come."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from math import ceil
from typing import Annotated

from pydantic import Field

from lts_ray.record import Positive, record
from serve.autoscaling.autoscaler import Scaling
from serve.autoscaling.fleet_state import FleetState, KindState

Delay = Annotated[float, Field(ge=0)]
TOLERANCE, CLAMP, MEAN_S, STABLE_S = 0.1, 2.0, 45.0, 300.0
"""Of the rule on latencies: by how much they may be off before anything happens, the most that they count as over their
bounds, over how long they are a mean, and for how long fewer replicas must have been enough before some go. The first
and the last are those of Kubernetes' horizontal autoscaler, the others of llm-d's guide."""


@record(what="fixed")
class FixedSettings:
    replicas: Mapping[str, Annotated[int, Field(ge=0)]] | None = None
    """By kind; None, or for a kind that is not named: as many as there are."""


class FixedFleet:
    name = "fixed"

    def __init__(self, settings: FixedSettings) -> None:
        self.settings = settings

    def decide(self, state: FleetState) -> Scaling:
        wanted = self.settings.replicas or {}
        targets = {kind.name: _within(kind, wanted.get(kind.name, kind.target)) for kind in state.kinds}
        return Scaling(targets=targets, reason="a fixed fleet")


@record(what="ray")
class RaySettings:
    """Ray Serve's own, by the same names."""

    target_ongoing_requests: Positive = 2.0
    """Of a replica, on average."""
    upscale_delay_s: Delay = 30.0
    """For so long more must have been wanted."""
    downscale_delay_s: Delay = 600.0
    """For so long fewer must have been wanted."""
    look_back_period_s: Positive = 30.0
    """Requests are a mean over so long."""


@record(what="ray-fast")
class RayFastSettings(RaySettings):
    upscale_delay_s: Delay = 0.0
    """As Ray Serve's default, but at once."""
    downscale_delay_s: Delay = 60.0
    """As Ray Serve's default, but ten times sooner."""
    look_back_period_s: Positive = 10.0
    """As Ray Serve's default, but a third of it."""


class OngoingRequests:
    """Ray Serve's rule: as many replicas as have so many requests each, those that wait there included."""

    def __init__(self, settings: RaySettings) -> None:
        self.settings = settings
        self.name = "ray-fast" if isinstance(settings, RayFastSettings) else "ray"
        self._seen: dict[str, deque[tuple[float, float]]] = defaultdict(deque)
        self._since: dict[str, tuple[bool, float]] = {}

    def decide(self, state: FleetState) -> Scaling:
        targets, reasons = {}, []
        for kind in state.kinds:
            ongoing = sum(load.running + load.waiting for load in kind.replicas.values())
            mean = _mean(self._seen[kind.name], state.now_s, ongoing, self.settings.look_back_period_s)
            wanted = ceil(mean / self.settings.target_ongoing_requests - 1e-9)
            targets[kind.name] = _within(kind, self._delayed(kind, wanted, state.now_s))
            reasons.append(f"{kind.name}: {mean:.1f} requests")
        return Scaling(targets=targets, reason=", ".join(reasons))

    def _delayed(self, kind: KindState, wanted: int, now_s: float) -> int:
        if wanted == kind.target:
            self._since.pop(kind.name, None)
            return wanted
        up = wanted > kind.target
        was_up, since_s = self._since.get(kind.name, (up, now_s))
        if was_up != up:
            since_s = now_s
        self._since[kind.name] = (up, since_s)
        if now_s - since_s < (self.settings.upscale_delay_s if up else self.settings.downscale_delay_s):
            return kind.target
        del self._since[kind.name]
        return wanted


@record(what="slo-ratio")
class SloRatioSettings:
    share: Positive = 1.0
    """Of its nearest bound that nine in ten requests are to take at most."""


class SloRatio:
    """llm-d's guide: what nine in ten requests take of their bounds says by how much a kind is too large or small."""

    name = "slo-ratio"

    def __init__(self, settings: SloRatioSettings) -> None:
        self.settings = settings
        self._seen: dict[str, deque[tuple[float, float]]] = defaultdict(deque)
        self._wanted: dict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def decide(self, state: FleetState) -> Scaling:
        targets, reasons = {}, []
        for kind in state.kinds:
            loads = [load for load in kind.replicas.values() if load.bounded]
            bounded = sum(load.bounded for load in loads)
            used = sum(load.used_p90 * load.bounded for load in loads) / bounded if bounded else 0.0
            ratio = _mean(self._seen[kind.name], state.now_s, min(used / self.settings.share, CLAMP), MEAN_S)
            serving = len(kind.replicas)
            wanted = kind.target if abs(ratio - 1) <= TOLERANCE else ceil(serving * ratio - 1e-9)
            recent = self._wanted[kind.name]
            recent.append((state.now_s, wanted))
            while recent[0][0] < state.now_s - STABLE_S:
                recent.popleft()
            stable = min(kind.target, max(count for _, count in recent))  # never more, to go down
            targets[kind.name] = _within(kind, max(wanted, stable))
            reasons.append(f"{kind.name}: {100 * ratio:.0f} % of the bounds taken")
        return Scaling(targets=targets, reason=", ".join(reasons))


def _mean(seen: deque[tuple[float, float]], now_s: float, value: float, over_s: float) -> float:
    seen.append((now_s, value))
    while seen[0][0] <= now_s - over_s:
        seen.popleft()
    return sum(each for _, each in seen) / len(seen)


def _within(kind: KindState, count: int) -> int:
    return min(max(count, kind.min_replicas), kind.max_replicas)
