"""`python -m benchmarks.matformer`: one nested training beside four plain ones."""

from __future__ import annotations

import json
import os
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lts_ray.cli.options import Output, Seed

if TYPE_CHECKING:
    from benchmarks.matformer import ScaleResult


def matformer(
    output: Output,
    scale: Annotated[
        list[str] | None,
        typer.Option(help="small, medium; with a GPU paper-78m, paper-180m. Default: small and medium."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of every training; default: the scale's.")] = None,
    objectives: Annotated[
        bool, typer.Option("--objectives", help="Train by other objectives too: four more trainings a scale.")
    ] = False,
    evaluations: Annotated[
        int, typer.Option(min=1, help="Submodels that a search of Mix'n'Match looks at, at each size.")
    ] = 24,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds in which training steps are timed.")] = 15,
    corpus: Annotated[str, typer.Option(help="What to train on.")] = "sotu",
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, or auto: a GPU where there is one. Default: auto for paper-*, else cpu."),
    ] = None,
) -> None:
    """MatFormer: each granularity beside a plain model of its size, Mix'n'Match between them, and the time it takes.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes about an hour on two cores.
    """
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from benchmarks.matformer import run
    from benchmarks.matformer_html import write_matformer_page
    from benchmarks.matformer_scales import DEFAULT_SCALES, scale_named
    from lts_ray.files import write_json
    from lts_ray.training.freed_memory import keep_freed_memory

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
    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True), transient=True) as shown:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total)
            shown.update(tasks[stage], completed=done, total=total)

        result = run(
            scales,
            output,
            objectives=objectives,
            evaluations=evaluations,
            rounds=rounds,
            seed=seed,
            say=print,
            progress=progress,
        )
    for each in result.scales:
        _print_tables(each)
    write_json(output / "matformer.json", result.to_json())
    write_matformer_page(result, output / "matformer.html")
    print(f"The results are in {output / 'matformer.json'}; the plot is {output / 'matformer.html'}")
    print(json.dumps(result.summary()))


def _print_tables(each: ScaleResult) -> None:
    from lts_ray.console import print_rows

    name, quality, times = each.scale.name, each.quality, each.times
    rows: list[dict[str, Any]] = [
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
    print_rows(rows, as_json=False, title=f"{name}: granularities, and plain models trained alone")
    rows = [
        {
            "least slope": point.submodel.to_json(),
            "non-embedding params": point.decoder_params,
            "loss": point.loss,
            "above the line, 1e-3 nats": 1e3 * quality.above_line(point),
            "agrees with XL, %": 100 * point.agreement,
        }
        for point in quality.between
    ]
    print_rows(rows, as_json=False, title=f"{name}: Mix'n'Match, and the line through the granularities")
    rows = [
        {
            "non-embedding params": size.decoder_params,
            "mixes": size.count,
            "least slope": 1e3 * quality.above_line(size.least_slope),
            "searched": 1e3 * quality.above_line(size.searched),
            "best at random": 1e3 * quality.above_line(size.random_best),
            "at random, mean": 1e3 * fmean(quality.above_line(each) for each in size.drawn),
        }
        for size in quality.equal_sizes
    ]
    print_rows(rows, as_json=False, title=f"{name}: Mix'n'Match choices of one size, 1e-3 nats above the line")
    if each.objectives:
        rows = [
            {"objective": other.name, "steps": other.steps, "compute": other.relative_flops}
            | {key: point.loss for key, point in other.by_granularity.items()}
            | {
                "mean": other.mean_loss,
                "S agrees with XL, %": 100 * next(iter(other.by_granularity.values())).agreement,
            }
            for other in each.objectives
        ]
        print_rows(rows, as_json=False, title=f"{name}: loss by objective; compute over that of the joint one")
    rows = [{"step": step, "median ms": times.median_ms(step)} for step in times.times_ms]
    print_rows(
        rows,
        as_json=False,
        title=f"{name}: training steps in turns, {times.scale.training.device}, {times.scale.training.threads} threads",
    )
    low, middle, high = times.ratio("joint, one mixed pass")
    print(f"one joint step takes {middle:.3f} ({low:.3f} – {high:.3f}) of the four plain steps' time")
