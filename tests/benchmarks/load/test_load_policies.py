from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.load.contestants import contestant
from benchmarks.load.local_model import LoadCapacity
from benchmarks.load.policies_folder import Cell, PoliciesFolder, PolicySettings, read_setup
from benchmarks.load.policy_rows import PolicyRow
from benchmarks.policies import PoliciesResult, compare_policies
from lts_ray.errors import LtsRayError
from lts_ray.record import read_record, record_json
from lts_ray.runtime.step_costs import PlaneCosts
from serve.simulate.oracle import QUALITY
from serve.traffic.budget_classes import BudgetClasses
from tests.benchmarks.load.loads import COSTS, local_model
from tests.conftest import ROOT
from tests.serve.models import tiny_menu

SETTINGS = PolicySettings(
    modes=("simulated",),
    traces=("poisson", "gamma-4"),
    loads=(0.5, 2.0),
    policies=("deadline", "fixed-universal"),
    seeds=2,
    seconds=1.0,
)
KILLED = """
import os, signal, sys
from pathlib import Path
from benchmarks.policies import compare_policies
from tests.benchmarks.load.loads import COSTS, local_model
from tests.benchmarks.load.test_load_policies import SETTINGS

def progress(done, total, cell):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

compare_policies(SETTINGS, local_model(Path(sys.argv[1])), Path(sys.argv[2]), costs=COSTS, progress=progress)
"""


@pytest.fixture(scope="module")
def result(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PoliciesResult:
    return compare_policies(SETTINGS, local_model(model_dir), tmp_path_factory.mktemp("policies"), costs=COSTS)


def test_all_policies_get_a_load_before_the_next_one_is_made() -> None:
    cells = list(SETTINGS.cells())
    assert len(cells) == len(set(cells)) == 16
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        assert (first.policy, second.policy) == ("deadline", "fixed-universal")
        assert replace(first, policy="") == replace(second, policy="")


def test_every_cell_is_scored_and_all_policies_had_the_same_requests(result: PoliciesResult) -> None:
    assert [each.cell for each in result.cells] == list(SETTINGS.cells())
    for first, second in zip(result.cells[::2], result.cells[1::2], strict=True):
        assert first.score.requests == second.score.requests > 0
        assert second.score.universal_share == 1.0
    light, heavy = (sum(each.score.requests for each in result.cells if each.cell.load == load) for load in (0.5, 2.0))
    assert heavy > 2 * light


def test_a_bench_that_was_killed_goes_on_and_gives_what_an_uninterrupted_one_gives(
    result: PoliciesResult, model_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL after five cells, and half of a sixth line, as a kill in the middle of a write leaves it."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(model_dir), str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    file = PoliciesFolder(tmp_path).cells_file
    assert len(file.read_text(encoding="utf-8").splitlines()) == 5
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"mode": "simulated", "trace": "gam')
    ran: list[Cell] = []
    again = compare_policies(
        SETTINGS,
        local_model(model_dir),
        tmp_path,
        costs=COSTS,
        progress=lambda done, total, cell: ran.append(cell) if cell else None,
    )
    assert ran == list(SETTINGS.cells())[5:]
    assert again.cells == result.cells
    assert len(PoliciesFolder(tmp_path).read_cells()) == 16


def test_a_bench_may_grow_but_not_change(model_dir: Path, tmp_path: Path) -> None:
    small = replace(SETTINGS, traces=("poisson",), loads=(0.5,), seeds=1)
    first = compare_policies(small, local_model(model_dir), tmp_path, costs=COSTS)
    ran: list[Cell] = []
    grown = compare_policies(
        replace(small, seeds=2),
        local_model(model_dir),
        tmp_path,
        progress=lambda done, total, cell: ran.append(cell) if cell else None,
    )
    assert {cell.seed for cell in ran} == {1}
    assert grown.cells[:2] == first.cells
    with pytest.raises(LtsRayError, match=r"holds a bench with seconds 1\.0, not 2\.0; use another --output"):
        compare_policies(replace(small, seconds=2.0), local_model(model_dir), tmp_path)
    with pytest.raises(LtsRayError, match="holds a bench with other step costs"):
        compare_policies(small, local_model(model_dir), tmp_path, costs=COSTS.scaled(2.0))
    with pytest.raises(LtsRayError, match=r"holds a bench with capacity .*max_queue=8.*, not .*max_queue=9"):
        compare_policies(small, local_model(model_dir, max_queue=9), tmp_path)


def test_the_engine_answers_the_same_loads_in_real_time(model_dir: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, modes=("engine",), traces=("poisson",), loads=(1.5,), seeds=1, seconds=0.5)
    model = local_model(model_dir, max_queue=64)
    found = compare_policies(settings, model, tmp_path, costs=COSTS)
    assert found.setup.slowdown is not None
    assert found.setup.slowdown > 0
    for each in found.cells:
        assert each.score.requests > 0
        assert each.score.failed == 0
        assert each.score.tokens_s > 0
        assert each.step_error is not None
    assert found.cells[1].score.universal_share == 1.0
    again = compare_policies(
        settings, model, tmp_path, progress=lambda done, total, cell: pytest.fail("ran again") if cell else None
    )
    assert again == found


def test_a_fixed_server_has_one_submodel_for_all() -> None:
    menu = tiny_menu()
    for name, option in (("universal", menu.universal), ("narrowest", menu.narrowest), ("M", menu.named["M"])):
        one = contestant(f"fixed-{name}", menu)
        assert (one.menu.universal, one.menu.elastic) == (option, (option,))
    assert contestant("slackfit", menu).menu == menu


def test_the_oracle_finds_its_plan_on_the_load_that_it_gets(model_dir: Path, tmp_path: Path) -> None:
    """With no noise, and the deadline policy as one of its starts, what it aims at is not less than that policy's."""
    settings = replace(
        SETTINGS, traces=("poisson",), loads=(2.0,), seeds=1, policies=("deadline", "oracle"), noise=0.0, rollouts=10
    )
    deadline, oracle = (
        each.score for each in compare_policies(settings, local_model(model_dir), tmp_path, costs=COSTS).cells
    )
    assert oracle.requests == deadline.requests
    assert deadline.attainment is not None
    assert oracle.attainment is not None

    def aim(attainment: float, loss: float) -> float:
        return attainment + QUALITY * (5.4 - loss) / (5.4 - 5.1)

    assert aim(oracle.attainment, oracle.loss) >= aim(deadline.attainment, deadline.loss) - 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traces": ("sunday",)}, "unknown trace 'sunday'"),
        ({"loads": ()}, "loads must be at least one"),
        ({"policies": ("deadline", "deadline")}, "policies must be at least one, and each only once"),
        ({"loads": (0.0,)}, "settings.loads.0 must be above 0; got 0.0"),
        ({"seeds": 0}, "settings.seeds must be at least 1; got 0"),
        ({"noise": -0.1}, "settings.noise must be at least 0; got -0.1"),
        ({"modes": ("guessed",)}, "settings.modes.0 must be one of simulated, engine; got 'guessed'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(LtsRayError, match=message) as caught:
        replace(SETTINGS, **change)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_policy_is_refused_before_anything_runs(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=r"unknown policy 'fixed-Q'; known: deadline, .*fixed-XL"):
        compare_policies(
            replace(SETTINGS, policies=("fixed-Q",)), local_model(model_dir), tmp_path / "new", costs=COSTS
        )
    assert not (tmp_path / "new").exists()


def test_settings_survive_json() -> None:
    settings = replace(SETTINGS, classes=BudgetClasses(tight=1.5))
    assert read_record(PolicySettings, json.loads(json.dumps(record_json(settings)))) == settings


@pytest.mark.parametrize("name", ["engine", "simulated"])
def test_the_results_that_docs_keep_can_still_be_read(name: str) -> None:
    """The set-up that they begin with, which is written as it was, and their rows."""
    path = ROOT / "docs" / "results" / "policies" / f"{name}.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    setup = read_setup(path)
    assert setup.settings.modes == (name,)
    for key, value in json.loads(json.dumps(setup.to_json())).items():
        was = saved[key]
        assert value == ({**value, **was} if isinstance(was, dict) else was)  # but for what it has got since
    assert set(saved["rows"][0]) | {"trace"} == {column.name for column in fields(PolicyRow)}


def test_limits_that_no_engine_can_have_are_refused() -> None:
    with pytest.raises(LtsRayError, match=r"capacity\.max_queue must be at least 1; got 0"):
        LoadCapacity(context_length=64, max_queue=0)
    with pytest.raises(LtsRayError, match=r"chunk_tokens must be at least the 8 requests .*; got 7"):
        LoadCapacity(context_length=64, chunk_tokens=7)
    assert LoadCapacity(context_length=65, slots=3).n_blocks == 18


def test_widths_and_precisions_get_the_loads_of_widths_alone(
    result: PoliciesResult, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in 8 bits cost a quarter and lose hardly more."""
    curves = {name: tuple(value / 8 for value in getattr(COSTS, name)) for name in ("base", "neuron", "head")}
    costs = replace(COSTS, beside=tuple(PlaneCosts(plane=plane, **curves) for plane in ("upper", "lower")))
    asked: list[str] = []

    def evaluated(folder: Path, names: list[str], **options: object) -> list[SimpleNamespace]:
        asked.extend(names)
        return [SimpleNamespace(loss=3 + 0.1 * "SMLX".index(name[0]) * -1 + 0.01 * ("int8" in name)) for name in names]

    monkeypatch.setattr("benchmarks.load.local_model.evaluate", evaluated)
    local = local_model(model_dir, precisions=("int8",))
    assert sorted(asked) == sorted(f"{name}@{each}" for name in local.config.trained for each in ("float32", "int8"))
    settings = replace(SETTINGS, traces=("poisson",), loads=(2.0,), policies=("deadline", "widths-deadline"), seeds=1)
    found = compare_policies(settings, local, tmp_path, costs=costs)
    both, widths = (cell.score for cell in found.cells)
    assert both.requests == widths.requests
    assert both.attainment > widths.attainment
    assert both.loss < widths.loss
    assert found.setup.rate == pytest.approx(result.setup.rate)
