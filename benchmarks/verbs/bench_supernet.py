"""`python -m benchmarks.supernet`: architectures trained fused, beside each of them alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lts_ray.cli.options import Output, Seed

if TYPE_CHECKING:
    from benchmarks.supernet import Result


def supernet(
    output: Output,
    found: Annotated[
        Path | None,
        typer.Option("--from", help="architectures.json of a search; default: three small points of the space gpt2."),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option("--point", help="Which of --from's; default: the first, middle and last.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of every training.")] = 500,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = 8,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 256,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds in which training steps are timed.")] = 15,
    corpus: Annotated[str, typer.Option(help="What to train on.")] = "sotu",
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
) -> None:
    """Supernet: the loss of architectures trained fused beside each trained alone, and the time that both take.

    Run again, it goes on where it stopped; finished trainings are kept. The default takes a quarter of an hour on two
    cores.
    """
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.supernet import run
    from benchmarks.supernet_plan import plan_of
    from lts_ray.errors import LtsRayError
    from lts_ray.files import write_json
    from lts_ray.training.freed_memory import keep_freed_memory

    if point and found is None:
        raise LtsRayError("--point says which of --from's architectures to fuse: give both")
    keep_freed_memory()
    plan = plan_of(
        found,
        point or (),
        steps=steps,
        corpus=corpus,
        batch_size=batch_size,
        sequence_length=sequence_length,
        seed=seed,
        threads=threads,
    )
    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("timing steps", total=None, visible=False)
        result = run(
            plan,
            output,
            rounds=rounds,
            say=print,
            progress=lambda done, total: shown.update(task, completed=done, total=total, visible=True),
        )
    _print_tables(result)
    write_json(output / "supernet.json", result.to_json())
    print(f"The results are in {output / 'supernet.json'}")
    print(json.dumps(result.summary()))


def _print_tables(result: Result) -> None:
    from benchmarks.supernet_plan import OBJECTIVES
    from lts_ray.console import print_rows

    training, times = result.plan.training, result.times
    rows: list[dict[str, Any]] = []
    for each in result.members:
        row: dict[str, Any] = {"member": each.name, "decoder params": each.decoder_params, "loss alone": each.alone}
        for name in OBJECTIVES:
            row |= {f"fused, {name}": each.fused[name], f"{name}, %": 100 * each.relative_difference(name)}
        rows.append(row)
    batch = f"{training.batch_size} × {training.sequence_length} tokens"
    print_rows(rows, as_json=False, title=f"held-out loss after {training.steps} steps of {batch}")
    rows = [
        {
            "training": each.kind,
            "step, ms": each.step_ms,
            "all steps, s": each.seconds,
            "M tokens through members": each.tokens / 1e6,
            "of apart": each.of_apart[1],
            "rounds": f"{each.of_apart[0]:.3f}–{each.of_apart[2]:.3f}",
            "of the slowest alone": each.of_largest[1],
        }
        for each in result.costs
    ]
    print_rows(
        rows,
        as_json=False,
        title=f"time; steps of each kind taken in turns, {times.threads} threads, {times.precision}",
    )
    apart = sum(each.params for each in result.members)
    print(f"the supernet has {result.fused_params:,} parameters, its members together {apart:,}")
