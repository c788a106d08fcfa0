"""What a router knows of one replica: what it said of itself, and what was sent to it since. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.menu import Menu
from serve.policies.policy import Situation
from serve.policies.request import Request


@dataclass(frozen=True, kw_only=True)
class ReplicaView:
    id: str
    kind: str
    """Of node, as the fleet's file names it."""
    cost: float
    """Of an hour, in whatever unit the fleet's file has."""
    menu: Menu
    costs: StepCosts
    """As its engine has corrected them."""
    situation: Situation
    """Its jobs, and by how far time strays there. Their tokens so far are those that have come back."""
    n_blocks: int | None = None
    """Of its KV cache; None: enough for every request."""

    def fits(self, request: Request) -> bool:
        """Whether it could run the request if it had nothing else to do."""
        return fits(request, self.n_blocks, self.menu.named)

    @property
    def has_place(self) -> bool:
        """Whether its queue takes one request more. Where no replica has a place, a request is refused."""
        return len(self.situation.waiting) < self.situation.capacity.max_queue

    @property
    def load(self) -> int:
        """Requests that run and wait."""
        return len(self.situation.running) + len(self.situation.waiting)


def fits(request: Request, n_blocks: int | None, served: Collection[str]) -> bool:
    """Whether a KV cache of so many blocks holds the request, and its submodel is served; None: any is held."""
    places = len(request.prompt) + request.max_tokens - 1  # the last token is never run
    is_served = request.pinned is None or request.pinned.name in served
    return is_served and (n_blocks is None or places <= n_blocks * BLOCK_TOKENS)


class DistantView(ReplicaView):
    """One whose jobs are put together once they are looked at: of many that are shown, few are."""

    def __init__(
        self,
        *,
        id: str,
        kind: str,
        cost: float,
        menu: Menu,
        load: int,
        has_place: bool,
        look: Callable[[], tuple[StepCosts, Situation]],
        n_blocks: int | None = None,
    ) -> None:
        """look: for `costs` and `situation`; called at most once."""
        vars(self).update(id=id, kind=kind, cost=cost, menu=menu, n_blocks=n_blocks, _load=load, _look=look)
        vars(self)["_has_place"] = has_place

    @cached_property
    def _seen(self) -> tuple[StepCosts, Situation]:
        seen: tuple[StepCosts, Situation] = vars(self)["_look"]()
        return seen

    @property
    def costs(self) -> StepCosts:
        return self._seen[0]

    @property
    def situation(self) -> Situation:
        return self._seen[1]

    @property
    def has_place(self) -> bool:
        return bool(vars(self)["_has_place"])

    @property
    def load(self) -> int:
        return int(vars(self)["_load"])
