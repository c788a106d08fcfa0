"""Steps of the runtime beside the memory's speed, prompts beside the chip's, and streams of an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import cached_property, partial
from statistics import median

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import CheckScale, held, mixture, piece, random_tokens
from lts_ray.pick import GREEDY_PICK
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.submodel import Submodel
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Observer, StepRecord
from serve.policies.capacity import Capacity
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import menu_of_granularities
from serve.policies.request import Request


class ShapeTimes:
    """Of a random model of one shape."""

    def __init__(self, name: str, scale: CheckScale) -> None:
        self.name, self.scale, self.config = name, scale, scale.shapes[name]
        self._each = held(scale.context + 1)
        blocks = max(max(scale.rows) * self._each, held(scale.prompt), scale.streams[0] * held(sum(scale.streams[1:])))
        self.runtime = scale.runtime(scale.model(self.config, scale.dtype), n_blocks=blocks)

    @cached_property
    def _tokens(self) -> list[list[int]]:
        """Of each row, with all but the last in the cache."""
        tokens = random_tokens(self.config, max(self.scale.rows), self.scale.context + 1)
        for row, before in enumerate(tokens):
            self.runtime.run([piece(row, before[:-1], 0, self._each, self.config.universal)])
        return tokens

    def decoding(self, submodels: Sequence[Submodel]) -> list[Segment]:
        """A row of each."""
        return [
            piece(row, self._tokens[row][-1:], self.scale.context, self._each, submodel)
            for row, submodel in enumerate(submodels)
        ]

    def times_ms(self, segments: Sequence[Segment]) -> dict[str, float]:
        """Of a step: the device's own time, and from telling the runtime of it to having its tokens."""
        begin = partial(self.runtime.begin, segments, [GREEDY_PICK] * len(segments))
        device_ms = self.scale.device_ms(begin, lambda begun: begun.chosen())
        return {"device_ms": device_ms, "chosen_ms": self.scale.wall_ms(lambda: begin().chosen())}

    def read_bytes(self, submodels: Sequence[Submodel]) -> int:
        """Of weights and cache, that a decoding step of these must read."""
        config, shape = self.config, self.config.cache_shape
        weights = max(map(config.decoder_params, submodels)) + config.vocab_size * config.d_model
        cached = len(submodels) * (self.scale.context + 1) * 2 * shape.n_layer * shape.n_kv_head * shape.d_head
        return (weights + cached) * self.scale.dtype.itemsize

    def steps(self) -> Found:
        """A row for each number of rows and width. kept: the share of what fewer bytes promise that a width gains."""
        for rows in self.scale.rows:
            same = {name: [submodel] * rows for name, submodel in reversed(list(self.config.trained.items()))}
            mixed = {"mixed": mixture(self.config, rows)} if rows >= len(same) else {}
            widest_ms = widest = 0.0
            for width, submodels in (same | mixed).items():
                segments, read = self.decoding(submodels), self.read_bytes(submodels)
                took, floor_ms = self.times_ms(segments), 1e3 * read / self.scale.ceilings[0]
                took_ms = took["device_ms"]
                widest_ms, widest = widest_ms or took_ms, widest or read
                run_ms = self.scale.wall_ms(partial(self.runtime.run, segments))
                what = {"shape": self.name, "rows": rows, "width": width, **took, "run_ms": run_ms}
                floor = {"floor_ms": floor_ms, "times_floor": took_ms / floor_ms, "memory_speed": floor_ms / took_ms}
                gain = {"over_widest": took_ms / widest_ms, "kept": (widest_ms / took_ms) / (widest / read)}
                yield what | floor | gain

    def prompts(self) -> Found:
        """A row for each width: a prompt in one step. Attention counts as if each token saw half of the prompt."""
        config, length = self.config, self.scale.prompt
        for width in ("XL", "S"):
            submodel = config.trained[width]
            segments = [piece(0, random_tokens(config, 1, length)[0], 0, held(length), submodel)]
            took = self.times_ms(segments)
            attention = 2 * config.n_layer * config.n_head * config.d_head * length**2
            products = 2 * length * config.decoder_params(submodel) + attention + 2 * config.vocab_size * config.d_model
            rate = 1e3 * products / took["device_ms"] / self.scale.ceilings[1]
            yield {"shape": self.name, "tokens": length, "width": width, **took, "of_chip_rate": rate}

    def streams(self) -> Found:
        """All at once, of the universal model; the first load only warms up.

        device_busy: the device's own time of a decoding step of the most rows there were, over the time from one such
        step's end to the next.
        """
        scale, steps, observer = self.scale, list[StepRecord](), Observer()
        observer.stepped = steps.append  # type: ignore[assignment, method-assign]
        count, old, new = scale.streams
        costs = measure_step_costs(self.runtime, seconds=scale.calibration_s)
        engine = Engine(
            self.runtime,
            menu=menu_of_granularities(self.config, {}),
            times=LearnedTimes(costs),
            policy=FixedPolicy(),
            eos_ids=frozenset(),
            capacity=Capacity(slots=count, max_queue=count, chunk_tokens=count + scale.prompt),
            prefix_cache=False,
            observers=[observer],
        )

        async def one(prompt: Sequence[int]) -> int:
            request = Request(prompt=tuple(prompt), max_tokens=new, ignore_eos=True)
            return sum([len(tokens) async for tokens in engine.submit(request)])

        async def load() -> float:
            steps.clear()
            began = time.perf_counter()
            tokens = sum(await asyncio.gather(*map(one, random_tokens(self.config, count, old))))
            return tokens / (time.perf_counter() - began)

        engine.start()
        try:
            _, tokens_per_s = asyncio.run(load()), asyncio.run(load())
        finally:
            engine.stop()
        rows = max(record.decoded for record in steps)
        whole = [record for record in steps if record.decoded == rows]
        device_ms = self.times_ms(self.decoding([self.config.universal] * min(rows, max(scale.rows))))["device_ms"]
        step_ms = median(record.actual_ms for record in whole)
        what = {"shape": self.name, "streams": count, "rows": rows, "tokens_per_s": tokens_per_s, "step_ms": step_ms}
        busy = {"device_ms": device_ms, "device_busy": device_ms / step_ms}
        off = {"step_error": median(each.relative_error or 0.0 for each in whole), "fit_error": costs.relative_error}
        yield what | busy | off
