"""What the engine refuses or fails to do, each with the data that its answer on the wire carries."""

from __future__ import annotations

from collections.abc import Mapping

from lts_ray.errors import LtsRayError


class QueueFullError(LtsRayError):
    """The bounded queue has no place; nothing of the request was kept."""

    def __init__(self, max_queue: int, *, retry_after_s: int) -> None:
        super().__init__(f"the server is busy: {max_queue} requests are waiting; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class BudgetInfeasibleError(LtsRayError):
    """A strict request whose budget no submodel is predicted to meet under the load of the moment."""

    def __init__(self, smallest_feasible_ms: Mapping[str, float], *, retry_after_s: int) -> None:
        """smallest_feasible_ms: by kind (ttft, tpot, e2e), for the kinds that the request has a budget for."""
        feasible = ", ".join(f"{kind} {value:g} ms" for kind, value in smallest_feasible_ms.items())
        super().__init__(
            f"no submodel meets the budget under the current load; the smallest feasible one is {feasible}"
        )
        self.smallest_feasible_ms = dict(smallest_feasible_ms)
        self.retry_after_s = retry_after_s


class EngineFailedError(LtsRayError):
    """A step failed, or the engine is gone."""


def one_line(error: Exception) -> str:
    """For the client: what went wrong, without where."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
