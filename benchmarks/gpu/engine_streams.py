"""Streams of an engine, all at once, of the universal model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import Ceilings, CheckScale, random_tokens
from benchmarks.gpu.shape_times import ShapeTimes
from lts_ray.runtime.step_calibration import measure_step_costs
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Observer, StepRecord
from serve.policies.capacity import Capacity
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import menu_of_granularities
from serve.policies.request import Request


def engine(scale: CheckScale, shape: str, *, ready: Callable[[], Ceilings]) -> Found:
    """The first load only warms up.

    device_busy: the device's own time of a decoding step of the most rows there were, over the time from one such
    step's end to the next.
    """
    times = ShapeTimes(shape, scale)
    config = times.config
    times.prepare()
    ready()
    steps, observer = list[StepRecord](), Observer()
    observer.stepped = steps.append  # type: ignore[assignment, method-assign]
    count, old, new = scale.streams
    costs = measure_step_costs(times.runtime, seconds=scale.calibration_s)
    running = Engine(
        times.runtime,
        menu=menu_of_granularities(config, {}),
        times=LearnedTimes(costs),
        policy=FixedPolicy(),
        eos_ids=frozenset(),
        capacity=Capacity(slots=count, max_queue=count, chunk_tokens=count + scale.prompt),
        prefix_cache=False,
        observers=[observer],
    )

    async def one(prompt: Sequence[int]) -> int:
        request = Request(prompt=tuple(prompt), max_tokens=new, ignore_eos=True)
        return sum([len(tokens) async for tokens in running.submit(request)])

    async def load() -> float:
        steps.clear()
        began = time.perf_counter()
        tokens = sum(await asyncio.gather(*map(one, random_tokens(config, count, old))))
        return tokens / (time.perf_counter() - began)

    running.start()
    try:
        _, tokens_per_s = asyncio.run(load()), asyncio.run(load())
    finally:
        running.stop()
    rows = max(record.decoded for record in steps)
    whole = [record for record in steps if record.decoded == rows]
    device_ms = times.times_ms(times.decoding([config.universal] * min(rows, max(scale.rows))))["device_ms"]
    step_ms = median(record.actual_ms for record in whole)
    what = {"shape": shape, "streams": count, "rows": rows, "tokens_per_s": tokens_per_s, "step_ms": step_ms}
    busy = {"device_ms": device_ms, "device_busy": device_ms / step_ms}
    off = {"step_error": median(each.relative_error or 0.0 for each in whole), "fit_error": costs.relative_error}
    yield what | busy | off
