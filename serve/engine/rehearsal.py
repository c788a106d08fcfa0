"""Made-up requests that an engine serves before the first real one.

Calibration times bare steps. What serving adds to them, and how far single steps stray on this node, shows only in the
engine's own loop: so that loop runs for a moment, and what it learns is there when the first budget comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np

from serve.engine.engine import Engine
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.request import Request

PROMPT_TOKENS, NEW_TOKENS = 32, 16
COMPANIES = (0.0, 1.0, 0.25, 0.5)
"""So many requests at a time, one after the other, as a share of those that may run together; at least one."""


def rehearse(engine: Engine, *, seconds: float) -> None:
    """Start the engine, serve for so long, and stop it. It should have no observers: nothing of this is a client's."""
    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop that runs
        thread.submit(asyncio.run, _serve(engine, seconds)).result()


async def _serve(engine: Engine, seconds: float) -> None:
    engine.start()
    try:
        async with asyncio.timeout(seconds):
            for together in _companies(engine):
                await asyncio.gather(*(_answer(engine, request) for request in together))
    except TimeoutError:
        pass  # requests in the middle of their answers go with the engine
    finally:
        engine.stop()


async def _answer(engine: Engine, request: Request) -> None:
    async for _ in engine.submit(request):
        pass


def _companies(engine: Engine) -> Iterator[list[Request]]:
    """Without an end: at the widest submodel, then so short of time that they run at the narrowest."""
    rng, capacity = np.random.default_rng(0), engine.capacity
    vocab_size, new = engine.config.vocab_size, min(NEW_TOKENS, engine.config.context_length // 2)
    old = min(PROMPT_TOKENS, engine.config.context_length - new)
    for budget in cycle((NO_BUDGET, Budget(e2e_ms=1.0))):
        for share in COMPANIES:
            yield [
                Request(
                    prompt=tuple(rng.integers(vocab_size, size=old).tolist()),
                    max_tokens=new,
                    budget=budget,
                    ignore_eos=True,
                    whole=True,
                )
                for _ in range(min(max(1, int(share * capacity.slots)), capacity.max_queue))
            ]
