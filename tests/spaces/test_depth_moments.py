from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.spaces.depth_moments import depth_moments

numbers = st.lists(st.floats(-10, 10), min_size=1, max_size=12)


@given(values=numbers)
def test_reversing_depth_turns_the_slope_only(values: list[float]) -> None:
    mean, slope, curvature = depth_moments(values)
    assert depth_moments(values[::-1]) == pytest.approx((mean, -slope, curvature), abs=1e-9)


def test_moments_in_closed_form() -> None:
    assert depth_moments([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 / 3, 1.0))  # depths -1, 0, 1; P2 = 1, -1/2, 1
    assert depth_moments([5.0]) == (5.0, 0.0, -2.5)


def test_a_constant_has_no_slope() -> None:
    assert depth_moments([3.0] * 7)[1] == pytest.approx(0.0)
