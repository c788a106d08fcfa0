"""The frontier is read as it was written, refuses what is not one, and merges searches of different targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, FrontierPoint, TargetEntry, point_names, read_frontier, write_frontier
from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.conftest import make_model

CONFIG = make_model().config
STEP_COST = StepCostModel(prefill=(1, 0.1, 0.1, 0, 0), decode=(1, 0.1, 0, 0, 0), relative_error=0.05)


def point(widths: tuple[int, ...], *, target: str = "a") -> FrontierPoint:
    return FrontierPoint(
        name=str(sum(widths)),
        submodel=Submodel(widths),
        decoder_params=CONFIG.decoder_params(Submodel(widths)),
        loss=10 - sum(widths) / 100,
        costs={target: Cost(prefill_ms=sum(widths), decode_ms=1.5, peak_memory_mb=2.5)},
        fronts=(target,),
    )


def frontier(*points: FrontierPoint, target: str = "a") -> Frontier:
    entry = TargetEntry(target=Target(name=target, label_selector={"role": target}, threads=2), step_cost=STEP_COST)
    return Frontier(model_fingerprint="f" * 64, quality="validation_loss", targets={target: entry}, points=points)


FRONTIER = frontier(point((64, 64, 64)), point((8, 64, 16)))


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    write_frontier(FRONTIER, tmp_path / "frontier.json")
    assert read_frontier(tmp_path / "frontier.json") == FRONTIER


def test_heads_and_d_model_are_kept_where_a_point_has_fewer(tmp_path: Path) -> None:
    narrow = replace(point((8, 64, 16)), submodel=Submodel((8, 64, 16), heads=(2, 4, 4), d_model=24))
    found = frontier(point((64, 64, 64)), narrow)
    write_frontier(found, tmp_path / "frontier.json")
    assert read_frontier(tmp_path / "frontier.json") == found
    kept = json.loads((tmp_path / "frontier.json").read_text())["points"]
    assert "heads" not in kept[0]
    assert (kept[1]["heads"], kept[1]["d_model"]) == ([2, 4, 4], 24)


def test_schema_1_is_read_for_ever() -> None:
    """A file written by the first version, kept as it was: readers take old files or say that they do not."""
    kept = read_frontier(Path(__file__).parent / "fixtures" / "frontier-schema-1.json")
    assert kept == FRONTIER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "schema 9"),
        ({"schema": None}, "schema None"),
        ({"quality": "beauty"}, "quality is 'beauty'"),
        ({"points": [{"name": "x"}]}, "malformed"),
        ({"points": 5}, "malformed"),
        ({"targets": []}, "malformed"),
        ({"targets": {"a": {"target": {"name": "a"}, "step_cost": {}}}}, "label_selector or `local: true`"),
    ],
    ids=str,
)
def test_a_foreign_frontier_is_one_clear_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "frontier.json"
    path.write_text(json.dumps({**FRONTIER.to_json(), **change}))
    with pytest.raises(LtsRayError, match=message) as caught:
        read_frontier(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf")])
def test_a_cost_that_is_no_time_is_refused(value: float) -> None:
    with pytest.raises(LtsRayError, match="finite and positive"):
        Cost(prefill_ms=value, decode_ms=1, peak_memory_mb=1)


def test_the_frontier_of_another_model_is_refused() -> None:
    with pytest.raises(LtsRayError, match="of another model"):
        FRONTIER.check_model("0" * 64, CONFIG)
    FRONTIER.check_model("f" * 64, CONFIG)


def test_merging_two_targets_joins_what_was_measured_of_one_submodel() -> None:
    shared, own = point((64, 64, 64), target="b"), point((8, 8, 8), target="b")
    merged = FRONTIER.merge(frontier(shared, own, target="b"))
    assert set(merged.targets) == {"a", "b"}
    assert [each.submodel.widths for each in merged.front("b")] == [(64, 64, 64), (8, 8, 8)]
    assert set(merged.points[0].costs) == {"a", "b"}
    with pytest.raises(LtsRayError, match="merge different targets"):
        FRONTIER.merge(FRONTIER)
    with pytest.raises(LtsRayError, match="of one model"):
        FRONTIER.merge(replace(FRONTIER, model_fingerprint="0"))


def test_an_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(LtsRayError, match="has no target 'z'; it has: a"):
        FRONTIER.front("z")


@given(st.sets(st.tuples(*[st.integers(1, 64)] * 3).map(Submodel), min_size=1, max_size=60))
def test_names_are_unique_and_granularities_keep_theirs(submodels: set[Submodel]) -> None:
    names = point_names(sorted(submodels | set(CONFIG.trained.values())), CONFIG)
    assert len(set(names.values())) == len(names)
    assert {names[submodel]: submodel for submodel in CONFIG.trained.values()} == CONFIG.trained
