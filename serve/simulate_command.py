"""`lts-ray simulate`: its options, and what it prints and leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from lts_ray.console import print_rows, progress_bars
from lts_ray.ending import ending_in_one_line
from lts_ray.errors import LtsRayError
from lts_ray.files import check_output, json_text, write_json
from lts_ray.interrupt import interruptible
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.record import read_record, record_json
from serve.autoscaling.named_autoscalers import AUTOSCALERS
from serve.policies.named_policies import POLICIES
from serve.routing.named_routers import ROUTERS
from serve.simulate.capacity_plan import CapacityPlan
from serve.simulate.fleet_page import summary_row, write_fleet_page
from serve.simulate.plan_page import answer_text, plan_rows, tried_text, write_plan_page
from serve.simulate.scenario import Scenario
from serve.simulate.simulation_settings import SimulationSettings
from serve.traffic.traces import TRACES

RUN_FILE, PAGE = "run.json", "index.html"
CLASSES = ("tight", "medium", "loose")
TRACE = f"{', '.join(TRACES)}, or a file of requests: Azure's CSV, Mooncake's JSON Lines."


def simulate(
    fleet: Annotated[Path, Option("--fleet", "-f", help="fleet.yaml: kinds of node and, if any, faults.")],
    trace: Annotated[str, Option("--trace", "-t", help=TRACE)] = "gamma-4",
    router: Annotated[str, Option(help=f"Where a request goes: {', '.join(ROUTERS)}; several: a,b.")] = "budget",
    autoscaling: Annotated[str, Option(help=f"How many replicas: {', '.join(AUTOSCALERS)}; several: a,b.")] = "fixed",
    policy: Annotated[str, Option(help=f"Which width a request has: {', '.join(POLICIES)}.")] = "deadline",
    load: Annotated[float | None, Option(help="Over what the first replicas bear at full width; else 0.7.")] = None,
    rate: Annotated[float | None, Option(help="Instead: requests per second. A file's: as recorded.")] = None,
    seconds: Annotated[float | None, Option(help="Of the load: 60, or as long as recorded.")] = None,
    budgets: Annotated[str, Option(help="Tight, medium and loose: multiples of what a request takes alone.")] = "2,4,8",
    costs: Annotated[list[str] | None, Option(help="KIND=FILE of `measure --step-costs`, over fleet.yaml's.")] = None,
    model: Annotated[Path, Option("--model", "-m", show_default="the model that ships")] = DEFAULT_MODEL,
    frontier: Annotated[Path | None, Option(help="Of that model, as served; none: its granularities.")] = None,
    report: Annotated[Path | None, Option(help="Folder for the result: index.html, run.json.")] = None,
    plan: Annotated[bool, Option("--plan", help="Find how many replicas keep budgets at least cost.")] = False,
    attainment: Annotated[float, Option(help="The share of budgets to keep.")] = SimulationSettings.attainment,
    quality_floor: Annotated[
        str | None, Option(help="Mean loss that autoscaling allows, or a submodel's name.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON instead of tables.")] = False,
    seed: Annotated[int, Option(min=0, help="Of what is drawn at random.")] = 0,
) -> None:
    """Simulate a fleet under a load in virtual time: budgets kept, quality, replicas and what they cost.

    Scheduler, policies, router and autoscaling are those that serve. The same seed gives the same bytes.
    """
    names = (
        "trace",
        "router",
        "autoscaling",
        "policy",
        "load",
        "rate",
        "seconds",
        "attainment",
        "quality_floor",
        "seed",
    )
    given: dict[str, Any] = {name: value for name, value in locals().items() if name in names}
    given |= {"fleet": str(fleet), "model": str(model), "frontier": None if frontier is None else str(frontier)}
    given |= {"costs": dict(map(_named, costs or ())), "budgets": _multiples(budgets)}
    if report is not None:
        check_output(report)
    with progress_bars() as show:
        show("reading", 0, 1)
        scenarios = _scenarios(given)
        show("reading", 1, 1)
        if plan:
            scenario = _to_plan(scenarios)
            found = scenario.plan(partial(show, "planning"))
        else:
            runs = {name: each.to_json(each.run(partial(_show, show, name))) for name, each in scenarios.items()}
    if plan:
        if report is not None:
            write_plan_page(report / PAGE, found, settings=record_json(scenario.settings))
        print_plan(found, as_json=as_json)
        return
    if report is not None:
        for name, run in runs.items():
            write_json(report / (RUN_FILE if len(runs) == 1 else f"run-{name.replace(' ', '-')}.json"), run)
        write_fleet_page(report / PAGE, runs)
    results = {name: run["result"] for name, run in runs.items()}
    if len(results) == 1:
        print_result(results.popitem()[1], as_json=as_json)
    else:
        rows = [{"run": name, **(result if as_json else summary_row(result))} for name, result in results.items()]
        print_rows(rows, as_json=as_json)


def _show(show: Callable[[str, int, int], None], name: str, share: float) -> None:
    show(f"simulating {name}", int(100 * share), 100)


def _scenarios(given: Mapping[str, Any]) -> dict[str, Scenario]:
    """Each router with each autoscaling, under one load; by what is its own among them."""
    asked = {key: list(dict.fromkeys(given[key].split(","))) for key in ("router", "autoscaling")}
    scenarios: dict[str, Scenario] = {}
    for values in product(*asked.values()):
        words = dict(zip(asked, values, strict=True))
        settings = read_record(SimulationSettings, {**given, **words}, what="settings")
        first = next(iter(scenarios.values()), None)
        name = " ".join(word for key, word in words.items() if len(asked[key]) > 1) or values[0]
        scenarios[name] = Scenario.read(settings) if first is None else first.beside(settings)
    return scenarios


def _to_plan(scenarios: Mapping[str, Scenario]) -> Scenario:
    """Raises LtsRayError where that is no single one of fixed fleets."""
    (scenario, *others) = scenarios.values()
    if others or scenario.settings.autoscaling != "fixed":
        raise LtsRayError("a plan is of one router and of fleets of a fixed size: leave --autoscaling out")
    return scenario


def print_plan(plan: CapacityPlan, *, as_json: bool) -> None:
    """Raises LtsRayError, after that, where no fleet keeps what is wanted."""
    if as_json:
        print_rows([{**asdict(fleet), "cheapest": fleet == plan.cheapest} for fleet in plan.front], as_json=True)
    else:
        print_rows(plan_rows(plan), as_json=False, title="Fleets that no other beats in cost, budgets kept and quality")
        print(tried_text(plan))
    if plan.cheapest is None:
        raise LtsRayError(f"{answer_text(plan)} Raise max_replicas, or ask for less with --attainment.")
    if not as_json:
        print(answer_text(plan))


def print_result(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json_text(result))
        return
    kept = {"all": result["attainment"], **result["by_class"]}
    rows = [{"class": name, "kept %": None if share is None else 100 * share} for name, share in kept.items()]
    print_rows(rows, as_json=False, title="Budgets")
    times = [{"time": kind, **{at: result[at][kind] for at in ("p50", "p99")}} for kind in result["p50"]]
    print_rows(times, as_json=False, title="Milliseconds")
    print_rows([{"kind": name, **each} for name, each in result["kinds"].items()], as_json=False, title="Replicas")
    loss = "unknown" if result["loss"] is None else f"{result['loss']:.4f}"
    counts = ", ".join(f"{result[name]:,} {name}" for name in ("requests", "rejected", "failed", "migrations"))
    print(f"mean loss {loss}, {counts}, cost {result['cost']:.4g}")


def _named(text: str) -> tuple[str, str]:
    kind, _, path = text.partition("=")
    if not kind or not path:
        raise LtsRayError(f"--costs is KIND=FILE, such as cpu-small=costs.json; got {text!r}")
    return kind, path


def _multiples(text: str) -> dict[str, float]:
    try:
        return dict(zip(CLASSES, map(float, text.split(",")), strict=True))
    except ValueError:
        raise LtsRayError(f"--budgets are three numbers, such as 2,4,8; got {text!r}") from None


def command() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(interruptible(simulate))
    return app


def main(words: Sequence[str] | None = None) -> None:
    """A problem that the user can mend is one line on stderr and exit code 2."""
    with ending_in_one_line("lts-ray"):
        command()(args=words, prog_name="lts-ray simulate")


if __name__ == "__main__":
    main()
