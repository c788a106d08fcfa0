"""Is one nested training as good as four plain ones? Trains both ways, on the same batches, and compares.

At each scale: the universal model and a plain model of each granularity's width, trained alone; then how far each
granularity is from its plain twin, how consistent the small ones are with the large one, whether Mix'n'Match fills the
curve between them, which Mix'n'Match is best, and what a joint step costs in time beside the four plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import ALL_CORES, Rounds, Threads, TrainingCorpus, run_benchmark
from benchmarks.common.held_out_text import held_out
from benchmarks.common.machine import Machine
from benchmarks.common.result_page import Section, Tables, leave_result
from benchmarks.common.scale import UNIVERSAL, Scale, baseline
from benchmarks.nested.nested_plot import nested_figure
from benchmarks.nested.nested_quality import ObjectiveQuality, ScaleQuality, judge_objectives, judge_scale
from benchmarks.nested.nested_scales import DEFAULT_SCALES, scale_named, train_scale
from benchmarks.training_step import MIXED, StepTimes, compare_steps
from lts_ray.cli.options import Output, Seed
from lts_ray.console import progress_bars
from lts_ray.device import device_here
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.freed_memory import keep_freed_memory

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ScaleResult:
    scale: Scale
    quality: ScaleQuality
    times: StepTimes
    objectives: tuple[ObjectiveQuality, ...]
    """Empty where they were not asked for."""

    @property
    def time_ratio(self) -> float:
        """Of one joint step over the steps of the four plain models together."""
        return self.times.ratio(MIXED)[1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"times": self.times.to_json(), **self.summary()}

    def summary(self) -> dict[str, Any]:
        quality = self.quality
        return {
            "relative_difference": {twins.name: round(twins.relative_difference, 4) for twins in quality.twins},
            "on_or_under_the_line": f"{quality.under_the_line} of {len(quality.between)}",
            "time_ratio": round(self.time_ratio, 3),
        }

    def section(self) -> Section:
        model, training, quality = self.scale.model, self.scale.training, self.quality
        low, middle, high = self.times.ratio(MIXED)
        return Section(
            title=self.scale.name,
            text=f"{model.n_layer} layers, d_model {model.d_model}, d_ff {model.d_ff}; {training.steps:,} steps of "
            f"{training.batch_size} × {training.sequence_length} tokens; {quality.tokens:,} held-out tokens. "
            f"{quality.under_the_line} of {len(quality.between)} least-slope mixes are on or under the line; one joint "
            f"step takes {middle:.3f} ({low:.3f} – {high:.3f}) of the four plain steps' time.",
            figure=nested_figure(quality),
            name=f"matformer-{self.scale.name}",
            tables=self.tables(),
        )

    def tables(self) -> Tables:
        name, quality, options = self.scale.name, self.quality, self.times.scale.training
        twins: list[dict[str, Any]] = [
            {
                "granularity": twins.name,
                "non-embedding params": twins.universal.decoder_params,
                "loss": twins.universal.loss,
                "alone": twins.baseline.loss,
                "difference, %": 100 * twins.relative_difference,
                "agrees with XL, %": 100 * twins.universal.agreement,
                "alone, %": 100 * twins.baseline.agreement,
                "KL": twins.universal.kl,
                "KL, alone": twins.baseline.kl,
            }
            for twins in quality.twins
        ]
        mixes = [
            {
                "least slope": point.submodel.text,
                "non-embedding params": point.decoder_params,
                "loss": point.loss,
                "above the line, 1e-3 nats": 1e3 * quality.above_line(point),
                "agrees with XL, %": 100 * point.agreement,
            }
            for point in quality.between
        ]
        choices = [
            {
                "non-embedding params": choice.least_slope.decoder_params,
                "mixes": choice.count,
                "least slope": 1e3 * quality.above_line(choice.least_slope),
                "searched": 1e3 * quality.above_line(choice.searched),
                "best at random": 1e3 * quality.above_line(choice.random_best),
                "at random, mean": 1e3 * fmean(map(quality.above_line, choice.drawn)),
            }
            for choice in quality.equal_sizes
        ]
        objectives = [
            {"objective": objective.name, "steps": objective.steps, "compute": objective.relative_flops}
            | {granularity: point.loss for granularity, point in objective.by_granularity.items()}
            | {
                "mean": objective.mean_loss,
                "S agrees with XL, %": 100 * next(iter(objective.by_granularity.values())).agreement,
            }
            for objective in self.objectives
        ]
        steps = [{"step": step, "median ms": self.times.median_ms(step)} for step in self.times.times_ms]
        tables = {
            "granularities, and plain models trained alone": twins,
            "Mix'n'Match, and the line through the granularities": mixes,
            "Mix'n'Match choices of one size, 1e-3 nats above the line": choices,
            "loss by objective; compute over that of the joint one": objectives,
            f"training steps in turns, {options.device}, {options.threads} threads": steps,
        }
        return {f"{name}: {title}": rows for title, rows in tables.items() if rows}


def compare_nested(
    scales: Sequence[Scale],
    folder: Path,
    *,
    objectives: bool = False,
    evaluations: int = 24,
    rounds: int = 15,
    seed: int = 0,
) -> list[ScaleResult]:
    """Train what is not trained yet under folder/SCALE, then compare; killed, the same call goes on.

    objectives: train and compare others than the joint one too. evaluations: submodels that the random and the
    searched Mix'n'Match each look at, at each size. rounds: of the steps that are timed in turns. Raises LtsRayError
    for unusable settings, text or folders.
    """
    if evaluations < 1:
        raise LtsRayError(f"a choice looks at at least one submodel; got {evaluations} evaluations")
    trained = [(scale, train_scale(scale, folder / scale.name, objectives=objectives)) for scale in scales]
    results = []
    with progress_bars() as progress:
        for scale, folders in trained:
            device = device_here(scale.training.device, what="training.device")
            models = {name: load_checkpoint(folders[name].model, device=device).model for name in scale.runs}
            data = folders[UNIVERSAL].data
            tokenizer, tokens = load_tokenizer(data), np.load(data / "validation.npy")
            text = held_out(tokens, eos_id=tokenizer.eos_id, length=scale.training.sequence_length)
            result = ScaleResult(
                scale=scale,
                quality=judge_scale(
                    models[UNIVERSAL],
                    {name: models[baseline(name)] for name in scale.baselines},
                    text,
                    evaluations=evaluations,
                    rng=np.random.default_rng(seed),
                    progress=progress,
                ),
                objectives=judge_objectives(
                    scale, folders, text.report, vocab_size=tokenizer.vocab_size, device=device, progress=progress
                )
                if objectives
                else (),
                times=compare_steps(scale, rounds=rounds, progress=partial(progress, "timing steps")),
            )
            results.append(result)
    return results


def nested_training(
    output: Output,
    scale: Annotated[
        list[str] | None,
        typer.Option(help="small, medium; with a GPU paper-78m, paper-180m. Default: small and medium."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of every training; default: the scale's.")] = None,
    objectives: Annotated[bool, typer.Option("--objectives", help="Train by four other objectives, too.")] = False,
    evaluations: Annotated[int, typer.Option(min=1, help="Submodels that Mix'n'Match tries at each size.")] = 24,
    rounds: Rounds = 15,
    corpus: TrainingCorpus = "sotu",
    seed: Seed = 0,
    threads: Threads = ALL_CORES,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, or auto: a GPU where there is one. Default: auto for paper-*, else cpu."),
    ] = None,
) -> None:
    """MatFormer: each granularity beside a plain model of its size, Mix'n'Match between them, and the time it takes.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes about an hour on two cores.
    """
    keep_freed_memory()
    scales = [
        scale_named(
            name,
            steps=steps,
            corpus=corpus,
            seed=seed,
            threads=threads,
            device=device,  # type: ignore[arg-type]  # checked by the settings, as a file's would be
        )
        for name in scale or DEFAULT_SCALES
    ]
    results = compare_nested(scales, output, objectives=objectives, evaluations=evaluations, rounds=rounds, seed=seed)
    machine = Machine.here()
    asked = {"schema": SCHEMA, "seed": seed, "evaluations": evaluations, "machine": asdict(machine)}
    leave_result(
        output,
        "matformer",
        asked | {"scales": [result.to_json() for result in results]},
        heading="One nested training beside four plain ones",
        text="A universal model and a plain model of each granularity's width, trained on the same batches for the "
        "same steps. Lines join the granularities; a Mix'n'Match submodel on or under the line costs nothing.",
        sections=[result.section() for result in results],
        machine=machine,
        summary={result.scale.name: result.summary() for result in results},
    )


if __name__ == "__main__":
    run_benchmark(nested_training)
