"""Against moocore's hypervolume: an improvement is a difference of two of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.pareto import hypervolume
from lts_ray.search.algorithms.hypervolume_boxes import expected_improvement, improvement, undominated_boxes

sizes = pytest.mark.parametrize("m", [1, 2, 3, 4])


@given(
    m=st.integers(1, 4),
    n=st.integers(0, 25),
    seed=st.integers(0, 2**32),
    grid=st.sampled_from([3, 8, 1000]),
)
def test_an_improvement_is_what_the_hypervolume_grows_by(m: int, n: int, seed: int, grid: int) -> None:
    """Coarse grids have many ties, which is where decompositions go wrong."""
    rng = np.random.default_rng(seed)
    front, points = (np.round(rng.random((count, m)) * 1.2 * grid) / grid for count in (n, 5))
    reference = (1.0,) * m
    known = [tuple(each) for each in front.tolist()]
    before = hypervolume(known, reference)
    grown = [hypervolume([*known, tuple(each)], reference) - before for each in points.tolist()]
    assert improvement(points, undominated_boxes(front, np.ones(m))) == pytest.approx(grown, abs=1e-9)


@sizes
def test_boxes_do_not_overlap_and_fill_what_is_not_dominated(m: int) -> None:
    rng = np.random.default_rng(m)
    front = rng.random((20, m))
    boxes = undominated_boxes(front, np.ones(m))
    for point in rng.random((300, m)):
        inside = ((boxes.lower <= point) & (point < boxes.upper)).all(axis=1).sum()
        assert inside == (not (front <= point).all(axis=1).any())


@sizes
def test_the_expected_improvement_is_the_mean_improvement_of_draws(m: int) -> None:
    rng = np.random.default_rng(7)
    boxes = undominated_boxes(rng.random((12, m)), np.ones(m))
    means, deviations = rng.random((6, m)), 0.02 + 0.2 * rng.random((6, m))
    draws = rng.normal(means[:, None], deviations[:, None], (6, 40_000, m))
    sampled = [improvement(each, boxes).mean() for each in draws]
    assert expected_improvement(means, deviations, boxes) == pytest.approx(sampled, rel=0.05, abs=1e-3)


def test_without_uncertainty_the_expected_improvement_is_the_improvement() -> None:
    rng = np.random.default_rng(0)
    boxes = undominated_boxes(rng.random((10, 3)), np.ones(3))
    points = rng.random((50, 3))
    expected = expected_improvement(points, np.zeros((50, 3)), boxes)
    assert expected == pytest.approx(improvement(points, boxes), abs=1e-9)


def test_three_dimensions_have_about_two_boxes_a_vector() -> None:
    """The count that makes expected improvement affordable; a grid would have thousands."""
    points = np.random.default_rng(1).dirichlet((1, 1, 1), 100)
    assert len(undominated_boxes(points, np.ones(3)).upper) <= 2 * 100 + 1
