"""Steps of the runtime beside the memory's speed, and prompts beside the chip's."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import Ceilings, CheckScale, held, mixture, piece, random_tokens
from lts_ray.pick import GREEDY_PICK
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel


class ShapeTimes:
    """Of a random model of one shape."""

    def __init__(self, name: str, scale: CheckScale) -> None:
        self.name, self.scale, self.config = name, scale, scale.shapes[name]
        self._each = held(scale.context + 1)
        blocks = max(max(scale.rows) * self._each, held(scale.prompt), scale.streams[0] * held(sum(scale.streams[1:])))
        self.runtime = scale.runtime(scale.model(self.config, scale.dtype), n_blocks=blocks)

    def prepare(self) -> Mapping[str, object]:
        """Compiles and captures what a server does before it serves. A row; what fails here may not be needed."""
        began, error = time.monotonic(), None
        try:
            if hasattr(self.runtime, "prepare"):
                self.runtime.prepare()
        except Exception as failed:
            traceback.print_exc()
            error = f"{type(failed).__name__}: {failed}".partition("\n")[0]
        return {"shape": self.name, "prepared_s": time.monotonic() - began, "prepare_error": error}

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

    def steps(self, ceilings: Ceilings) -> Found:
        """A row for each number of rows and width. kept: the share of what fewer bytes promise that a width gains."""
        for rows in self.scale.rows:
            same = {name: [submodel] * rows for name, submodel in reversed(list(self.config.trained.items()))}
            mixed = {"mixed": mixture(self.config, rows)} if rows >= len(same) else {}
            widest_ms = widest = 0.0
            for width, submodels in (same | mixed).items():
                segments, read = self.decoding(submodels), self.read_bytes(submodels)
                took, floor_ms = self.times_ms(segments), 1e3 * read / ceilings.copied
                took_ms = took["device_ms"]
                widest_ms, widest = widest_ms or took_ms, widest or read
                what = {"shape": self.name, "rows": rows, "width": width, **took}
                floor = {"floor_ms": floor_ms, "times_floor": took_ms / floor_ms, "memory_speed": floor_ms / took_ms}
                gain = {"over_widest": took_ms / widest_ms, "kept": (widest_ms / took_ms) / (widest / read)}
                yield what | floor | gain

    def prompt(self, submodel: Submodel) -> list[Segment]:
        """In one step."""
        length = self.scale.prompt
        return [piece(0, random_tokens(self.config, 1, length)[0], 0, held(length), submodel)]

    def prompts(self, ceilings: Ceilings) -> Found:
        """A row for each width. Attention counts as if each token saw half of the prompt."""
        config, length = self.config, self.scale.prompt
        for width in ("XL", "S"):
            submodel = config.trained[width]
            took = self.times_ms(self.prompt(submodel))
            attention = 2 * config.n_layer * config.n_head * config.d_head * length**2
            products = 2 * length * config.decoder_params(submodel) + attention + 2 * config.vocab_size * config.d_model
            rate = 1e3 * products / took["device_ms"]
            speed = {"tflop_per_s": rate / 1e12, "of_chip_rate": rate / ceilings.multiplied}
            yield {"shape": self.name, "tokens": length, "width": width, **took, **speed}


def steps(scale: CheckScale, shape: str, *, ready: Callable[[], Ceilings]) -> Found:
    times = ShapeTimes(shape, scale)
    yield times.prepare()
    times.runtime.run(times.decoding([times.config.universal] * max(scale.rows)))
    yield from times.steps(ready())


def prompts(scale: CheckScale, shape: str, *, ready: Callable[[], Ceilings]) -> Found:
    times = ShapeTimes(shape, scale)
    times.runtime.run(times.prompt(times.config.universal))
    yield from times.prompts(ready())
