"""Does a universal model scale as plain ones do? One training of four granularities, and four plain ones, at each size.

To each granularity, trained both ways, the law loss = a · N^b + c is fitted over the sizes, and one over all
granularities together (MatFormer, appendix C). As in the paper's table 2, the layers stay, d_model and with it all else
grows, and the steps grow with the parameters while batch, warm-up and the rest stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common.command import ALL_CORES, Threads, TrainingCorpus, run_benchmark
from benchmarks.common.machine import Machine
from benchmarks.common.result_page import Section, Tables, leave_result
from benchmarks.common.scale import Scale, warmed_up
from benchmarks.common.training_runs import train_runs
from benchmarks.laws.scaling_law import LEAST_SIZES, KindFit, fit_kinds
from benchmarks.laws.scaling_plot import scaling_figure
from benchmarks.laws.scaling_points import ScalingPoint, read_points
from lts_ray.cli.options import Output, Seed
from lts_ray.errors import LtsRayError
from lts_ray.training.freed_memory import keep_freed_memory
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

SCHEMA = 1
SIZES = (32, 48, 64, 80)
STEPS = 4_900
HEAD = 16
"""Dimensions of a head, at every size."""
RATE = 0.3
"""Learning rate times d_model: a narrower model takes larger steps."""
TRAINING = TrainingSettings(
    batch_size=2,  # for so few tokens, more steps are better than larger ones
    sequence_length=128,
    precision="float32",  # at these widths no slower than bfloat16
    log_every=50,
    evaluate_every=1_000_000,  # the end of a run is all that is looked at
)


def scales_of(
    sizes: Sequence[int] = SIZES, *, steps: int = STEPS, corpus: str = "sotu", seed: int = 0, threads: int = 1
) -> tuple[Scale, ...]:
    """By growing d_model, each on as many tokens a parameter as the others. steps: of the largest.

    Raises LtsRayError for sizes that no law can be fitted to.
    """
    if len(set(sizes)) < max(LEAST_SIZES, len(sizes)):
        raise LtsRayError(
            f"a scaling law needs at least {LEAST_SIZES} different sizes; got {', '.join(map(str, sizes)) or 'none'}"
        )
    odd = [size for size in sizes if size < HEAD or size % HEAD]
    if odd:
        raise LtsRayError(
            f"a size is a d_model, a multiple of {HEAD}, as its heads are {HEAD} wide; got {', '.join(map(str, odd))}"
        )
    if steps < 1:
        raise LtsRayError(f"a training has at least one step; got {steps}")
    models = [_model(size) for size in sorted(sizes)]
    params = [model.config(model.vocab_size).decoder_params() for model in models]
    scales = []
    for model, size in zip(models, params, strict=True):
        rate = RATE / model.d_model
        training = replace(TRAINING, learning_rate=rate, final_learning_rate=rate / 40, seed=seed, threads=threads)
        training = warmed_up(training, max(1, round(steps * size / params[-1])))
        scales.append(Scale(name=f"d{model.d_model}", model=model, training=training, corpus=corpus))
    return tuple(scales)


def _model(d_model: int) -> ModelSettings:
    """Four layers; three matrices of 8/3 · d_model neurons: as many parameters as the paper's two of 4 · d_model."""
    return ModelSettings(
        vocab_size=1024,
        d_model=d_model,
        n_head=d_model // HEAD,
        n_kv_head=d_model // HEAD,
        n_layer=4,
        d_ff=8 * round(8 / 3 * d_model / 8),
        context_length=TRAINING.sequence_length,
    )


@dataclass(frozen=True, kw_only=True)
class ScalingResult:
    points: tuple[ScalingPoint, ...]
    fits: tuple[KindFit, ...]
    machine: Machine | None = None
    """That the runs were trained on; None where they were there already."""

    @property
    def gaps(self) -> dict[str, dict[int, float]]:
        """By granularity and d_model: what the universal model's loss is above the plain one's of as many parameters.

        In nats, where both kinds were trained; of several runs, the last is taken.
        """
        alone = {(point.granularity, point.params): point.loss for point in self.points if point.kind == "baseline"}
        gaps: dict[str, dict[int, float]] = {}
        for point in self.points:
            other = alone.get((point.granularity, point.params))
            if point.kind == "universal" and other is not None:
                gaps.setdefault(point.granularity, {})[point.d_model] = point.loss - other
        return gaps

    def to_json(self) -> dict[str, Any]:
        fits = [{"kind": fitted.kind, "granularity": fitted.granularity, **asdict(fitted.fit)} for fitted in self.fits]
        return {"schema": SCHEMA, **asdict(replace(self, fits=())), "fits": fits, "gaps": self.gaps}

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line."""
        return {
            fitted.name: {name: round(value, 4) for name, value in asdict(fitted.fit.law).items()}
            | {"rms": round(fitted.fit.rms, 4)}
            for fitted in self.fits
        }

    def tables(self) -> Tables:
        laws = []
        for fitted in self.fits:
            fit, law = fitted.fit, fitted.fit.law
            row = {"models": fitted.name, "a": law.a, "b": law.b, "c": law.c}
            for name, (low, high) in {"b": fit.spread(lambda law: law.b), "c": fit.spread(lambda law: law.c)}.items():
                row[f"{name}, a size left out"] = f"{low:.3f} to {high:.3f}"
            laws.append(row | {"rms, 1e-3 nats": 1e3 * fit.rms, "points": fit.points})
        sizes = sorted({size for by_size in self.gaps.values() for size in by_size})
        gaps = [
            {"granularity": name}
            | {f"d_model {size}": 1e3 * by_size[size] if size in by_size else None for size in sizes}
            for name, by_size in self.gaps.items()
        ]
        tables: dict[str, list[dict[str, Any]]] = {
            "loss = a · N^b + c; N: parameters without embeddings": laws,
            "Loss of the universal model above the plain one's, 1e-3 nats": gaps,
            "The trainings": [asdict(point) for point in self.points],
        }
        return {title: rows for title, rows in tables.items() if rows}


def fit_points(points: Sequence[ScalingPoint]) -> ScalingResult:
    """Raises LtsRayError where a granularity of a kind has fewer than four sizes."""
    return ScalingResult(points=tuple(points), fits=fit_kinds(points))


def train_and_fit(scales: Sequence[Scale], folder: Path) -> ScalingResult:
    """Train what is not trained yet under folder/SCALE, then fit; killed, the same call goes on. Raises LtsRayError."""
    folders = [run for scale in scales for run in train_runs(scale.runs, folder / scale.name).values()]
    return replace(fit_points(read_points([run.path for run in folders])), machine=Machine.here())


def scaling(
    output: Output,
    sizes: Annotated[str | None, typer.Option(help="Four or more multiples of 16. Default: 32,48,64,80.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of the largest size; smaller ones get as many tokens a parameter. Default: 4900."),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Fit these finished runs, or all in these folders, and train nothing. May be repeated."),
    ] = None,
    corpus: TrainingCorpus = "sotu",
    seed: Seed = 0,
    threads: Threads = ALL_CORES,
) -> None:
    """Scaling laws: loss = a · N^b + c for each granularity, of one universal model and of plain models trained alone.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes 22 minutes on one core.
    """
    if runs:
        if sizes is not None or steps is not None:
            raise LtsRayError("--runs fits what is trained already: leave --sizes and --steps out")
        result = fit_points(read_points(runs))
    else:
        keep_freed_memory()
        wanted = SIZES if sizes is None else _sizes(sizes)
        scales = scales_of(wanted, steps=STEPS if steps is None else steps, corpus=corpus, seed=seed, threads=threads)
        result = train_and_fit(scales, output)
    leave_result(
        output,
        "scaling",
        result.to_json(),
        heading="How the loss falls with size",
        text="One universal model and a plain model of each granularity's width at each size, and the laws that fit "
        "them best. Three numbers from few points are loosely known: beside b and c is what they are when one of the "
        "sizes is left out. Compare laws by their losses at one N, not by a, b and c.",
        sections=[Section(figure=scaling_figure(result.fits), name="scaling", tables=result.tables())],
        machine=result.machine,
        summary=result.summary(),
    )


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise LtsRayError(f"--sizes are whole numbers with commas between them, as 32,48,64,80; got {text!r}") from None


if __name__ == "__main__":
    run_benchmark(scaling)
