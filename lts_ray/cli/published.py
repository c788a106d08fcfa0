"""Verbs about published results: params, proxies, replay."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import Json, Seed


class ReplayAlgorithm(StrEnum):
    lts = "lts"
    steady = "steady"
    surrogate = "surrogate"
    nsga2 = "nsga2"
    nsga3 = "nsga3"
    tpe = "tpe"
    random = "random"


def params(
    space: Annotated[str, typer.Option(help="gpt2, transformer-xl, opt, bert or t5")],
    rows: Annotated[Path, typer.Option("--input", "-i", help="JSON Lines, an architecture a line; - reads stdin.")],
) -> None:
    """Add decoder_params, LTS's training-free stand-in for quality, to every row; total_params too where it lacks.

    Of models with an encoder there are encoder_params, and the sum of both stands for quality.
    """
    from lts_ray.errors import LtsRayError
    from lts_ray.spaces.counting import counted
    from lts_ray.spaces.named_spaces import backbone_space

    chosen = backbone_space(space)
    if str(rows) == "-":
        lines = sys.stdin.read().splitlines()
    else:
        try:
            lines = rows.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LtsRayError(f"rows {rows} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            print(json.dumps(counted(line, chosen, where=f"{rows}, line {number}")))


def replay(
    table: Annotated[Path, typer.Option("--table", "-t", help="CSV file: designs and what was measured of them.")],
    objectives: Annotated[str, typer.Option(help="Columns to minimise, separated by commas.")],
    algorithm: Annotated[
        ReplayAlgorithm, typer.Option(help="What chooses the next candidate.")
    ] = ReplayAlgorithm.surrogate,
    evaluations: Annotated[int, typer.Option("--evaluations", "-n", min=1, help="Rows to look at.")] = 400,
    seeds: Annotated[int, typer.Option(min=1, help="Searches: with seed 0, 1, …")] = 5,
    columns: Annotated[
        str | None, typer.Option(help="Columns that describe a design; default: all that look like a choice.")
    ] = None,
) -> None:
    """Search a table instead of hardware; a JSON line per seed says which share of its hypervolume was found when."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lts_ray.replay.design_table import read_table
    from lts_ray.replay.table_replay import replay as run

    read = read_table(table, objectives=_names(objectives), columns=None if columns is None else _names(columns))
    shape = f"{len(read.designs)} designs of {', '.join(read.columns)}"
    bar = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(True))
    with Progress(*bar, console=Console(stderr=True)) as progress:
        progress.console.print(f"[dim]{shape}[/dim]", highlight=False)
        for seed in range(seeds):
            task = progress.add_task(f"{algorithm.value}, seed {seed}", total=evaluations)
            result = run(
                read,
                algorithm=algorithm.value,
                evaluations=evaluations,
                seed=seed,
                show=lambda count, task=task: progress.update(task, completed=count),  # type: ignore[misc]
            )
            print(json.dumps(result.to_json()), flush=True)


def proxies(
    space: Annotated[str, typer.Option(help="gpt2, transformer-xl, opt, bert or t5")],
    rows: Annotated[Path, typer.Option("--input", "-i", help="JSON Lines: trained architectures, one a line.")],
    names: Annotated[
        str, typer.Option("--proxies", help="Separated by commas; all that exist: docs/proxies.md.")
    ] = "decoder_params,total_params,few_shot",
    truth: Annotated[str, typer.Option(help="Column with what training led to; lower is better.")] = "valid_perplexity",
    latency: Annotated[str | None, typer.Option(help="Column with a latency, for d_avg between fronts.")] = None,
    few_shot_rows: Annotated[int, typer.Option(min=4, help="Rows that few_shot is fitted on.")] = 50,
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(help="Rows that live proxies are computed for; default: all.")] = None,
    vocab_size: Annotated[int, typer.Option(min=2, help="Of the models that live proxies build.")] = 1_000,
    batch_size: Annotated[int, typer.Option(min=2, help="Random sequences that live proxies see.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens of each.")] = 32,
    as_json: Json = False,
) -> None:
    """How well quality estimates order trained architectures: Spearman, common ratio of the best, d_avg, FLOPs."""
    import numpy as np
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from lts_ray.architecture import Architecture
    from lts_ray.console import print_rows
    from lts_ray.models.backbones.backbone import Backbone
    from lts_ray.models.backbones.backbone_config import backbone_of
    from lts_ray.proxies.proxy_table import Live, compare, read_table
    from lts_ray.proxies.zero_cost import random_tokens
    from lts_ray.spaces.named_spaces import backbone_space

    chosen = backbone_space(space)
    generator = torch.Generator().manual_seed(seed)

    def build(architecture: Architecture) -> Backbone:
        model = backbone_of(chosen.backbone, architecture, vocab_size, length)
        model.initialize(torch.Generator().manual_seed(seed))
        return model

    tokens = random_tokens(vocab_size, rows=batch_size, length=length, generator=generator)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks = {name: progress.add_task(name, visible=False) for name in _names(names)}
        found = compare(
            read_table(rows, truth=truth, latency=latency),
            _names(names),
            space=chosen,
            rng=np.random.default_rng(seed),
            few_shot_rows=few_shot_rows,
            live=Live(build=build, tokens=tokens, limit=limit),
            progress=lambda name, done, total: progress.update(tasks[name], completed=done, total=total, visible=True),
        )
    if as_json:
        print_rows([each.to_json() for each in found], as_json=True)
        return
    print_rows(
        [
            {
                "proxy": each.proxy,
                "rows": each.rows,
                "spearman": each.spearman,
                "within d_model": " ".join(f"{width}: {value:.3f}" for width, value in each.within_d_model.items()),
                "best 10 %": each.common_ratios[10],
                "best 20 %": each.common_ratios[20],
                **({} if each.front_distance is None else {"d_avg": each.front_distance}),
                "flops": f"{each.flops:.2e}" if each.flops else "0",
            }
            for each in found
        ],
        as_json=False,
        title=f"agreement with {truth}; best k %: the share in common",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
