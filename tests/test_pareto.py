from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.pareto import Objectives, front_of, hypervolume, non_dominated, relative_hypervolume

vector_lists = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), max_size=30)


def dominates(a: Objectives, b: Objectives) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def brute_force(vectors: list[Objectives]) -> list[int]:
    return [i for i, vector in enumerate(vectors) if not any(dominates(other, vector) for other in vectors)]


@given(vectors=vector_lists)
def test_the_front_is_what_no_other_vector_dominates(vectors: list[Objectives]) -> None:
    assert non_dominated(vectors) == brute_force(vectors)


@given(vectors=vector_lists, cut=st.integers(0, 30))
def test_a_front_built_in_two_parts_is_the_front_of_all(vectors: list[Objectives], cut: int) -> None:
    named = dict(enumerate(vectors))
    front = front_of({i: vector for i, vector in named.items() if i < cut})
    front = front_of({**front, **{i: vector for i, vector in named.items() if i >= cut}})
    assert list(front) == brute_force(vectors)


def test_hypervolume_of_a_staircase() -> None:
    assert hypervolume([(1.0, 3.0), (2.0, 1.0)], (4.0, 4.0)) == pytest.approx(3 * 1 + 2 * 2)
    assert hypervolume([(5.0, 5.0)], (4.0, 4.0)) == 0
    assert hypervolume([], (4.0, 4.0)) == 0


def test_relative_hypervolume_scales_by_the_bounds() -> None:
    bounds = ((0.0, 100.0), (2.0, 300.0))
    assert relative_hypervolume([(1.0, 200.0)], bounds) == pytest.approx(0.5001**2)
    assert relative_hypervolume([], bounds) == 0


def test_an_objective_that_does_not_vary_does_not_divide_by_zero() -> None:
    assert relative_hypervolume([(1.0, 7.0)], ((0.0, 7.0), (2.0, 7.0))) == pytest.approx(0.5001 * 1.0001)
