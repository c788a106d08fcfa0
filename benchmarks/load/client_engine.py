"""Replays a load against an engine in this process. Open loop: a request comes when it is due, whoever still waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from serve.engine.engine import Engine
from serve.engine.engine_errors import BudgetInfeasibleError, EngineFailedError, QueueFullError
from serve.engine.request import Request
from serve.simulate.arrival import Arrival
from serve.simulate.request_outcome import Outcome, refused

Prompt = tuple[int, ...]
Ask = Callable[[Arrival, Prompt, float], Awaitable[Outcome]]
"""Sends one request, which was due at a time of the client's clock, and returns what became of it."""
Ended = Callable[[int, Outcome], None]
"""Told the number of the arrival, from 0, and what became of it."""


async def replay_on_engine(
    engine: Engine, arrivals: Sequence[Arrival], prompts: Iterable[Prompt]
) -> tuple[Outcome, ...]:
    """Returns when all have been answered, in the arrivals' order. The engine must have been started."""
    outcomes: dict[int, Outcome] = {}
    await replay(asking(engine), arrivals, prompts, clock=engine.clock, ended=outcomes.__setitem__)
    return tuple(outcomes[number] for number in range(len(arrivals)))


def asking(engine: Engine) -> Ask:
    async def ask(arrival: Arrival, prompt: Prompt, due_s: float) -> Outcome:
        return await ask_engine(engine, arrival, prompt, due_s=due_s)

    return ask


async def ask_engine(engine: Engine, arrival: Arrival, prompt: Prompt, *, due_s: float) -> Outcome:
    """due_s: by the engine's clock; times count from there, so that a late client is no excuse."""
    request = Request(prompt=prompt, max_tokens=arrival.output_tokens, budget=arrival.budget, ignore_eos=True)
    try:
        response = engine.submit(request, arrived_s=due_s)
    except (QueueFullError, BudgetInfeasibleError):
        return refused(arrival, "rejected", {})
    except EngineFailedError:
        return refused(arrival, "failed", {})
    try:
        async for _ in response:
            pass
    except EngineFailedError:
        return refused(arrival, "failed", response.progress.submodels)
    finally:
        response.cancel()
    progress = response.progress
    return Outcome(
        arrival=arrival,
        status="done",
        timing=progress.measured(),
        submodels=dict(progress.submodels),
        predicted=progress.predicted,
    )


async def replay(
    ask: Ask,
    arrivals: Iterable[Arrival],
    prompts: Iterable[Prompt],
    *,
    clock: Callable[[], float],
    ended: Ended,
) -> None:
    """`ask` each request when it is due. Keeps nothing of what has ended: a load may go on for hours.

    The first error of one of them, or of whoever awaits this, ends them all.
    """
    begin_s = clock()

    async def run(number: int, arrival: Arrival, prompt: Prompt, due_s: float) -> None:
        ended(number, await ask(arrival, prompt, due_s))

    try:
        async with asyncio.TaskGroup() as open_requests:
            for number, (arrival, prompt) in enumerate(zip(arrivals, prompts, strict=False)):
                due_s = begin_s + arrival.at_ms / 1e3
                await asyncio.sleep(max(0.0, due_s - clock()))
                open_requests.create_task(run(number, arrival, prompt, due_s))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # an LtsRayError is for the user, who has no use for a group of them
