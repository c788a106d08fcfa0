from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.proxies.agreement import (
    TOP_PERCENTS,
    common_ratio,
    common_ratios,
    front_distance,
    proxy_front_distance,
    spearman,
)


def test_spearman_is_that_of_the_textbook_for_every_order_of_five() -> None:
    """1 - 6 Σ d² / (n (n² - 1)) where no values are equal."""
    for order in permutations(range(5)):
        by_hand = 1 - 6 * sum((i - each) ** 2 for i, each in enumerate(order)) / (5 * 24)
        assert spearman([float(each) for each in order], [0.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx(by_hand)


def test_a_proxy_that_never_varies_orders_nothing() -> None:
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0


def test_the_common_ratio_is_the_share_of_the_best_that_both_name() -> None:
    truth = [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    proxy = [10.0, 9.0, 4.0, 7.0, 8.0, 5.0, 6.0, 3.0, 2.0, 1.0]
    assert [common_ratio(proxy, truth, percent=k) for k in (10, 20, 30, 40, 50, 60)] == [
        1,
        1,
        pytest.approx(2 / 3),
        0.75,
        0.8,
        pytest.approx(5 / 6),
    ]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=25))
def test_common_ratios_are_those_of_brute_force(pairs: list[tuple[int, int]]) -> None:
    """Ties are broken by position: the pair (value, -position) leaves none."""
    proxy, truth = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    for percent, ratio in common_ratios(proxy, truth).items():
        count = -(-len(pairs) * percent // 100)
        best = [
            {i for i in range(len(pairs)) if sum((v, -j) > (values[i], -i) for j, v in enumerate(values)) < count}
            for values in (proxy, truth)
        ]
        assert ratio == pytest.approx(len(best[0] & best[1]) / count)
        assert 0 <= ratio <= 1


def test_everything_is_among_the_best_hundred_percent() -> None:
    ratios = common_ratios([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    assert tuple(ratios) == TOP_PERCENTS
    assert ratios[100] == 1


def test_the_front_distance_compares_with_the_point_closest_in_latency() -> None:
    """(5, 33) with (4, 30): 10 %; (9, 20) with (10, 20): 0; (7, 36), half-way, with the better (10, 20): 80 %."""
    assert front_distance([(5.0, 33.0), (9.0, 20.0)], [(4.0, 30.0), (10.0, 20.0)]) == pytest.approx(0.05)
    assert front_distance([(7.0, 36.0)], [(4.0, 30.0), (10.0, 20.0)]) == pytest.approx(0.8)


def test_a_proxy_that_orders_as_the_truth_does_finds_the_true_front() -> None:
    rng = np.random.default_rng(0)
    latencies, perplexities = rng.uniform(1, 10, 40).tolist(), rng.uniform(20, 60, 40)
    exact = proxy_front_distance(
        latencies=latencies, proxy=(-perplexities).tolist(), perplexities=perplexities.tolist()
    )
    assert exact == 0
    reverse = proxy_front_distance(latencies=latencies, proxy=perplexities.tolist(), perplexities=perplexities.tolist())
    assert reverse > 0.3


def test_wrong_input_is_refused() -> None:
    with pytest.raises(LtsRayError, match="2 estimates and 3 truths"):
        spearman([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(LtsRayError, match="percent must be above 0"):
        common_ratio([1.0, 2.0], [1.0, 2.0], percent=0)
    with pytest.raises(LtsRayError, match="both fronts need points"):
        front_distance([], [(1.0, 2.0)])
