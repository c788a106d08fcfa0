"""The fit against laws that are known: made up ones, and the paper's, from its own tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from benchmarks.laws.scaling_law import Fit, ScalingLaw, fit
from lts_ray.errors import LtsRayError

PAPERS = ScalingLaw(a=19.889, b=-0.130, c=1.374)
"""MatFormer, appendix D.5: of MatLMs with equal weights, all granularities together."""
MILLIONS = {
    "S": (5.3, 21.1, 47, 84, 189, 335, 700),
    "M": (6.3, 25.3, 56, 100, 227, 403, 900),
    "L": (8.4, 33.7, 75, 134, 302, 537, 1200),
    "XL": (12.6, 50, 113, 201, 453, 805, 1800),
}
"""Its table 2: parameters without embeddings."""
MATLM = {
    "S": (4.012, 3.55, 3.33, 3.217, 3.03, 2.923, 2.787),
    "M": (3.96, 3.505, 3.285, 3.16, 2.98, 2.867, 2.732),
    "L": (3.908, 3.458, 3.235, 3.11, 2.928, 2.81, 2.68),
    "XL": (3.868, 3.40, 3.18, 3.06, 2.874, 2.76, 2.63),
}
"""Its tables 8 to 14, `Dev set log pplx`; and of the models trained alone:"""
BASELINE = {
    "S": (4.010, 3.55, 3.31, 3.205, 3.017, 2.90, 2.77),
    "M": (3.97, 3.512, 3.30, 3.16, 2.971, 2.856, 2.722),
    "L": (3.905, 3.456, 3.224, 3.096, 2.91, 2.79, 2.66),
    "XL": (3.83, 3.354, 3.15, 3.023, 2.84, 2.718, 2.592),
}
NAMES = ("S", "M", "L", "XL")
Published = Mapping[str, tuple[float, ...]]

laws = st.builds(
    ScalingLaw,
    a=st.floats(10, 100),
    b=st.floats(-0.4, -0.05),
    c=st.one_of(st.just(0.0), st.floats(0.1, 3)),
)
"""Of losses that a language model could have, at the sizes below."""
sizes = st.lists(st.floats(1.5, 4), min_size=3, max_size=7).map(
    lambda steps: [1e5 * math.prod(steps[:count]) for count in range(len(steps) + 1)]
)


def off(law: ScalingLaw, params: list[float], losses: list[float]) -> float:
    """Root mean square, in nats."""
    return math.sqrt(fmean((law.loss_at(n) - loss) ** 2 for n, loss in zip(params, losses, strict=True)))


def together(losses: Published) -> tuple[list[float], list[float]]:
    return [1e6 * n for name in NAMES for n in MILLIONS[name]], [loss for name in NAMES for loss in losses[name]]


def papers_fit(losses: Published, name: str) -> Fit:
    return fit([1e6 * n for n in MILLIONS[name]], losses[name])


@given(law=laws, params=sizes)
def test_a_law_is_recovered_from_exact_points(law: ScalingLaw, params: list[float]) -> None:
    found = fit(params, [law.loss_at(n) for n in params])
    assert found.rms < 1e-6
    assert found.points == len(params)
    assert found.law.loss_at(10 * params[-1]) == pytest.approx(law.loss_at(10 * params[-1]), abs=1e-4)
    if law.loss_at(params[0]) - law.loss_at(params[-1]) > 0.05:  # else nothing falls, and b means nothing
        assert found.law.b == pytest.approx(law.b, rel=0.01, abs=1e-3)
        assert found.law.c == pytest.approx(law.c, abs=0.02)


def test_the_papers_law_is_recovered_to_its_last_digit() -> None:
    params = [1e6 * n for n in MILLIONS["XL"]]
    found = fit(params, [PAPERS.loss_at(n) for n in params])
    assert [round(each, 3) for each in (found.law.a, found.law.b, found.law.c)] == [19.889, -0.130, 1.374]
    for each in found.without:
        assert (each.a, each.b, each.c) == pytest.approx((19.889, -0.130, 1.374), rel=1e-4)


@given(law=laws, params=sizes, seed=st.integers(0, 2**32 - 1))
def test_noise_moves_the_losses_of_a_law_by_no_more_than_the_noise(
    law: ScalingLaw, params: list[float], seed: int
) -> None:
    noise = 1e-3 * np.random.default_rng(seed).standard_normal(len(params))
    losses = [law.loss_at(n) + float(each) for n, each in zip(params, noise, strict=True)]
    found = fit(params, losses)
    scatter = math.sqrt(fmean(noise**2))
    assert found.rms <= scatter + 1e-9  # the law itself is that far off
    assert off(found.law, params, [law.loss_at(n) for n in params]) <= 2 * scatter + 1e-9


@given(
    params=sizes,
    losses=st.lists(st.floats(0.5, 12), min_size=8, max_size=8),
)
def test_no_law_on_a_fine_grid_is_closer_whatever_the_points(params: list[float], losses: list[float]) -> None:
    """For each b of the grid, the best a and c are a linear problem: brute force."""
    losses = losses[: len(params)]
    n = np.asarray(params)
    found = fit(params, losses)
    grid = [
        nnls(np.stack([(n / n[0]) ** b, np.ones_like(n)], axis=1), np.asarray(losses))[1]
        for b in -np.geomspace(1e-3, 8, 60)
    ]
    assert found.rms * math.sqrt(len(params)) <= min(grid) + 1e-4


def test_the_order_of_the_points_does_not_matter() -> None:
    params, losses = together(MATLM)
    order = np.random.default_rng(0).permutation(len(params))
    assert fit([params[i] for i in order], [losses[i] for i in order]) == fit(params, losses)


def test_the_papers_law_is_as_close_to_its_published_losses_as_one_can_be() -> None:
    """Its a, b and c are not the best ones, but 1e-3 nats from them: far apart, they are almost the same law."""
    params, losses = together(MATLM)
    found = fit(params, losses)
    assert found.rms == pytest.approx(0.0318, abs=5e-5)
    assert off(PAPERS, params, losses) == pytest.approx(0.0328, abs=5e-5)
    assert (found.law.a, found.law.b, found.law.c) == pytest.approx((24.3, -0.148, 1.58), rel=0.005)
    for n in params:
        assert found.law.loss_at(n) == pytest.approx(PAPERS.loss_at(n), abs=0.05)
    alone = fit(*together(BASELINE)).law
    assert (alone.a, alone.b, alone.c) == pytest.approx((23.9, -0.145, 1.50), rel=0.005)


@pytest.mark.parametrize("losses", [MATLM, BASELINE], ids=["matlm", "baseline"])
def test_a_law_for_each_granularity_is_closer_to_the_published_losses_than_one_for_all(
    losses: Published,
) -> None:
    whole = fit(*together(losses))
    assert whole.rms > 0.02
    for name in NAMES:
        found = papers_fit(losses, name)
        assert found.rms < 0.011
        low, high = found.spread(lambda law: law.b)
        assert -0.19 < low < found.law.b < high < -0.12


def test_two_laws_are_apart_as_the_published_models_are() -> None:
    """At each size, and over all: the gaps are a hundredth of the losses."""
    for name in NAMES:
        universal, alone = papers_fit(MATLM, name).law, papers_fit(BASELINE, name).law
        gaps = [universal.loss_at(1e6 * n) - alone.loss_at(1e6 * n) for n in MILLIONS[name]]
        published = [mine - other for mine, other in zip(MATLM[name], BASELINE[name], strict=True)]
        assert fmean(gaps) == pytest.approx(fmean(published), abs=1e-3)
        assert gaps == pytest.approx(published, abs=0.016)


def test_a_fit_says_what_it_would_be_without_each_size() -> None:
    params = [1e5, 1e5, 2e5, 4e5, 8e5, 16e5]
    losses = [PAPERS.loss_at(n) for n in params]
    spoilt = [losses[0], losses[1], losses[2], losses[3] + 0.1, losses[4], losses[5]]
    found = fit(params, spoilt)
    assert len(found.without) == 5
    assert off(found.without[2], params, losses) < 1e-5  # the fourth point, of the third size, left out
    assert found.rms > 0.02
    low, high = found.spread(lambda law: law.c)
    assert low < PAPERS.c + 1e-3 < high + 2e-3


def test_losses_that_do_not_fall_have_a_law_that_does_not_either() -> None:
    for losses in ([3.0, 3.0, 3.0, 3.0], [2.0, 2.5, 3.0, 3.5]):
        found = fit([1e5, 2e5, 4e5, 8e5], losses)
        assert found.law.loss_at(1e5) - found.law.loss_at(8e5) < 2e-3
        assert found.law.loss_at(2e5) == pytest.approx(fmean(losses), abs=2e-3)


@pytest.mark.parametrize(
    ("params", "losses", "said"),
    [
        ([1e5, 2e5, 4e5], [4, 3, 2], "at least 4 sizes; got 3"),
        ([1e5, 2e5, 4e5, 4e5, 4e5], [4, 3, 2, 2, 2], "at least 4 sizes; got 3"),
        ([], [], "at least 4 sizes; got 0"),
        ([1e5, 2e5, 4e5, 8e5], [4, 3, 2], "4 sizes and 3 losses"),
        ([1e5, 2e5, 4e5, 8e5], [4, 3, 2, math.nan], "got loss nan at size 800000.0"),
        ([1e5, 2e5, 4e5, 8e5], [4, 3, 2, 0], "got loss 0 at size"),
        ([0, 2e5, 4e5, 8e5], [4, 3, 2, 1], "got loss 4 at size 0"),
    ],
)
def test_points_that_no_law_can_be_fitted_to_are_refused(params: list[float], losses: list[float], said: str) -> None:
    with pytest.raises(LtsRayError, match=said) as refused:
        fit(params, losses)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("a", "b", "c"), [(0, -0.1, 1), (1, 0, 1), (1, 0.1, 1), (1, -0.1, -1), (math.inf, -0.1, 1)])
def test_what_does_not_fall_towards_a_floor_is_no_law(a: float, b: float, c: float) -> None:
    with pytest.raises(LtsRayError, match="a above 0, b below 0 and c of at least 0"):
        ScalingLaw(a=a, b=b, c=c)
    with pytest.raises(LtsRayError, match="at least one parameter; got 0"):
        PAPERS.loss_at(0)
