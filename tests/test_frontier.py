"""The frontier is read as it was written, and refuses what is not one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, FrontierPoint, read_frontier, write_frontier
from lts_ray.search.submodel_search import SubmodelResults
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.conftest import make_model

CONFIG = make_model().config
RESULTS = SubmodelResults(config=CONFIG, model_fingerprint="f" * 64)


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
    targets = {target: Target(name=target, label_selector={"role": target}, threads=2)}
    return Frontier(model_fingerprint="f" * 64, quality="validation_loss", targets=targets, points=points)


FRONTIER = frontier(point((64, 64, 64)), point((8, 64, 16)))


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    write_frontier(FRONTIER, tmp_path / "frontier.json")
    assert read_frontier(tmp_path / "frontier.json") == FRONTIER


def test_heads_d_model_and_precision_are_kept_where_a_point_has_less(tmp_path: Path) -> None:
    fewer = Submodel((8, 64, 16), heads=(2, 4, 4), d_model=24, precision="int4")
    narrow = replace(point((8, 64, 16)), submodel=fewer)
    found = frontier(point((64, 64, 64)), narrow)
    write_frontier(found, tmp_path / "frontier.json")
    assert read_frontier(tmp_path / "frontier.json") == found
    kept = json.loads((tmp_path / "frontier.json").read_text())["points"]
    assert "heads" not in kept[0]
    assert (kept[1]["heads"], kept[1]["d_model"], kept[1]["precision"]) == ([2, 4, 4], 24, "int4")


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("schema", [1, 2])
def test_every_schema_is_read_for_ever(schema: int) -> None:
    """A file written by that version, kept as it was: readers take old files or say that they do not."""
    assert read_frontier(FIXTURES / f"frontier-schema-{schema}.json") == FRONTIER


def test_the_newest_schema_is_written(tmp_path: Path) -> None:
    write_frontier(FRONTIER, tmp_path / "frontier.json")
    assert json.loads((tmp_path / "frontier.json").read_text()) == json.loads(
        (FIXTURES / "frontier-schema-2.json").read_text()
    )


def test_where_parameters_stand_for_quality_no_point_has_a_loss(tmp_path: Path) -> None:
    """Schema 1 had minus the parameters as a loss there."""
    old = json.loads((FIXTURES / "frontier-schema-1.json").read_text()) | {"quality": "decoder_params"}
    for each in old["points"]:
        each["loss"] = -each["decoder_params"]
    read = Frontier.from_json(old)
    assert [each.loss for each in read.points] == [None, None]
    assert [each.shortfall for each in read.points] == [-each.decoder_params for each in FRONTIER.points]
    write_frontier(read, tmp_path / "frontier.json")
    assert read_frontier(tmp_path / "frontier.json") == read
    assert not any("loss" in each for each in json.loads((tmp_path / "frontier.json").read_text())["points"])
    with pytest.raises(LtsRayError, match="have a loss where its quality is validation_loss, and only there"):
        replace(read, quality="validation_loss")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "schema 9"),
        ({"schema": None}, "schema None"),
        ({"quality": "beauty"}, "frontier.quality must be one of .*; got 'beauty'"),
        ({"points": [{"name": "x"}]}, "frontier.points.0.submodel needs widths"),
        ({"points": [{"name": "x", "widths": [8]}]}, "frontier.points.0 needs decoder_params"),
        ({"points": 5}, "malformed"),
        ({"targets": []}, "frontier.targets must be a mapping"),
        ({"targets": {"a": {"name": "a"}}}, "label_selector or `local: true`"),
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
    with pytest.raises(LtsRayError, match=r"cost\.prefill_ms must be (above 0|a finite number)"):
        Cost(prefill_ms=value, decode_ms=1, peak_memory_mb=1)


def test_the_frontier_of_another_model_is_refused() -> None:
    with pytest.raises(LtsRayError, match="of another model"):
        FRONTIER.check_model("0" * 64, CONFIG.check)
    FRONTIER.check_model("f" * 64, CONFIG.check)


def test_an_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(LtsRayError, match="has no target 'z'; it has: a"):
        FRONTIER.front("z")


@given(st.sets(st.tuples(*[st.integers(1, 64)] * 3).map(Submodel), min_size=1, max_size=60))
def test_names_are_unique_and_granularities_keep_theirs(submodels: set[Submodel]) -> None:
    names = RESULTS.names(sorted(submodels | set(CONFIG.trained.values())))
    assert len(set(names.values())) == len(names)
    assert {names[submodel]: submodel for submodel in CONFIG.trained.values()} == CONFIG.trained
