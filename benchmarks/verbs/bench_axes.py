"""`python -m benchmarks.axes`: loss against latency, with heads and with d_model nested beside the FFN."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from lts_ray.cli.options import Output, Seed


def axes(
    output: Output,
    steps: Annotated[
        int, typer.Option(min=1, help="Of the model whose FFN alone nests; the others get the same compute.")
    ] = 600,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds in which steps are timed.")] = 30,
    corpus: Annotated[str, typer.Option(help="What to train on.")] = "sotu",
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
) -> None:
    """More axes: nested heads, and heads and d_model, beside the nested FFN alone, at equal training compute.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes about 15 minutes on two
    cores.
    """
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from benchmarks.axes import run
    from benchmarks.axes_html import NAMES, write_axes_page
    from benchmarks.axes_plan import FFN, AxesPlan
    from lts_ray.console import print_rows
    from lts_ray.files import write_json
    from lts_ray.training.freed_memory import keep_freed_memory

    keep_freed_memory()
    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True), transient=True) as shown:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total)
            shown.update(tasks[stage], completed=done, total=total)

        plan = AxesPlan(steps=steps, seed=seed, threads=threads, corpus=corpus)
        result = run(plan, output, rounds=rounds, say=print, progress=progress)
    print_rows(
        [
            {
                "what nests": NAMES[model],
                "steps": result.steps[model],
                "granularity": each.name,
                "non-embedding params": each.decoder_params,
                "loss": each.loss,
                "prefill, ms": each.latency_ms["prefill"],
                "decode, ms": each.latency_ms["decode"],
            }
            for model in result.steps
            for each in result.of(model)
            if each.name
        ],
        as_json=False,
        title="granularities, all with one training compute",
    )
    for regime in ("prefill", "decode"):
        rows = []
        for point in sorted(result.of(FFN), key=lambda each: each.latency_ms[regime]):
            row: dict[str, object] = {f"{regime}, ms": point.latency_ms[regime]}
            for model in result.steps:
                best = result.best_within(model, regime, point.latency_ms[regime])
                row[NAMES[model]] = None if best is None else best.loss
            rows.append(row)
        print_rows(rows, as_json=False, title=f"the least loss within a {regime} time, Mix'n'Match included")
    write_json(output / "axes.json", result.to_json())
    write_axes_page(result, output / "axes.html")
    print(f"The results are in {output / 'axes.json'}; the plot is {output / 'axes.html'}")
    print(json.dumps(result.summary()))
