"""What the routes ask of who runs the requests: one engine in this process, or a fleet of them behind it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import Clock
from serve.engine.observer import Load
from serve.engine.response import Response
from serve.policies.capacity import Capacity
from serve.policies.menu import Menu
from serve.policies.request import Request


class Serving(Protocol):
    @property
    def config(self) -> DecoderConfig: ...

    @property
    def menu(self) -> Menu: ...

    @property
    def capacity(self) -> Capacity: ...

    @property
    def clock(self) -> Clock:
        """In seconds, never back: all moments of requests are by it."""
        ...

    @property
    def costs(self) -> StepCosts:
        """Of a step, where a request without a budget would go."""
        ...

    @property
    def hold(self) -> AbstractContextManager[object]:
        """Entered by who reads a request whose body has come, left when it was submitted or refused."""
        ...

    def submit(self, request: Request, *, arrived_s: float | None = None) -> Response:
        """Queue a request; call it on the event loop that will read the response. arrived_s: by the clock.

        Raises QueueFullError, BudgetInfeasibleError for a strict request, EngineFailedError, or LtsRayError for a
        request that can never run; nothing of it is kept then.
        """
        ...

    def check(self) -> None:
        """Raise EngineFailedError where requests cannot be served."""
        ...

    def counts(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        ...

    def load(self) -> Load: ...
