"""What others route by, and routers by name."""

from __future__ import annotations

from collections import Counter

import pytest

from lts_ray.errors import LtsRayError
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.request import Request
from serve.routing.named_routers import ROUTERS, router_named
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Router
from serve.routing.simple_routers import LeastOutstanding, PowerOfTwo, PrefixAware, RoundRobin, StaticGrid
from tests.serve.routing.test_budget_router import view

LEVEL = [view("a"), view("b"), view("c")]
UNEVEN = [view("a", running=3), view("b", running=1), view("c", running=2)]


def placed(
    router: Router, views: list[ReplicaView], *, budget: Budget = NO_BUDGET, shared: dict[str, int] | None = None
) -> str:
    request = Request(prompt=(1,) * 8, max_tokens=10, budget=budget)
    return router.route(request, views, shared=shared or {}, now_ms=0.0).replica


def test_round_robin_takes_them_in_turns() -> None:
    router = RoundRobin()
    assert [placed(router, UNEVEN) for _ in range(4)] == ["a", "b", "c", "a"]


def test_the_least_outstanding_is_the_least_loaded() -> None:
    assert placed(LeastOutstanding(), UNEVEN) == "b"


def test_power_of_two_takes_the_less_loaded_of_two_drawn_at_random() -> None:
    router = PowerOfTwo()
    times = Counter(placed(router, UNEVEN) for _ in range(300))
    assert times["a"] == 0  # of any two it is the more loaded one
    assert times["b"] / 300 == pytest.approx(2 / 3, abs=0.1)
    assert placed(router, [view("only", running=3)]) == "only"


def test_prefix_aware_goes_where_the_prompt_is_known_unless_that_is_far_more_loaded() -> None:
    router = PrefixAware(spread=1)
    assert placed(router, LEVEL, shared={"b": 4, "c": 6}) == "c"
    assert placed(router, UNEVEN, shared={"a": 6, "c": 4}) == "c"
    assert placed(router, UNEVEN) == "b"


@pytest.mark.parametrize(
    ("budget", "kind"),
    [
        (Budget(tpot_ms=5), "quick"),
        (Budget(tpot_ms=5.1), "middle"),
        (Budget(e2e_ms=50), "quick"),
        (Budget(e2e_ms=200), "middle"),
        (Budget(ttft_ms=3, e2e_ms=1e6), "quick"),
        (Budget(e2e_ms=1e6), "slow"),
        (NO_BUDGET, "slow"),
    ],
)
def test_the_grid_has_a_kind_for_each_class_of_budgets(budget: Budget, kind: str) -> None:
    router = StaticGrid(kinds=[(5.0, "quick"), (20.0, "middle"), (100.0, "slow")])
    views = [view(f"{each}-{load}", running=load, kind=each) for each in ("quick", "middle", "slow") for load in (2, 1)]
    assert placed(router, views, budget=budget) == f"{kind}-1"
    left = [each for each in views if each.kind != kind]
    assert placed(router, left, budget=budget) in {each.id for each in left}


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_has_a_name(name: str) -> None:
    settings = {"kinds": [[10.0, "cpu"]]} if name == "static-grid" else {}
    router = router_named(name, **settings)
    assert router.name == name
    assert placed(router, LEVEL) in {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("random", {}, "unknown router 'random'; known: budget, power-of-two"),
        ("budget", {"spread": 1}, "budget has unknown keys spread; known: none"),
        ("prefix-aware", {"spread": -1}, "prefix-aware.spread must be at least 0; got -1"),
        ("static-grid", {}, "static-grid needs kinds"),
        ("static-grid", {"kinds": []}, "static-grid.kinds must be"),
        ("static-grid", {"kinds": [["quick", 5]]}, "static-grid.kinds.0.0 must be a number"),
    ],
)
def test_what_it_cannot_be_is_said_in_one_line(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(LtsRayError) as error:
        router_named(name, **settings)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)
