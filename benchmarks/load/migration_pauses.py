"""How long a stream stands still when the replica is killed that makes it: from the kill to its next token."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np

from benchmarks.common.turns import Progress
from benchmarks.load.local_model import LocalModel
from benchmarks.load.replica_processes import ReplicaProcesses
from serve.fleet.fleet_engine import Fleet
from serve.policies.request import Request
from serve.routing.simple_routers import LeastOutstanding

STREAMS, PROMPT_TOKENS, NEW_TOKENS = 8, 32, 160
BEGUN = 4
"""Tokens that each stream has before the kill."""
Log = list[tuple[float, str]]
"""When tokens came, and from which replica."""


async def migration_pauses(
    processes: ReplicaProcesses, model: LocalModel, *, kills: int, seed: int, progress: Progress
) -> list[float]:
    """Milliseconds, of all streams that were on a killed replica. It is started again before the next kill."""
    rng, context = np.random.default_rng(seed), model.capacity.context_length
    prompt_tokens = min(PROMPT_TOKENS, context // 4)
    prompts = rng.integers(model.config.vocab_size, size=(kills, STREAMS, prompt_tokens)).tolist()
    new, pauses, victim = min(NEW_TOKENS, context - prompt_tokens), list[float](), ""
    killed = 0
    while killed < kills:
        progress(killed, kills)
        if victim:
            await asyncio.to_thread(processes.restart, victim)
        async with processes.fleet(LeastOutstanding(), model) as fleet:
            requests = [Request(prompt=tuple(each), max_tokens=new, ignore_eos=True) for each in prompts[killed]]
            logs: list[Log] = [[] for _ in requests]
            async with asyncio.TaskGroup() as streams:
                for request, log in zip(requests, logs, strict=True):
                    streams.create_task(_read(fleet, request, log))
                while any(len(log) < BEGUN for log in logs):
                    await asyncio.sleep(0.002)
                going = [log for log in logs if len(log) < new]
                places = Counter(log[-1][1] for log in going)
                victim, killed_s = max(places, key=places.__getitem__, default=""), fleet.clock()
                struck = [log for log in going if log[-1][1] == victim]
                if victim:
                    await asyncio.to_thread(processes.kill, victim)
        moved = [log for log in struck if log[-1][1] != victim]
        nexts_s = [next(at_s for at_s, replica in log if at_s > killed_s and replica != victim) for log in moved]
        pauses += [1e3 * (at_s - killed_s) for at_s in nexts_s]
        killed += bool(moved)  # else all have ended before, on a busy machine: once more
    progress(kills, kills)
    return pauses


async def _read(fleet: Fleet, request: Request, log: Log) -> None:
    response = fleet.submit(request)
    async for tokens in response:
        log += [(fleet.clock(), response.progress.places[-1].replica)] * len(tokens)
