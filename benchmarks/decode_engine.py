"""The comparison of `benchmarks.decode` with the whole engine in it: requests in, tokens out, no HTTP."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.bandwidth import read_bandwidth
from benchmarks.common.machine import Machine
from benchmarks.decode import (
    ENGINE,
    RUNTIME,
    Decode,
    Progress,
    Prompts,
    Result,
    Way,
    bare_runtime,
    blocks_for,
    compare,
    random_prompts,
    step_bytes,
)
from benchmarks.decode_rivals import Work, missing, open_rivals, versions
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.step_calibration import calibrate
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import torch_threads
from serve.engine.engine import Engine
from serve.engine.observer import Silence, StepRecord
from serve.engine.request import Request
from serve.policies.menu import Option, menu_of_granularities
from serve.policies.named_policies import policy_named


class StepPredictions(Silence):
    """How far off each step's predicted time was."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def stepped(self, record: StepRecord) -> None:
        self.errors.append(abs(record.predicted_ms / record.actual_ms - 1))


@contextmanager
def engine_decode(
    runtime: Runtime, costs: StepCosts, *, batch: int, prompt_tokens: int, predictions: StepPredictions
) -> Iterator[Callable[[Option], Decode]]:
    """An engine that runs as long as the context lasts. Call what it gives with the submodel that all requests name.

    Prompts are read whole and in one step, as the other ways do. None is found in the cache when it comes again.
    """
    engine = Engine(
        runtime,
        menu=menu_of_granularities(runtime.config, {}),
        costs=costs,
        policy=policy_named("fixed"),
        eos_ids=frozenset(),
        max_batch_size=batch,
        max_queue=batch,
        chunk_tokens=batch * (prompt_tokens + 1),
        prefix_cache=False,
        observer=predictions,
    )

    async def one(option: Option, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
        response = engine.submit(Request(prompt=prompt, max_tokens=new_tokens, pinned=option, ignore_eos=True))
        return [token.id async for tokens in response for token in tokens]

    async def all_of(option: Option, prompts: Prompts, new_tokens: int) -> list[list[int]]:
        return list(await asyncio.gather(*(one(option, tuple(prompt), new_tokens) for prompt in prompts)))

    engine.start()
    try:
        yield lambda option: lambda prompts, new_tokens: asyncio.run(all_of(option, prompts, new_tokens))
    finally:
        engine.stop()


def run(
    folder: Path,
    *,
    submodels: Sequence[str],
    rivals: Sequence[str],
    batches: Sequence[int],
    prompt_tokens: int,
    new_tokens: int,
    threads: int,
    rounds: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Result:
    """say: told which rivals are left out. Raises LtsRayError for what cannot be compared."""
    if not submodels or not batches or min(batches) < 1:
        raise LtsRayError(f"decoding needs submodels, and batches of at least 1; got {submodels} and {batches}")
    present = []
    for name in rivals:
        reason = missing(name)
        if reason is None:
            present.append(name)
        else:
            say(reason)
    model, most, length = load_checkpoint(folder).model, max(batches), prompt_tokens + new_tokens
    if length > model.config.context_length:
        raise LtsRayError(f"prompt and response are {length} tokens; the model takes {model.config.context_length}")
    config = model.config
    chosen = {name: config.submodel(name) for name in submodels}
    ordered = sorted(chosen, key=lambda name: sum(chosen[name].widths))
    predictions = StepPredictions()
    with torch_threads(threads), tempfile.TemporaryDirectory() as scratch:
        bandwidth = read_bandwidth(threads=threads)
        runtime = build_runtime(model, n_blocks=blocks_for(most, length) + most, threads=threads)
        costs = calibrate(runtime)
        work = Work(
            folder=Path(scratch, "extracted"),
            scratch=Path(scratch, "converted"),
            threads=threads,
            batch=most,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
        )
        with (
            open_rivals(present, folder, ordered, work) as others,
            engine_decode(
                runtime, costs, batch=most, prompt_tokens=prompt_tokens, predictions=predictions
            ) as of_engine,
        ):
            ways = {Way(RUNTIME, name): bare_runtime(runtime, submodel) for name, submodel in chosen.items()}
            for name, submodel in chosen.items():
                ways[Way(ENGINE, name)] = of_engine(Option.of(config, submodel, name=name, loss=0.0))
            rows = compare(
                ways | others,
                random_prompts(config, count=most, tokens=prompt_tokens, seed=seed),
                batches=batches,
                new_tokens=new_tokens,
                rounds=rounds,
                step_bytes=lambda name, batch: step_bytes(
                    config, chosen[name], batch=batch, context=prompt_tokens + new_tokens // 2
                ),
                progress=progress,
            )
        bandwidth = max(bandwidth, read_bandwidth(threads=threads))  # either moment may be a slow one
    return Result(
        rows=rows,
        submodels=tuple(ordered),
        prompt_tokens=prompt_tokens,
        bandwidth=bandwidth,
        prediction_error=median(predictions.errors) if predictions.errors else None,
        threads=threads,
        seed=seed,
        machine=Machine.here(),
        versions=versions(),
    )
