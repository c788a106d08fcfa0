"""What an engine tells of its load, for who decides how many replicas there are to be."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from time import monotonic

from lts_ray.timing import Clock
from serve.autoscaling.fleet_state import ReplicaLoad
from serve.autoscaling.recent_load import WINDOW_S, RecentLoad
from serve.autoscaling.sustained_rate import RecentRequest, sustained_rate
from serve.engine.engine import Engine
from serve.engine.observer import Observer
from serve.engine.response import FinishReason, Progress
from serve.policies.request import Request

ANSWERED: Sequence[FinishReason | None] = ("stop", "length")


class LoadObserver(Observer):
    def __init__(self, clock: Clock = monotonic, *, window_s: float = WINDOW_S) -> None:
        """clock: the engine's, in seconds. window_s: for so long it counts."""
        self._clock, self._lock = clock, Lock()
        self._recent = RecentLoad(clock(), window_s=window_s)
        self._ended: list[tuple[Request, Progress, FinishReason | None]] = []
        self._came = self._gone = 0

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        with self._lock:
            self._ended.append((request, progress, reason))

    def load(self, engine: Engine, *, attainment: float, worst_loss: float | None) -> ReplicaLoad:
        """Called now and then, never twice at once. worst_loss: see sustained_rate."""
        menu, deviation = engine.menu, engine.situation(engine.clock()).deviation

        def bears(recent: Sequence[RecentRequest], cv2: float) -> float:
            return sustained_rate(
                recent,
                menu=menu,
                costs=engine.costs,
                deviation=deviation,
                capacity=engine.capacity,
                worst_loss=worst_loss,
                attainment=attainment,
                cv2=cv2,
            )

        with self._lock:
            ended, self._ended = self._ended, []
        now_s, (running, waiting) = self._clock(), engine.counts()
        for request, progress, reason in ended:
            loss = sum(count * (menu.named[name].likely_loss or 0.0) for name, count in progress.submodels.items())
            self._recent.made([now_s], progress.tokens, loss)
            timing = progress.measured()
            if reason in ANSWERED and timing is not None:
                self._recent.ended(now_s, request, timing, tokens=progress.tokens)
        self._gone += len(ended)
        came, self._came = self._came, self._gone + running + waiting
        self._recent.came(now_s, max(0, self._came - came))
        return self._recent.load(now_s, running=running, waiting=waiting, bears=bears, worst_loss=worst_loss)
