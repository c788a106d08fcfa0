"""`lts-ray bench`: what the package claims of itself, measured here. Each prints a line of JSON last."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import Model, Seed
from lts_ray.cli.search import AlgorithmName
from lts_ray.pretrained import DEFAULT_MODEL

app = typer.Typer(
    help="Measure what this package claims of itself. Leave the machine alone meanwhile.", no_args_is_help=True
)

Space = Annotated[str, typer.Option("--space", "-s", help="gpt2, transformer-xl or opt")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]


@app.command()
def search(
    algorithm: Annotated[AlgorithmName, typer.Option("--algorithm", "-a", help="What chooses.")] = AlgorithmName.lts,
    evaluations: Annotated[int, typer.Option("--evaluations", "-n", min=1, help="Candidates to measure.")] = 100,
    measurement_ms: Annotated[float, typer.Option(min=1, help="How long one measurement takes.")] = 200.0,
) -> None:
    """Orchestration: how much longer a search on two simulated nodes takes than its measurements, which only wait."""
    from benchmarks.orchestration import run

    result = run(algorithm=algorithm.value, evaluations=evaluations, measurement_ms=measurement_ms)
    print(f"{result.evaluations} measurements on each of two nodes: {result.busy_seconds:.2f} s")
    print(f"the search, from first to last:            {result.seconds:.2f} s, {100 * result.overhead:.1f} % more")
    print(json.dumps(result.to_json()))


@app.command()
def cost_model(
    space: Space = "gpt2",
    threads: Threads = 1,
    layers: Annotated[int, typer.Option(min=12, help="Layer configurations to measure and fit to.")] = 60,
    candidates: Annotated[int, typer.Option(min=1, help="Unseen candidates to predict and measure.")] = 50,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for every row, as JSON.")] = None,
) -> None:
    """Cost model: how far its predictions are from what unseen architectures take."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.cost_model import run
    from lts_ray.console import print_rows
    from lts_ray.files import write_json
    from lts_ray.proxies.architecture_cost import COST_NAMES
    from lts_ray.target import Target

    target = Target(name="here", local=True, threads=threads)
    with Progress(console=Console(stderr=True), transient=True) as shown:
        tasks = {stage: shown.add_task(stage, total=None) for stage in ("layers", "candidates")}
        result = run(
            space,
            target=target,
            layers=layers,
            candidates=candidates,
            seed=seed,
            progress=lambda stage, done, total: shown.update(tasks[stage], completed=done, total=total),
        )
    found = result.to_json()
    rows = [
        {"cost": name, **{f"{kind} error, %": 100 * found["relative_error"][name][kind] for kind in ("mean", "median")},
         "largest, %": 100 * found["relative_error"][name]["largest"]}
        for name in COST_NAMES
    ]  # fmt: skip
    print_rows(rows, as_json=False, title=f"{space}: {layers} layer configurations, {candidates} unseen candidates")
    if output is not None:
        write_json(output, found)
    print(json.dumps({key: value for key, value in found.items() if key not in ("rows", "model")}))


@app.command()
def measure(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", help="Which; default: S and XL.")] = None,
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(min=2, help="Measurements of each.")] = 5,
) -> None:
    """Repeatability: how far repeated measurements of one submodel are apart, corrected and as the clock gave them."""
    from rich.progress import track

    from benchmarks.repeatability import repeatability
    from lts_ray.console import print_rows
    from lts_ray.measurement.reference import Reference
    from lts_ray.measurement.subjects.subject import UniversalSubjects, prepare
    from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
    from lts_ray.target import Target

    target = Target(name="here", local=True, threads=threads)
    universal = load_checkpoint(model).model
    subjects = UniversalSubjects(prepare(universal, target))
    reference = Reference.of(subjects.reference, target)
    rows = [
        {
            "submodel": name,
            "regime": regime,
            "median_ms": spread.median_ms,
            "range_percent": 100 * spread.relative_range,
            "uncorrected_range_percent": 100 * spread.uncorrected_range,
            "interval_percent": 100 * spread.interval_width,
            "slowdown": spread.slowdown,
        }
        for name in track(submodel or ["S", "XL"], "measuring", transient=True)
        for regime, spread in repeatability(
            subjects.subject(universal.config.submodel(name)), reference, repeats
        ).items()
    ]
    print_rows(rows, as_json=False, title=f"{repeats} measurements of each, {threads} of {os.cpu_count()} threads")
    print(json.dumps(rows))
