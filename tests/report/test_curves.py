from __future__ import annotations

from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Failed
from lts_ray.pareto import bounds_of, relative_hypervolume
from lts_ray.report.curves import hypervolume_curves
from lts_ray.search.search_session import SearchSession
from tests.report.searches import TARGETS, backbone_search, submodel_search
from tests.search.helpers import session as started


@pytest.mark.parametrize("target", TARGETS)
def test_the_curve_is_the_hypervolume_of_each_prefix(tmp_path: Path, target: str) -> None:
    """Of the prefix as it stands in the log; the curve itself is kept up by its front alone."""
    search = submodel_search(tmp_path / "search", failing=7, evaluations=40)
    (curve,) = hypervolume_curves(search, {}, target)
    vectors = search.vectors(target)
    done = list(search.outcomes)
    expected = [
        search.hypervolume(target, {each: vectors[each] for each in done[:count] if each in vectors})
        for count in range(1, len(done) + 1)
    ]
    assert curve.values == pytest.approx(expected, rel=1e-12)
    assert curve.values[-1] == pytest.approx(search.hypervolume(target), rel=1e-12)


def test_a_failed_evaluation_is_a_step_that_gains_nothing(tmp_path: Path) -> None:
    search = submodel_search(tmp_path / "search", failing=5, evaluations=30)
    (curve,) = hypervolume_curves(search, {}, "slow")
    assert len(curve.values) == len(search.outcomes) == 30
    failed = [index for index, outcome in enumerate(search.outcomes.values()) if isinstance(outcome, Failed)]
    assert len(failed) == 6
    assert all(curve.values[index] == curve.values[index - 1] for index in failed)


def test_all_searches_are_measured_by_the_box_of_this_ones_seeds(tmp_path: Path) -> None:
    """Its own costs for the seeds, not the other's, which were measured again and differ."""
    this = submodel_search(tmp_path / "this", seed=0, evaluations=30)
    other = submodel_search(tmp_path / "other", seed=1, algorithm="random", evaluations=30)
    curve = hypervolume_curves(this, {"other": other}, "slow")[1]
    box = bounds_of([this.vectors("slow")[seed] for seed in this.plan.space.seeds()])
    assert curve.values[-1] == pytest.approx(relative_hypervolume(list(other.vectors("slow").values()), box))
    assert curve.values[-1] != other.hypervolume("slow")


def test_without_seeds_the_box_holds_what_all_searches_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = submodel_search(tmp_path / "this", evaluations=30)
    other = submodel_search(tmp_path / "other", seed=1, evaluations=30)
    monkeypatch.setattr(this.plan.space, "seeds", list)
    curves = hypervolume_curves(this, {"other": other}, "fast")
    box = bounds_of([vector for each in (this, other) for vector in each.vectors("fast").values()])
    for curve, search in zip(curves, (this, other), strict=True):
        assert curve.values[-1] == pytest.approx(relative_hypervolume(list(search.vectors("fast").values()), box))


def test_searches_are_named_by_algorithm_and_seed_and_told_apart_where_these_are_the_same(tmp_path: Path) -> None:
    this = submodel_search(tmp_path / "this", evaluations=15)
    others = {
        "runs/a": submodel_search(tmp_path / "a", evaluations=15),
        "runs/b": submodel_search(tmp_path / "b", evaluations=15, algorithm="random", seed=3),
    }
    curves = hypervolume_curves(this, others, "slow")
    assert [each.name for each in curves] == ["lts, seed 0", "lts, seed 0 (runs/a)", "random, seed 3"]
    assert [each.is_this for each in curves] == [True, False, False]


def test_a_search_that_has_only_begun_has_an_empty_curve(tmp_path: Path) -> None:
    this = submodel_search(tmp_path / "this", evaluations=15)
    begun: SearchSession = started(tmp_path / "begun")
    with pytest.raises(LtsRayError, match="latency"):  # the helper's search has both latencies for objectives, or one
        hypervolume_curves(submodel_search(tmp_path / "both", evaluations=15, latency="both"), {"b": begun}, "slow")
    assert hypervolume_curves(this, {"begun": begun}, "slow")[1].values == ()


def test_a_search_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    this = submodel_search(tmp_path / "this", evaluations=15)
    other = backbone_search(tmp_path / "other", algorithm="random", evaluations=5)
    with pytest.raises(LtsRayError, match="runs/x: its space, subject, quality differ"):
        hypervolume_curves(this, {"runs/x": other}, "slow")  # type: ignore[dict-item]
