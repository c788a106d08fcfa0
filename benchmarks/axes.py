"""Does it pay to nest more than the FFN? Loss against latency, with heads and with d_model nested beside it.

The models have one shape, and were trained with one compute. Each is judged by its granularities and by the Mix'n'Match
between them that least slope takes: loss on held-out text, and the time of a prefill and of a decode step in the
endpoint's runtime, all of them in turns, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.axes_plan import FFN, AxesPlan
from benchmarks.common.held_out_text import held_out
from benchmarks.common.machine import Machine
from benchmarks.common.training_runs import train_runs
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.measurement.steps import Regime
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.timing import Clock, Step, timed, torch_threads
from lts_ray.training.ray_trainer import check_output
from lts_ray.training.run_folder import RunFolder

SCHEMA = 1
ROWS = 8
"""Of a decode step: requests of an endpoint that is in use."""
PREFILL_TOKENS = 192
BLOCKS = 96
"""Of held-out text: 24,576 tokens."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class AxesPoint:
    """name: the granularity's; None: a mix of two. loss: nats per token. latency_ms: by regime."""

    model: str
    name: str | None
    submodel: Submodel
    decoder_params: int
    loss: float
    latency_ms: Mapping[Regime, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "name": self.name,
            "submodel": self.submodel.to_json(),
            "decoder_params": self.decoder_params,
            "loss": round(self.loss, 5),
            "latency_ms": {regime: round(value, 4) for regime, value in self.latency_ms.items()},
        }


@dataclass(frozen=True, kw_only=True)
class AxesResult:
    """steps: of each model's training."""

    plan: AxesPlan
    steps: Mapping[str, int]
    points: tuple[AxesPoint, ...]
    rounds: int
    machine: Machine

    def of(self, model: str) -> list[AxesPoint]:
        """Smallest first."""
        return sorted((each for each in self.points if each.model == model), key=lambda each: each.decoder_params)

    def best_within(self, model: str, regime: Regime, latency_ms: float) -> AxesPoint | None:
        """The model's point of the least loss that takes no longer; None: all of them do."""
        fitting = [each for each in self.of(model) if each.latency_ms[regime] <= latency_ms]
        return min(fitting, key=lambda each: each.loss, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "steps": dict(self.steps),
            "seed": self.plan.seed,
            "threads": self.plan.threads,
            "rounds": self.rounds,
            "decode_rows": ROWS,
            "prefill_tokens": PREFILL_TOKENS,
            "machine": asdict(self.machine),
            "points": [each.to_json() for each in self.points],
        }

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line: by model and granularity the loss, and the latencies over the plain XL's."""
        whole = self.of(FFN)[-1]
        return {
            model: {
                each.name: {
                    "loss": round(each.loss, 4),
                    **{regime: round(ms / whole.latency_ms[regime], 3) for regime, ms in each.latency_ms.items()},
                }
                for each in self.of(model)
                if each.name
            }
            for model in self.steps
        }


def run(
    plan: AxesPlan,
    folder: Path,
    *,
    rounds: int = 30,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
    clock: Clock = time.perf_counter,
) -> AxesResult:
    """Train what is not trained yet in `folder`, then judge; killed, the same call goes on.

    rounds: of the steps that are timed. Raises LtsRayError for unusable settings, text or folders.
    """
    check_output(folder)
    runs = plan.runs(plan.model.vocab_size)
    folders = train_runs(runs, folder, say=say)
    models = {name: load_checkpoint(each.model).model for name, each in folders.items()}
    submodels = [(name, submodel) for name, model in models.items() for submodel in least_slope(model.config)]
    losses = _losses(models, submodels, next(iter(folders.values())), progress)
    with torch_threads(plan.threads), torch.inference_mode():
        latencies = _latencies(models, submodels, rounds, threads=plan.threads, clock=clock, progress=progress)
    points = []
    for place, (name, submodel) in enumerate(submodels):
        config = models[name].config
        trained = {each: granularity for granularity, each in config.trained.items()}
        points.append(
            AxesPoint(
                model=name,
                name=trained.get(submodel),
                submodel=submodel,
                decoder_params=config.decoder_params(submodel),
                loss=losses[place],
                latency_ms=latencies[place],
            )
        )
    return AxesResult(
        plan=plan,
        steps={name: each.training.steps for name, each in runs.items()},
        points=tuple(points),
        rounds=rounds,
        machine=Machine.here(),
    )


Named = tuple[str, Submodel]


def _losses(
    models: Mapping[str, MatFormer], submodels: Sequence[Named], folder: RunFolder, progress: Progress
) -> list[float]:
    tokens = np.load(folder.data / "validation.npy")
    length = next(iter(models.values())).config.context_length
    blocks = held_out(tokens, eos_id=load_tokenizer(folder.data).eos_id, length=length).report[:BLOCKS]
    losses = []
    for place, (name, submodel) in enumerate(submodels, start=1):
        losses.append(validation_loss(models[name], blocks, submodel))
        progress("losses", place, len(submodels))
    return losses


def _latencies(
    models: Mapping[str, MatFormer],
    submodels: Sequence[Named],
    rounds: int,
    *,
    threads: int,
    clock: Clock,
    progress: Progress,
) -> list[dict[Regime, float]]:
    """Medians over the rounds. In each, a model's submodels come one after the other, and another one of them first:
    that one pays for bringing the weights back into the cache, which an endpoint that serves one model has there.
    """
    blocks = -(-(PREFILL_TOKENS + 1) // BLOCK_TOKENS)
    runtimes = {name: build_runtime(model, n_blocks=ROWS * blocks, threads=threads) for name, model in models.items()}
    steps = [_steps(runtimes[name], submodel, blocks) for name, submodel in submodels]
    times: list[dict[Regime, list[float]]] = [{regime: [] for regime in each} for each in steps]
    own = [deque(place for place, (name, _) in enumerate(submodels) if name == model) for model in models]
    for turn in range(rounds):
        for regime in ("prefill", "decode"):
            for place in chain(*own):
                times[place][regime].append(timed(steps[place][regime], wait=lambda: None, clock=clock))
        for places in own:
            places.rotate()
        progress("timing", turn + 1, rounds)
    return [{regime: median(values) for regime, values in taken.items()} for taken in times]


def _steps(runtime: Runtime, submodel: Submodel, blocks: int) -> dict[Regime, Step]:
    """A prompt of PREFILL_TOKENS, and one token for each of ROWS sequences behind as many. blocks: of a sequence."""

    def segment(row: int, tokens: Sequence[int], start: int) -> Segment:
        own = range(row * blocks, (row + 1) * blocks)
        return Segment(tokens=tokens, start=start, blocks=own, submodel=submodel, wants_logits=True)

    vocab_size = runtime.config.vocab_size
    prompt = [segment(0, [(7 * place) % vocab_size for place in range(PREFILL_TOKENS)], 0)]
    decoded = [segment(row, [(31 * row + 1) % vocab_size], PREFILL_TOKENS) for row in range(ROWS)]
    return {"prefill": lambda: _run(runtime, prompt), "decode": lambda: _run(runtime, decoded)}


def _run(runtime: Runtime, segments: Sequence[Segment]) -> None:
    runtime.run(segments)
