"""`python -m benchmarks.training_step`: what a training step costs, beside those of plain models."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from lts_ray.cli.options import Seed


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
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=2, help="Steps of each, taken in turns.")] = 15,
    seed: Seed = 0,
) -> None:
    """Training step: the joint and sampled objectives' time over that of four plain models of the granularities' sizes.

    Below 1, training one universal model takes less time than training the four models that it replaces.
    """
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.training_step import run
    from lts_ray.console import print_rows
    from lts_ray.training.freed_memory import keep_freed_memory
    from lts_ray.training.run_settings import ModelSettings, TrainingSettings

    keep_freed_memory()
    model = ModelSettings(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        d_ff=d_ff,
        context_length=sequence_length,
    )
    options = replace(
        TrainingSettings(batch_size=batch_size, sequence_length=sequence_length, seed=seed),
        probabilities=probabilities,
        device=device,  # type: ignore[arg-type]  # checked by the settings, as a file's would be
        precision=precision,  # type: ignore[arg-type]
    )
    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("rounds", total=None)
        times = run(
            model,
            options,
            rounds=rounds,
            threads=threads,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    found = times.to_json()
    together_ms, together_flops = found["plain_together_ms"], sum(times.flops[name] for name in times.plain)
    rows: list[dict[str, Any]] = [
        {
            "step": name,
            "median, ms": times.median_ms(name),
            "of the plain ones together": times.median_ms(name) / together_ms,
            "Gflops": times.flops[name] / 1e9,
            "of their flops": times.flops[name] / together_flops,
        }
        for name in times.times_ms
    ]
    print_rows(
        rows, as_json=False, title=f"{found['device']}, {found['precision']}, {threads} threads, {rounds} rounds"
    )
    for name, (low, middle, high) in ((each, times.ratio(each)) for each in times.joint):
        print(f"{name}: {middle:.3f} of the plain steps together (rounds: {low:.3f} to {high:.3f})")
    print(json.dumps(found))
