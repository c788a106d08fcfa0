"""Policies side by side: each load is made once, and every policy gets it, on the engine, simulated, or both.

The engine runs the real model in real time. A simulation runs the same scheduler over the step costs that were measured
here, with noise: hours of load in minutes, on a machine that others may use meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

from benchmarks.common.machine import Machine
from benchmarks.load.contestants import check_name, contestant
from benchmarks.load.load import make_load
from benchmarks.load.local_model import LocalModel
from benchmarks.load.saturation import saturation_rate
from benchmarks.load.traces import trace_named
from benchmarks.load.trial import engine_slowdown, node_of, on_engine, simulated
from benchmarks.policies_folder import BenchFolder, CellResult, Setup
from benchmarks.policies_settings import Cell, Settings
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.simulate.arrival import Arrival
from serve.simulate.attainment_score import score

Progress = Callable[[int, int, Cell | None], None]
"""Told how many cells are done, of how many, and which one runs now."""
CALIBRATION_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Result:
    setup: Setup
    cells: tuple[CellResult, ...]


def run(
    settings: Settings,
    model: LocalModel,
    output: Path,
    *,
    costs: StepCosts | None = None,
    calibration_s: float = CALIBRATION_S,
    progress: Progress = lambda done, total, cell: None,
) -> Result:
    """Run the cells that `output` does not hold yet. costs: of a step; None: measured here, or those that it holds.

    Raises LtsRayError where `output` holds cells that cannot be compared with these.
    """
    for name in settings.policies:
        check_name(name, model.menu)
    folder = BenchFolder(output)
    setup = _set_up(settings, model, folder, costs=costs, calibration_s=calibration_s)
    done = folder.read_cells()
    cells = list(settings.cells())
    finished = sum(cell in done for cell in cells)
    for _, group in groupby(cells, key=lambda cell: replace(cell, policy="")):
        missing = [cell for cell in group if cell not in done]
        if not missing:
            continue
        arrivals = load_of(missing[0], setup, model)
        for cell in missing:
            progress(finished, len(cells), cell)
            done[cell] = _run_cell(cell, arrivals, setup, model)
            folder.add(done[cell])
            finished += 1
    progress(finished, len(cells), None)
    return Result(setup=setup, cells=tuple(done[cell] for cell in cells))


def load_of(cell: Cell, setup: Setup, model: LocalModel) -> tuple[Arrival, ...]:
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


def _slowdown(cell: Cell, setup: Setup) -> float:
    return 1.0 if cell.mode == "simulated" or setup.slowdown is None else setup.slowdown


def _set_up(
    settings: Settings, model: LocalModel, folder: BenchFolder, *, costs: StepCosts | None, calibration_s: float
) -> Setup:
    """What the folder has, if it goes with what is asked for, with whatever was not measured then."""
    losses = {name: option.loss for name, option in model.menu.named.items() if option.loss is not None}
    if unknown := model.menu.named.keys() - losses.keys():
        raise LtsRayError(
            f"the frontier says nothing of the loss of {', '.join(sorted(unknown))}, which the bench compares"
        )
    old = folder.read_setup()
    if costs is None:
        costs = model.calibrate(calibration_s) if old is None else old.costs
    setup = Setup(
        settings=settings,
        model=model.fingerprint,
        capacity=model.capacity,
        threads=model.threads,
        costs=costs,
        rate=saturation_rate(model.menu, costs, capacity=model.capacity),
        losses=losses,
        machine=asdict(Machine.here()),
        slowdown=None if old is None else old.slowdown,
    )
    if old is not None:
        if (found := setup.mismatch(old)) or old.costs != costs:
            raise LtsRayError(f"{folder.path} holds a bench with {found or 'other step costs'}; use another --output")
        setup = replace(setup, machine=old.machine)
    if "engine" in settings.modes and setup.slowdown is None:
        setup = replace(setup, slowdown=engine_slowdown(model, costs))
    folder.write_setup(setup)
    return setup


def _run_cell(cell: Cell, arrivals: Sequence[Arrival], setup: Setup, model: LocalModel) -> CellResult:
    slowdown = _slowdown(cell, setup)
    node = replace(node_of(model, setup.costs.scaled(slowdown)), noise=setup.settings.noise)
    one = contestant(
        cell.policy, model.menu, arrivals=arrivals, node=node, rollouts=setup.settings.rollouts, seed=cell.seed
    )
    step_error = None
    if cell.mode == "engine":
        outcomes, step_error = on_engine(one, arrivals, model, setup.costs, seed=cell.seed)
    else:
        outcomes = simulated(one, arrivals, node, seed=cell.seed)
    found = score(
        outcomes,
        losses=setup.losses,
        narrowest=model.menu.narrowest.name,
        universal=model.menu.universal.name,
        seconds=setup.settings.seconds,
    )
    return CellResult(cell=cell, score=found, step_error=step_error)
