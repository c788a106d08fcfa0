"""Does one step of the universal model take less time than the steps of the plain models that it replaces?

Steps that take turns: of the joint objective, as one mixed-width pass and as a pass for each granularity; of the
sampled one, for each granularity; of a plain model of each granularity's width.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Annotated, Any

import torch
import typer

from benchmarks.common.command import Threads, run_benchmark, shown_progress
from benchmarks.common.scale import Scale, run_flops
from benchmarks.common.training_steps import Quartiles, quartiles_of_ratio, time_training_steps
from benchmarks.common.turns import Progress
from lts_ray.cli.options import Seed
from lts_ray.console import print_rows
from lts_ray.timing import Clock
from lts_ray.training.freed_memory import keep_freed_memory
from lts_ray.training.loop import chosen
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings

MIXED, SEPARATE, SAMPLED, PLAIN = "joint, one mixed pass", "joint, separate passes", "sampled", "plain"


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    scale: Scale
    times_ms: Mapping[str, tuple[float, ...]]
    """By kind of step, round by round."""
    flops: Mapping[str, float]
    """Of a step of each kind."""

    def median_ms(self, name: str) -> float:
        return median(self.times_ms[name])

    @property
    def sampled_ms(self) -> float:
        """The mean step of the sampled objective."""
        chances = self.scale.training.objective_of(self.scale.model.names).probabilities
        return sum(chance * self.median_ms(f"{SAMPLED} {name}") for name, chance in chances.items())

    @property
    def plain(self) -> list[str]:
        return [f"{PLAIN} {name}" for name in self.scale.model.names]

    @property
    def together_ms(self) -> float:
        """A step of each plain model."""
        return sum(self.median_ms(name) for name in self.plain)

    def ratio(self, name: str) -> Quartiles:
        """The step's time over the plain models' together, over the rounds."""
        together = [sum(times) for times in zip(*(self.times_ms[plain] for plain in self.plain), strict=True)]
        return quartiles_of_ratio(self.times_ms[name], together)

    def to_json(self) -> dict[str, Any]:
        ratios = {"mixed": self.ratio(MIXED), "separate": self.ratio(SEPARATE)}
        return asdict(self) | {
            "median_ms": {name: self.median_ms(name) for name in self.times_ms},
            "plain_together_ms": self.together_ms,
            "sampled_mean_ms": self.sampled_ms,
            "ratio_to_plain": {name: middle for name, (_, middle, _) in ratios.items()},
            "ratio_quartiles": ratios,
            "torch": torch.__version__,
        }


def compare_steps(
    scale: Scale,
    *,
    rounds: int = 15,
    warmup: int = 2,
    wanted: Callable[[str], bool] = lambda kind: True,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> StepTimes:
    """wanted: which kinds of step, by name.

    Raises LtsRayError for fewer than two rounds, and for a GPU where there is none.
    """
    scale = replace(scale, training=chosen(scale.training))
    vocab_size = scale.model.vocab_size
    kinds = {name: run for name, run in _kinds(scale).items() if wanted(name)}
    return StepTimes(
        scale=scale,
        times_ms=time_training_steps(
            kinds, vocab_size=vocab_size, rounds=rounds, warmup=warmup, clock=clock, progress=progress
        ),
        flops={name: run_flops(run, vocab_size) / run.training.steps for name, run in kinds.items()},
    )


def _kinds(scale: Scale) -> dict[str, RunSettings]:
    """Runs whose steps are compared, by the kind of step."""
    universal = scale.universal
    joint = replace(scale.training, objective="joint")
    kinds = {
        MIXED: replace(universal, training=replace(joint, passes="mixed")),
        SEPARATE: replace(universal, training=replace(joint, passes="separate")),
    }
    for name in scale.model.names:
        always = replace(scale.training, objective="sampled", probabilities={name: 1.0})
        kinds[f"{SAMPLED} {name}"] = replace(universal, training=always)
    plain = replace(scale, training=replace(joint, weights="equal", probabilities="uniform"))
    return kinds | {f"{PLAIN} {name}": run for name, run in plain.baselines.items()}


def training_step(
    vocab_size: Annotated[int, typer.Option(min=2, help="Words.")] = 2_048,
    d_model: Annotated[int, typer.Option(min=2, help="Width of the hidden states.")] = 128,
    n_layer: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    n_head: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 4,
    n_kv_head: Annotated[int, typer.Option(min=1, help="Heads of keys and values.")] = 2,
    d_ff: Annotated[int, typer.Option(min=8, help="FFN neurons of the universal model.")] = 1_024,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = 4,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 512,
    probabilities: Annotated[str, typer.Option(help="Of the sampled objective: uniform or large-often.")] = "uniform",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: what the hardware multiplies.")] = "auto",
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(min=2, help="Steps of each, taken in turns.")] = 15,
    seed: Seed = 0,
) -> None:
    """Training step: the joint and sampled objectives' time over that of four plain models of the granularities' sizes.

    Below 1, training one universal model takes less time than training the four models that it replaces.
    """
    keep_freed_memory()
    scale = Scale(
        name="step",
        model=ModelSettings(
            vocab_size=vocab_size,
            d_model=d_model,
            n_layer=n_layer,
            n_head=n_head,
            n_kv_head=n_kv_head,
            d_ff=d_ff,
            context_length=sequence_length,
        ),
        training=TrainingSettings(
            batch_size=batch_size,
            sequence_length=sequence_length,
            probabilities=probabilities,
            device=device,  # type: ignore[arg-type]  # checked by the settings, as a file's would be
            precision=precision,  # type: ignore[arg-type]
            threads=threads,
            seed=seed,
        ),
    )
    with shown_progress("rounds") as progress:
        times = compare_steps(scale, rounds=rounds, progress=progress)
    together_flops = sum(times.flops[name] for name in times.plain)
    rows = [
        {
            "step": name,
            "median, ms": times.median_ms(name),
            "of the plain ones together": times.median_ms(name) / times.together_ms,
            "Gflops": times.flops[name] / 1e9,
            "of their flops": times.flops[name] / together_flops,
        }
        for name in times.times_ms
    ]
    options = times.scale.training
    print_rows(rows, as_json=False, title=f"{options.device}, {options.precision}, {threads} threads, {rounds} rounds")
    for name in (MIXED, SEPARATE):
        low, middle, high = times.ratio(name)
        print(f"{name}: {middle:.3f} of the plain steps together (rounds: {low:.3f} to {high:.3f})")
    print(json.dumps(times.to_json()))


if __name__ == "__main__":
    run_benchmark(training_step)
