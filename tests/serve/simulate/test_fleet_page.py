"""The page of simulated fleets, also in a headless Chromium: on a wide screen and a phone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser
from plotly.offline import get_plotlyjs

from lts_ray.console import cell_text
from serve.autoscaling.autoscaler import Autoscaler
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.named_policies import policy_named
from serve.routing.named_routers import router_named
from serve.simulate.attainment_score import score
from serve.simulate.fleet_page import write_fleet_page
from serve.simulate.fleet_run import FleetRun
from serve.simulate.fleet_series import fleet_series
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.simulate_fleet import simulate_fleet
from serve.traffic.arrival import Arrival
from tests.serve.simulate.kinds import kind_of
from tests.serve.simulate.test_simulate import FLAT, NODE
from tests.serve.simulate.test_simulated_replicas import Scheduled

LOSSES = {"S": 3.4, "M": 3.2, "L": 3.1, "XL": 3.0}
FAULTS = (
    InjectedFault(at_s=6.0, kind="small", replica=0),
    InjectedFault(at_s=12.0, kind="large", what="slow", factor=3.0, for_s=5.0),
)
MULTIPLES = {"tight": 1.5, "medium": 3.0, "loose": 6.0}


def load(count: int = 500) -> list[Arrival]:
    rng = np.random.default_rng(5)
    classes = rng.choice([*MULTIPLES, "none"], size=count)
    return [
        Arrival(
            at_ms=float(at_ms),
            prompt_tokens=4,
            output_tokens=5,
            budget=Budget(e2e_ms=101 * MULTIPLES[klass]) if klass in MULTIPLES else NO_BUDGET,
            klass=str(klass),
        )
        for at_ms, klass in zip(np.cumsum(rng.exponential(60.0, size=count)), classes, strict=True)
    ]


def simulated(name: str, autoscaler: Autoscaler | None = None) -> dict[str, Any]:
    """As run.json has it."""
    kinds = [
        kind_of("small", replace(NODE, costs=FLAT.scaled(2)), start_s=1.0),
        kind_of("large", NODE, cost=3.0, start_s=2.0),
    ]
    run = simulate_fleet(
        load(),
        kinds=kinds,
        router=router_named(name),
        policy=lambda: policy_named("deadline"),
        rng=np.random.default_rng(0),
        autoscaler=autoscaler,
        tick_s=4.0,
        faults=FAULTS,
        sample_s=0.5,
    )
    return as_json(run)


def as_json(run: FleetRun, faults: tuple[InjectedFault, ...] = FAULTS) -> dict[str, Any]:
    marks = score(run.outcomes, losses=LOSSES, narrowest="S", universal="XL", seconds=30.0)
    kinds = {name: {"replica_hours": hours} for name, hours in (run.replica_hours or {}).items()}
    return {
        "settings": {"trace": "gamma <4>", "frontier": None},
        "load": {"rate": 16.67, "seconds": 30.0},
        "result": asdict(marks) | {"migrations": run.migrations, "cost": run.cost, "kinds": kinds},
        "series": asdict(fleet_series(run, losses=LOSSES, narrowest="S")),
        "decisions": list(map(asdict, run.decisions)),
        "faults": list(map(asdict, faults)),
    }


def two_runs() -> dict[str, dict[str, Any]]:
    targets: list[Mapping[str, int]] = [
        {"small": 1, "large": 1},
        {"small": 3, "large": 1},
        {"small": 2, "large": 2},
        {"small": 1, "large": 2},
    ]
    return {"budget": simulated("budget", Scheduled(targets)), "round-robin": simulated("round-robin")}


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    return two_runs()


@pytest.fixture(scope="module")
def page_path(runs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "index.html"
    write_fleet_page(path, runs)
    return path


def test_the_page_says_what_each_run_came_to_and_why_replicas_came(
    page_path: Path, runs: dict[str, dict[str, Any]]
) -> None:
    text = page_path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    for run in runs.values():
        result = run["result"]
        cells = [cell_text(each) for each in (100 * result["attainment"], result["loss"], result["cost"])]
        assert all(f"<td>{cell}</td>" in text for cell in cells)
    assert [text.count(f">turn {turn}</td>") for turn in range(4)] == [0, 1, 1, 1]  # the first one changed nothing
    assert "6 s: small, number 0, killed; 12 s: large, all, 3 times slower for 5 s" in text
    assert "gamma &lt;4&gt;" in text
    assert text.index("tight %") < text.index("medium %") < text.index("loose %")
    assert len(text) < 200_000


def test_the_same_runs_have_the_same_bytes_also_as_read_from_a_file(page_path: Path, tmp_path: Path) -> None:
    write_fleet_page(tmp_path / "index.html", json.loads(json.dumps(two_runs())))
    assert (tmp_path / "index.html").read_bytes() == page_path.read_bytes()


def test_one_run_without_faults_budgets_samples_or_requests_is_a_page_too(tmp_path: Path) -> None:
    write_fleet_page(tmp_path / "index.html", {"bare": as_json(FleetRun(outcomes=(), places=()), faults=())})
    text = (tmp_path / "index.html").read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert "Faults" not in text
    assert "autoscaler" not in text


LOOKS = """() => ({
  wide: document.documentElement.scrollWidth,
  figures: [...document.querySelectorAll(".js-plotly-plot")].map((plot) => [
    plot.id, plot.querySelectorAll(".scatterlayer .trace").length, plot.querySelectorAll(".shapelayer path").length]),
  outside: [...document.querySelectorAll(".js-plotly-plot .main-svg text")].filter((text) => {
    const [box, frame] = [text, text.closest(".js-plotly-plot")].map((each) => each.getBoundingClientRect());
    return text.textContent.trim() && (box.left < frame.left - 1 || box.right > frame.right + 1);
  }).map((text) => text.textContent),
})"""


@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_fits_a_wide_screen_and_a_phone(browser: Browser, page_path: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
    page.set_default_timeout(600_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_path.as_uri())
    page.wait_for_selector("#cost .main-svg text")
    looks: dict[str, Any] = page.evaluate(LOOKS)
    page.close()
    assert (said, looks["outside"]) == ([], [])
    assert looks["wide"] <= width
    lines = {name: count for name, count, _ in looks["figures"]}
    assert lines == {
        "load": 1,
        "kept": 2,
        **{f"class-{run}": 3 for run in range(2)},
        "loss": 2,
        **{f"{name}-{run}": 4 for name in ("replicas", "queue") for run in range(2)},
        "slack": 4,
        "cost": 2,
    }
    assert {shapes for _, _, shapes in looks["figures"]} == {len(FAULTS)}
