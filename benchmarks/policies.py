"""Policies side by side: each load is made once, and every policy gets it, on the engine, simulated, or both.

The engine runs the real model in real time. A simulation runs the same scheduler over the step costs that were measured
here, with noise: hours of load in minutes, on a machine that others may use meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.result_page import leave_result
from benchmarks.load import load_options as options
from benchmarks.load.contestants import DEFAULT, WIDTHS, check_name, contestant
from benchmarks.load.engine_slowdown import engine_slowdown
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.policies_folder import (
    LOADS,
    MODES,
    Cell,
    CellResult,
    PoliciesFolder,
    PolicySettings,
    PolicySetup,
)
from benchmarks.load.policies_page import describe, policy_sections
from benchmarks.load.policy_rows import rows_of
from lts_ray.cli.options import Model, Output, Seed
from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import STORED
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.runtime.step_costs import StepCosts
from serve.simulate.attainment_score import score
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses
from serve.traffic.load import make_load
from serve.traffic.traces import TRACES, trace_named

DEFAULTS = PolicySettings()
CellProgress = Callable[[int, int, Cell | None], None]
"""Told how many cells are done, of how many, and which one runs now."""


@dataclass(frozen=True, kw_only=True)
class PoliciesResult:
    setup: PolicySetup
    cells: tuple[CellResult, ...]


def compare_policies(
    settings: PolicySettings,
    model: LocalModel,
    output: Path,
    *,
    costs: StepCosts | None = None,
    calibration_s: float = options.CALIBRATION_S,
    progress: CellProgress = lambda done, total, cell: None,
) -> PoliciesResult:
    """Run the cells that `output` does not hold yet. costs: of a step; None: measured here, or those that it holds.

    Raises LtsRayError where `output` holds cells that cannot be compared with these.
    """
    for name in settings.policies:
        check_name(name, model.menu)
    folder = PoliciesFolder(output)
    setup = _set_up(settings, model, folder, costs=costs, calibration_s=calibration_s)
    done = folder.read_cells()
    cells = list(settings.cells())
    finished = sum(cell in done for cell in cells)
    for _, group in groupby(cells, key=lambda cell: replace(cell, policy="")):
        missing = [cell for cell in group if cell not in done]
        if not missing:
            continue
        arrivals = _load_of(missing[0], setup, model)
        for cell in missing:
            progress(finished, len(cells), cell)
            done[cell] = _run_cell(cell, arrivals, setup, model)
            folder.add(done[cell])
            finished += 1
    progress(finished, len(cells), None)
    return PoliciesResult(setup=setup, cells=tuple(done[cell] for cell in cells))


def _load_of(cell: Cell, setup: PolicySetup, model: LocalModel) -> tuple[Arrival, ...]:
    """The same for all policies."""
    slowdown = _slowdown(cell, setup)
    return make_load(
        trace_named(cell.trace),
        rate=cell.load * setup.rate / slowdown,
        seconds=setup.settings.seconds,
        seed=cell.seed,
        need=model.need(setup.costs.scaled(slowdown)),
        context_length=model.capacity.context_length,
        classes=setup.settings.classes,
    )


def _slowdown(cell: Cell, setup: PolicySetup) -> float:
    return 1.0 if cell.mode == "simulated" or setup.slowdown is None else setup.slowdown


def _set_up(
    settings: PolicySettings,
    model: LocalModel,
    folder: PoliciesFolder,
    *,
    costs: StepCosts | None,
    calibration_s: float,
) -> PolicySetup:
    """What the folder has, if it goes with what is asked for, with whatever was not measured then."""
    named = {**model.menu.named, **model.widths.named}
    losses = {name: option.loss for name, option in named.items() if option.loss is not None}
    if unknown := named.keys() - losses.keys():
        raise LtsRayError(
            f"the frontier says nothing of the loss of {', '.join(sorted(unknown))}, which the bench compares"
        )
    old = folder.read_setup()
    if costs is None:
        costs = model.calibrate(calibration_s) if old is None else old.costs
    model.menu = model.menu.priced(costs)
    setup = PolicySetup(
        settings=settings,
        model=model.fingerprint,
        capacity=model.capacity,
        threads=model.threads,
        costs=costs,
        rate=model.saturation(costs),
        losses=losses,
        machine=Machine.here(),
        slowdown=None if old is None else old.slowdown,
    )
    if old is not None:
        if (other := setup.mismatch(old)) or old.costs != costs:
            raise LtsRayError(f"{folder.path} holds a bench with {other or 'other step costs'}; use another --output")
        setup = replace(setup, machine=old.machine)
    if "engine" in settings.modes and setup.slowdown is None:
        setup = replace(setup, slowdown=engine_slowdown(model, costs))
    folder.write_setup(setup)
    return setup


def _run_cell(cell: Cell, arrivals: Sequence[Arrival], setup: PolicySetup, model: LocalModel) -> CellResult:
    slowdown = _slowdown(cell, setup)
    node = replace(model.replica(setup.costs.scaled(slowdown)), noise=setup.settings.noise)
    menu = model.widths if cell.policy.startswith(WIDTHS) else model.menu
    one = contestant(
        cell.policy.removeprefix(WIDTHS),
        menu,
        arrivals=arrivals,
        node=node,
        rollouts=setup.settings.rollouts,
        seed=cell.seed,
    )
    step_error = None
    if cell.mode == "engine":
        outcomes, step_error = one.on_engine(arrivals, model, setup.costs, seed=cell.seed)
    else:
        outcomes = one.simulated(arrivals, node, seed=cell.seed)
    scored = score(
        outcomes,
        losses=setup.losses,
        narrowest=menu.narrowest.name,
        universal=menu.universal.name,
        seconds=setup.settings.seconds,
    )
    return CellResult(cell=cell, score=scored, step_error=step_error)


class On(StrEnum):
    engine = "engine"
    simulated = "simulated"
    both = "both"


def policies(
    model: Model = DEFAULT_MODEL,
    output: Output = Path("runs/policies"),
    on: Annotated[On, typer.Option(help="Run the engine, in real time; simulate its steps; or both.")] = On.engine,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="deadline, slackfit, idle-feasible, smallest, oracle, or fixed- with universal, narrowest or a "
            "submodel: a server that has only this one; widths- before any: of widths alone, where --precisions are "
            "several; default: all but the last two kinds.",
        ),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option("--trace", "-t", help="poisson, gamma-2, gamma-4, gamma-8, ramp, azure-day; default: all."),
    ] = None,
    load: Annotated[
        list[float] | None, typer.Option("--load", "-l", help="In multiples of saturation; default: 0.5, 0.75, 1, … 2.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each load lasts.")] = DEFAULTS.seconds,
    seeds: Annotated[int, typer.Option(min=1, help="Loads of each kind; intervals are over them.")] = DEFAULTS.seeds,
    tight: Annotated[float, typer.Option(help="Of an idle engine's time: tight budgets.")] = DEFAULTS.classes.tight,
    medium: Annotated[float, typer.Option(help="Of an idle engine's time: medium budgets.")] = DEFAULTS.classes.medium,
    loose: Annotated[float, typer.Option(help="Of an idle engine's time: loose budgets.")] = DEFAULTS.classes.loose,
    noise: Annotated[float, typer.Option(min=0, help="Deviation of simulated steps' log times.")] = DEFAULTS.noise,
    rollouts: Annotated[int, typer.Option(min=1, help="Replays that the oracle has a load.")] = DEFAULTS.rollouts,
    precisions: Annotated[
        str,
        typer.Option(help="That the menu offers beside widths, the most precise first; loads are as float32 has them."),
    ] = STORED,
    frontier: options.Frontier = None,
    target: options.TargetName = None,
    context: options.Context = options.CONTEXT,
    slots: options.Slots = LoadCapacity.slots,
    max_queue: options.MaxQueue = LoadCapacity.max_queue,
    chunk_tokens: options.ChunkTokens = LoadCapacity.chunk_tokens,
    threads: options.Threads = None,
    calibration: options.Calibration = options.CALIBRATION_S,
    costs: options.Costs = None,
    seed: Seed = 0,
) -> None:
    """Policies under open-loop load: budgets kept, and at which quality. Run again, it goes on where it stopped."""
    settings = PolicySettings(
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
    capacity = LoadCapacity(context_length=context, slots=slots, max_queue=max_queue, chunk_tokens=chunk_tokens)
    chosen = tuple(names_of(precisions))
    local = LocalModel(model, capacity=capacity, threads=threads, frontier=frontier, target=target, precisions=chosen)
    with shown_progress("loads") as progress:
        result = compare_policies(
            settings,
            local,
            output,
            costs=options.read_costs(costs),
            calibration_s=calibration,
            progress=lambda done, total, cell: progress(done, total),
        )
    rows, by_trace = rows_of(result.cells), rows_of(result.cells, by_trace=True)
    record = {**result.setup.to_json(), "rows": [asdict(row) for row in rows]}
    leave_result(
        output,
        "policies",
        record | {"rows_by_trace": [asdict(row) for row in by_trace]},
        heading="Budgets kept, and at which quality",
        text=describe(result.setup),
        sections=policy_sections(rows),
        machine=result.setup.machine,
        summary=record,
    )


if __name__ == "__main__":
    run_benchmark(policies)
