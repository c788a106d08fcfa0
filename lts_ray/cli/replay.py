"""`lts-ray replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lts_ray.cli.options import listed

Algorithm = Literal["lts", "steady", "surrogate", "nsga2", "nsga3", "tpe", "random"]


def replay(
    table: Annotated[Path, typer.Option("--table", "-t", help="CSV file: designs and what was measured of them.")],
    objectives: Annotated[str, typer.Option(help="Columns to minimise, separated by commas.")],
    algorithm: Annotated[Algorithm, typer.Option(help="What chooses the next candidate.")] = "surrogate",
    evaluations: Annotated[int, typer.Option("--evaluations", "-n", min=1, help="Rows to look at.")] = 400,
    seeds: Annotated[int, typer.Option(min=1, max=100_000, help="Searches: with seed 0, 1, …")] = 5,
    columns: Annotated[
        str | None, typer.Option(help="Columns that describe a design; default: all that look like a choice.")
    ] = None,
) -> None:
    """Search a table of published measurements instead of hardware.

    A JSON line per seed says which share of the table's hypervolume was found after how many rows.
    """
    from lts_ray.console import error_console, progress_bars
    from lts_ray.files import json_text, without_infinities
    from lts_ray.replay.design_table import read_designs
    from lts_ray.replay.table_replay import replay as run

    designs = read_designs(table, objectives=listed(objectives), columns=None if columns is None else listed(columns))
    shape = f"{len(designs.designs)} designs of {', '.join(designs.columns)}"
    error_console().print(f"[dim]{shape}[/dim]", highlight=False)
    with progress_bars() as show:
        for seed in range(seeds):
            result = run(
                designs,
                algorithm=algorithm,
                evaluations=evaluations,
                seed=seed,
                show=lambda count, seed=seed: show(f"{algorithm}, seed {seed}", count, evaluations),  # type: ignore[misc]
            )
            print(json_text(without_infinities(result.to_json())), flush=True)
