"""How long the endpoint's runtime takes for submodels of several models, all of them in turns."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.common.command import StageProgress
from benchmarks.common.turns import turns
from lts_ray.measurement.steps import Regime
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock, Step, timed

REGIMES: tuple[Regime, Regime] = ("prefill", "decode")
ROWS = 8
"""Of a decode step: requests of an endpoint that is in use."""
PREFILL_TOKENS = 192


def time_submodels(
    models: Mapping[str, MatFormer],
    rounds: int,
    *,
    threads: int,
    clock: Clock = time.perf_counter,
    progress: StageProgress = lambda stage, done, total: None,
) -> dict[tuple[str, Submodel], dict[Regime, float]]:
    """Medians over the rounds. A model's submodels come one after the other, another one of them first in each round:
    that one pays for bringing the weights back into the cache, which an endpoint that serves one model has there.
    """
    blocks = -(-(PREFILL_TOKENS + 1) // BLOCK_TOKENS)
    steps: dict[str, deque[tuple[Submodel, dict[Regime, Step]]]] = {}
    for name, model in models.items():
        runtime = build_runtime(model, n_blocks=ROWS * blocks, threads=threads)
        steps[name] = deque((submodel, _steps(runtime, submodel, blocks)) for submodel in least_slope(model.config))
    keys = [(name, submodel) for name, of_model in steps.items() for submodel, _ in of_model]
    times: dict[tuple[str, Submodel], dict[Regime, list[float]]] = {key: {"prefill": [], "decode": []} for key in keys}
    for turn in turns(models, REGIMES, rounds=rounds, progress=lambda *done: progress("timing", *done)):
        if turn.task == "prefill":
            steps[turn.way].rotate()
        for submodel, of_submodel in steps[turn.way]:
            took_ms = timed(of_submodel[turn.task], wait=lambda: None, clock=clock)
            times[turn.way, submodel][turn.task].append(took_ms)
    return {key: {regime: median(taken) for regime, taken in of_key.items()} for key, of_key in times.items()}


def _steps(runtime: Runtime, submodel: Submodel, blocks: int) -> dict[Regime, Step]:
    """A prompt of PREFILL_TOKENS, and one token for each of ROWS sequences behind as many. blocks: of a sequence."""

    def segment(row: int, tokens: Sequence[int], start: int) -> Segment:
        own = range(row * blocks, (row + 1) * blocks)
        return Segment(tokens=tokens, start=start, blocks=own, submodel=submodel, wants_logits=True)

    def step(*segments: Segment) -> Step:
        def run() -> None:
            runtime.run(segments)

        return run

    vocab_size = runtime.config.vocab_size
    prompt = segment(0, [(7 * place) % vocab_size for place in range(PREFILL_TOKENS)], 0)
    decoded = [segment(row, [(31 * row + 1) % vocab_size], PREFILL_TOKENS) for row in range(ROWS)]
    return {"prefill": step(prompt), "decode": step(*decoded)}
