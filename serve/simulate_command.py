"""`lts-ray simulate`: its options, and what it prints and leaves."""

from __future__ import annotations

from collections.abc import Sequence
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
from lts_ray.record import read_record
from serve.policies.named_policies import POLICIES
from serve.routing.named_routers import ROUTERS
from serve.simulate.scenario import Scenario
from serve.simulate.simulation_settings import SimulationSettings
from serve.traffic.traces import TRACES

RUN_FILE = "run.json"
CLASSES = ("tight", "medium", "loose")
TRACE = f"{', '.join(TRACES)}, or a file of requests: Azure's CSV, Mooncake's JSON Lines."


def simulate(
    fleet: Annotated[Path, Option("--fleet", "-f", help="fleet.yaml: kinds of node and, if any, faults.")],
    trace: Annotated[str, Option("--trace", "-t", help=TRACE)] = "gamma-4",
    router: Annotated[str, Option(help=f"Where a request goes: {', '.join(ROUTERS)}.")] = "budget",
    autoscaling: Annotated[str, Option(help="How many replicas there are: fixed.")] = "fixed",
    policy: Annotated[str, Option(help=f"Which width a request has: {', '.join(POLICIES)}.")] = "deadline",
    load: Annotated[float | None, Option(help="Over what the first replicas bear at full width; else 0.7.")] = None,
    rate: Annotated[float | None, Option(help="Instead: requests per second. A file's: as recorded.")] = None,
    seconds: Annotated[float | None, Option(help="Of the load: 300, or as long as recorded.")] = None,
    budgets: Annotated[str, Option(help="Tight, medium and loose: multiples of what a request takes alone.")] = "2,4,8",
    costs: Annotated[list[str] | None, Option(help="KIND=FILE of `measure --step-costs`, over fleet.yaml's.")] = None,
    model: Annotated[Path, Option("--model", "-m", show_default="the model that ships")] = DEFAULT_MODEL,
    frontier: Annotated[Path | None, Option(help="Of that model, as served; none: its granularities.")] = None,
    report: Annotated[Path | None, Option(help="Folder for the result: run.json.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print a line of JSON instead of tables.")] = False,
    seed: Annotated[int, Option(min=0, help="Of what is drawn at random.")] = 0,
) -> None:
    """Simulate a fleet under a load in virtual time: budgets kept, quality, replicas and what they cost.

    Scheduler, policies, router and autoscaling are those that serve. The same seed gives the same bytes.
    """
    names = ("trace", "router", "autoscaling", "policy", "load", "rate", "seconds", "seed")
    given: dict[str, Any] = {name: value for name, value in locals().items() if name in names}
    given |= {"fleet": str(fleet), "model": str(model), "frontier": None if frontier is None else str(frontier)}
    given |= {"costs": dict(map(_named, costs or ())), "budgets": _multiples(budgets)}
    if report is not None:
        check_output(report)
    with progress_bars() as show:
        show("reading", 0, 1)
        scenario = Scenario.read(read_record(SimulationSettings, given, what="settings"))
        show("reading", 1, 1)
        run = scenario.run(lambda share: show("simulating", int(100 * share), 100))
        result = scenario.to_json(run)
    if report is not None:
        write_json(report / RUN_FILE, result)
    print_result(result["result"], as_json=as_json)


def print_result(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json_text(result))
        return
    kept = {"all": result["attainment"], **result["by_class"]}
    rows = [{"class": name, "kept %": None if share is None else 100 * share} for name, share in kept.items()]
    print_rows(rows, as_json=False, title="Requests with a budget")
    times = [{"time": kind, **{at: result[at][kind] for at in ("p50", "p99")}} for kind in result["p50"]]
    print_rows(times, as_json=False, title=f"Milliseconds of {result['requests']:,} requests")
    print_rows([{"kind": name, **each} for name, each in result["kinds"].items()], as_json=False, title="Replicas")
    loss = "unknown" if result["loss"] is None else f"{result['loss']:.4f}"
    counts = ", ".join(f"{result[name]:,} {name}" for name in ("rejected", "failed", "migrations"))
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
