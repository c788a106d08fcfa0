"""What a replica has room for."""

from __future__ import annotations

from dataclasses import replace

from lts_ray.runtime.runtime import BLOCK_TOKENS
from serve.policies.request import Request
from tests.serve.policies.situations import MENU, L, situation_of, waiting_job
from tests.serve.routing.test_budget_router import view


def test_a_request_fits_where_the_cache_holds_all_its_tokens_but_the_last() -> None:
    two = replace(view("a"), n_blocks=2)
    prompt = (1,) * BLOCK_TOKENS
    assert two.fits(Request(prompt=prompt, max_tokens=BLOCK_TOKENS + 1))
    assert not two.fits(Request(prompt=prompt, max_tokens=BLOCK_TOKENS + 2))
    assert view("a").fits(Request(prompt=prompt, max_tokens=10**6))


def test_a_pin_fits_where_the_menu_has_it() -> None:
    """A kind of node may serve fewer precisions than its fleet."""
    pinned = replace(L, name="L@int8", submodel=replace(L.submodel, precision="int8"))
    plain, both = view("a"), replace(view("b"), menu=replace(MENU, named={**MENU.named, "L@int8": pinned}))
    for option, fits in ((None, True), (L, True), (pinned, False)):
        request = Request(prompt=(1,), max_tokens=1, pinned=option)
        assert (plain.fits(request), both.fits(request)) == (fits, True)


def test_it_has_a_place_until_its_queue_is_full() -> None:
    def waiting(count: int) -> bool:
        situation = situation_of(waiting=tuple(waiting_job(place) for place in range(count)))
        return replace(view("a"), situation=situation).has_place

    most = situation_of().capacity.max_queue
    assert waiting(most - 1)
    assert not waiting(most)
