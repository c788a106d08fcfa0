"""`python -m benchmarks.scaling`: how the loss falls with size, of one nested training beside four plain ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lts_ray.cli.options import Output, Seed

if TYPE_CHECKING:
    from benchmarks.scaling import Result


def scaling(
    output: Output,
    sizes: Annotated[
        str | None, typer.Option(help="Four or more d_model, multiples of 16. Default: 32,48,64,80.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of the largest size; smaller ones get as many tokens a parameter. Default: 4900."),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Fit these finished runs, or all in these folders, and train nothing. May be repeated."),
    ] = None,
    corpus: Annotated[str, typer.Option(help="What to train on.")] = "sotu",
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
) -> None:
    """Scaling laws: loss = a · N^b + c for each granularity, of one universal model and of plain models trained alone.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes 22 minutes on one core.
    """
    from benchmarks.scaling import fit_points, run
    from benchmarks.scaling_html import write_scaling_page
    from benchmarks.scaling_points import read_points
    from benchmarks.scaling_sizes import SIZES, STEPS, scales_of
    from lts_ray.errors import LtsRayError
    from lts_ray.files import write_json
    from lts_ray.training.freed_memory import keep_freed_memory
    from lts_ray.training.run_folder import check_output

    if runs:
        if sizes is not None or steps is not None:
            raise LtsRayError("--runs fits what is trained already: leave --sizes and --steps out")
        check_output(output)
        result = fit_points(read_points(runs))
    else:
        keep_freed_memory()
        wanted = SIZES if sizes is None else _sizes(sizes)
        scales = scales_of(wanted, steps=STEPS if steps is None else steps, corpus=corpus, seed=seed, threads=threads)
        result = run(scales, output, say=print)
    _print_tables(result)
    write_json(output / "scaling.json", result.to_json())
    write_scaling_page(result, output / "scaling.html")
    print(f"The results are in {output / 'scaling.json'}; the plot is {output / 'scaling.html'}")
    print(json.dumps(result.summary()))


def _sizes(text: str) -> list[int]:
    from lts_ray.errors import LtsRayError

    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise LtsRayError(f"--sizes are whole numbers with commas between them, as 32,48,64,80; got {text!r}") from None


def _print_tables(result: Result) -> None:
    from lts_ray.console import print_rows

    rows: list[dict[str, Any]] = []
    for each in result.fits:
        low_b, high_b = each.fit.spread(lambda law: law.b)
        low_c, high_c = each.fit.spread(lambda law: law.c)
        law = each.fit.law
        rows.append(
            {
                "models": each.name,
                "a": law.a,
                "b": law.b,
                "c": law.c,
                "b, a size left out": f"{low_b:.3f} to {high_b:.3f}",
                "c, a size left out": f"{low_c:.3f} to {high_c:.3f}",
                "rms, 1e-3 nats": 1e3 * each.fit.rms,
                "points": each.fit.points,
            }
        )
    print_rows(rows, as_json=False, title="loss = a · N^b + c; N: parameters without embeddings")
    if result.gaps:
        sizes = sorted({each.d_model for each in result.gaps})
        gaps = {(each.granularity, each.d_model): 1e3 * each.nats for each in result.gaps}
        rows = [
            {"granularity": name} | {f"d_model {size}": gaps.get((name, size)) for size in sizes}
            for name in dict.fromkeys(each.granularity for each in result.gaps)
        ]
        print_rows(rows, as_json=False, title="Loss of the universal model above the plain one's, 1e-3 nats")
