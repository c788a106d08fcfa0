"""`python -m benchmarks.policies | soak | endpoint`: the endpoint under load."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lts_ray.cli.options import Model, Output, Seed
from lts_ray.pretrained import DEFAULT_MODEL

if TYPE_CHECKING:
    from benchmarks.load.local_model import LocalModel
    from lts_ray.runtime.step_costs import StepCosts

CONTEXT = 512

Frontier = Annotated[Path | None, typer.Option(help="frontier.json of that model; default: its granularities.")]
TargetName = Annotated[str | None, typer.Option("--target", help="The frontier's target; default: all its points.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the engine; default: all cores but one.")]
Context = Annotated[int, typer.Option(min=8, help="The most tokens of a request, prompt and response together.")]
Slots = Annotated[int, typer.Option(min=1, help="Requests that run at once.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Requests that wait beyond them; more are rejected.")]
ChunkTokens = Annotated[int, typer.Option(min=2, help="The most tokens of a step.")]
Calibration = Annotated[float, typer.Option(min=0.1, help="Seconds to measure the engine's steps for.")]
Costs = Annotated[
    Path | None, typer.Option(help="setup.json of an earlier run whose step costs to take; default: measure them.")
]
Url = Annotated[str | None, typer.Option(help="A server of the same model; default: an engine in this process.")]


class On(StrEnum):
    engine = "engine"
    simulated = "simulated"
    both = "both"


def policies(
    model: Model = DEFAULT_MODEL,
    output: Output = Path("runs/policies"),
    on: Annotated[On, typer.Option(help="The engine, in real time; simulated steps; or both.")] = On.engine,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="deadline, slackfit, idle-feasible, smallest, oracle, or fixed- with universal, narrowest or a "
            "submodel: a server that has only this one; default: all but the last kind.",
        ),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option("--trace", "-t", help="poisson, gamma-2, gamma-4, gamma-8, ramp, azure-day; default: all."),
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option(
            "--load", "-l", help="In multiples of the universal model's saturation; default: 0.5, 0.75, 1, … 2."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load.")] = 30.0,
    seeds: Annotated[int, typer.Option(min=1, help="Loads of each kind; intervals are over them.")] = 3,
    tight: Annotated[float, typer.Option(help="Budgets of this class, over what an idle engine needs.")] = 2.0,
    medium: Annotated[float, typer.Option(help="The same.")] = 4.0,
    loose: Annotated[float, typer.Option(help="The same.")] = 8.0,
    noise: Annotated[float, typer.Option(min=0, help="Of simulated steps' times: the logarithm's deviation.")] = 0.05,
    rollouts: Annotated[int, typer.Option(min=1, help="Simulated replays that the oracle has for each load.")] = 40,
    frontier: Frontier = None,
    target: TargetName = None,
    context: Context = CONTEXT,
    slots: Slots = 8,
    max_queue: MaxQueue = 64,
    chunk_tokens: ChunkTokens = 256,
    threads: Threads = None,
    calibration: Calibration = 5.0,
    costs: Costs = None,
    seed: Seed = 0,
) -> None:
    """Policies under open-loop load: budgets kept, and at which quality. Run again, it goes on where it stopped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from benchmarks.load.budget_classes import BudgetClasses
    from benchmarks.load.contestants import DEFAULT
    from benchmarks.load.traces import TRACES
    from benchmarks.policies_bench import run
    from benchmarks.policies_html import describe, write_policies_page
    from benchmarks.policies_settings import LOADS, MODES, Settings
    from benchmarks.policies_summary import rows_of
    from benchmarks.policies_table import table_row
    from benchmarks.verdicts import verdicts_of
    from lts_ray.console import print_rows
    from lts_ray.files import write_json

    settings = Settings(
        modes=tuple(mode for mode in MODES if on is On.both or mode == on.value),
        traces=tuple(trace or TRACES),
        loads=tuple(load or LOADS),
        policies=tuple(policy or DEFAULT),
        seeds=seeds,
        seed=seed,
        seconds=seconds,
        classes=BudgetClasses(tight=tight, medium=medium, loose=loose),
        noise=noise,
        rollouts=rollouts,
    )
    local = _local(model, frontier, target, context, slots, max_queue, chunk_tokens, threads)
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("measuring steps", total=None)
        result = run(
            settings,
            local,
            output,
            costs=_read_costs(costs),
            calibration_s=calibration,
            progress=lambda done, total, cell: shown.update(
                task,
                completed=done,
                total=total,
                description="done" if cell is None else f"{cell.mode} {cell.load:g}× {cell.trace} {cell.policy}",
            ),
        )
    rows, by_trace = rows_of(result.cells), rows_of(result.cells, by_trace=True)
    verdicts = verdicts_of(rows)
    print(describe(result.setup))
    for mode, at in dict.fromkeys((row.mode, row.load) for row in rows):
        shown_rows = [table_row(row) for row in rows if (row.mode, row.load) == (mode, at)]
        print_rows(shown_rows, as_json=False, title=f"{mode}, {at:g}× the universal model's saturation")
    print("\n".join(verdict.line for verdict in verdicts))
    found = {
        **result.setup.to_json(),
        "rows": [row.to_json() for row in rows],
        "verdicts": [verdict.to_json() for verdict in verdicts],
    }
    write_json(output / "policies.json", found | {"rows_by_trace": [row.to_json() for row in by_trace]})
    write_policies_page(output / "report.html", setup=result.setup, rows=rows, verdicts=verdicts)
    print(f"{output / 'report.html'} and {output / 'policies.json'} have it all")
    print(json.dumps(found))


def soak(
    minutes: Annotated[float, typer.Option("--minutes", "-n", min=0.01, help="How long.")] = 30.0,
    load: Annotated[float, typer.Option(min=0.01, help="Over the universal model's saturation.")] = 0.8,
    policy: Annotated[str, typer.Option(help="By its name in the server's configuration.")] = "deadline",
    model: Model = DEFAULT_MODEL,
    url: Url = None,
    pid: Annotated[int | None, typer.Option(help="With --url: the process whose memory is watched.")] = None,
    frontier: Frontier = None,
    target: TargetName = None,
    context: Context = CONTEXT,
    slots: Slots = 8,
    max_queue: MaxQueue = 64,
    chunk_tokens: ChunkTokens = 256,
    threads: Threads = None,
    calibration: Calibration = 5.0,
    costs: Costs = None,
    seed: Seed = 0,
) -> None:
    """A steady load for a long time: whether memory stays flat, and nothing fails."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.soak import soak as run

    local = _local(model, frontier, target, context, slots, max_queue, chunk_tokens, threads)
    known = _read_costs(costs) or local.calibrate(calibration)
    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("soaking", total=None)
        result = run(
            local,
            costs=known,
            seconds=60 * minutes,
            load=load,
            policy=policy,
            url=url,
            pid=pid,
            seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    print("\n".join(result.lines))
    print(json.dumps(result.to_json()))


def endpoint(
    url: Annotated[str, typer.Option(help="A server of the same model and settings on this node.")],
    model: Model = DEFAULT_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Of each; they take turns.")] = 5,
    singles: Annotated[int, typer.Option(min=1, help="Requests of a round for the time to the first token.")] = 10,
    streams: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of each request.")] = 32,
    tokens: Annotated[int, typer.Option(min=2, help="Of each stream.")] = 64,
    slots: Slots = 8,
    chunk_tokens: ChunkTokens = 256,
    threads: Threads = None,
    calibration: Calibration = 5.0,
    costs: Costs = None,
    seed: Seed = 0,
) -> None:
    """What HTTP and Ray Serve add to the engine's time to the first token, and take of its tokens per second."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.endpoint_bench import measure_endpoint

    local = _local(model, None, None, CONTEXT, slots, max(64, streams), chunk_tokens, threads)
    known = _read_costs(costs) or local.calibrate(calibration)
    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("asking", total=None)
        result = measure_endpoint(
            url,
            local,
            costs=known,
            rounds=rounds,
            singles=singles,
            streams=streams,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    print("\n".join(result.lines))
    print(json.dumps(result.to_json()))


def _local(
    model: Path,
    frontier: Path | None,
    target: str | None,
    context: int,
    slots: int,
    max_queue: int,
    chunk_tokens: int,
    threads: int | None,
) -> LocalModel:
    from benchmarks.load.local_model import LocalModel, default_threads
    from serve.engine.capacity import Capacity

    capacity = Capacity(context_length=context, slots=slots, max_queue=max_queue, chunk_tokens=chunk_tokens)
    return LocalModel(model, capacity=capacity, threads=threads or default_threads(), frontier=frontier, target=target)


def _read_costs(setup: Path | None) -> StepCosts | None:
    from benchmarks.policies_folder import read_setup

    return None if setup is None else read_setup(setup).costs
