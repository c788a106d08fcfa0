"""What an engine's observer says of its load: requests, tokens, budgets, and what the replica bears."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve.autoscaling.recent_load import AGAIN
from serve.fleet.load_observer import LoadObserver
from serve.policies.budget import Budget
from serve.policies.request import Request
from tests.serve.models import collect, tiny_engine, tiny_model, tiny_runtime


def test_what_an_engine_has_done_is_told_and_what_it_bears_is_known_after_some_requests() -> None:
    asyncio.run(_an_engine_says_what_it_has_done())


async def _an_engine_says_what_it_has_done() -> None:
    observer = LoadObserver()
    engine = tiny_engine(tiny_runtime(tiny_model()), observers=[observer])
    engine.start()
    try:
        free = Request(prompt=(5, 6, 7), max_tokens=4, ignore_eos=True)
        bounded = replace(free, budget=Budget(e2e_ms=1e9))
        asked = [engine.submit(bounded if place % 2 else free) for place in range(AGAIN)]
        tokens = await asyncio.gather(*map(collect, asked))
        while engine.counts() != (0, 0):
            await asyncio.sleep(0.01)
        load = observer.load(engine, attainment=0.99, worst_loss=2.0)
    finally:
        engine.stop()
    assert (load.came, load.bounded, load.kept) == (AGAIN, AGAIN / 2, AGAIN / 2)
    assert load.tokens == sum(map(len, tokens)) == 4 * AGAIN
    assert load.loss == pytest.approx(load.tokens * 1.0)  # all by the universal model
    assert load.sustained > 0
    assert load.worst_loss == 2.0
    again = observer.load(engine, attainment=0.99, worst_loss=2.0)
    assert again.came == AGAIN
