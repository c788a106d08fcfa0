from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from lts_ray.errors import LtsRayError
from lts_ray.proxies.gaussian_process import JITTER, Hyperparameters, _loss, _prior, condition, fit_process


def matern(distance: float) -> float:
    return (1 + math.sqrt(5) * distance + 5 / 3 * distance**2) * math.exp(-math.sqrt(5) * distance)


def smooth(x: np.ndarray) -> np.ndarray:
    return np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 3


def test_one_point_gives_its_value_there_and_the_prior_far_away() -> None:
    theta = Hyperparameters(length_scales=(1.0,), signal=2.0, linear=0.0, noise=1.0)
    mean, sd = condition([[4.0]], [7.0], theta).predict([[4.0], [5.0], [100.0]])
    assert mean == pytest.approx(7.0)
    assert sd[0] == pytest.approx(math.sqrt(4 - 4**2 / (4 + 1)))
    assert sd[1] == pytest.approx(math.sqrt(4 - (4 * matern(1.0)) ** 2 / (4 + 1)))
    assert sd[2] == pytest.approx(2.0)


def test_two_points_give_the_posterior_that_a_matrix_by_hand_gives() -> None:
    """Points -1 and 1, values -3 and 3, standardise to -1, 1 and -1, 1 with scales 1 and 3."""
    theta = Hyperparameters(length_scales=(2.0,), signal=1.5, linear=0.7, noise=0.3)
    mean, sd = condition([[-1.0], [1.0]], [-3.0, 3.0], theta).predict([[0.5]])
    near, far, apart = 1.5**2 * matern(0.25), 1.5**2 * matern(0.75), 1.5**2 * matern(1.0)
    across = np.array([far - 0.49 * 0.5, near + 0.49 * 0.5])
    own = 1.5**2 + 0.49 + 0.09
    covariance = np.array([[own, apart - 0.49], [apart - 0.49, own]])
    assert mean[0] == pytest.approx(3 * across @ np.linalg.solve(covariance, [-1.0, 1.0]), rel=1e-6)
    variance = 1.5**2 + 0.49 * 0.25 - across @ np.linalg.solve(covariance, across)
    assert sd[0] == pytest.approx(3 * math.sqrt(variance), rel=1e-6)


def test_without_noise_it_goes_through_every_point() -> None:
    x = np.random.default_rng(0).normal(size=(12, 2))
    theta = Hyperparameters(length_scales=(1.0, 1.0), signal=1.0, linear=0.5, noise=0.0)
    mean, sd = condition(x, smooth(x), theta).predict(x)
    assert mean == pytest.approx(smooth(x), abs=1e-5)
    assert sd.max() < 1e-3


def test_the_loss_is_the_density_of_the_outputs_times_the_priors() -> None:
    rng = np.random.default_rng(1)
    x, y, logs = rng.normal(size=(6, 2)), rng.normal(size=6), rng.normal(size=5) / 2
    *scales, signal, linear, noise = np.exp(logs)
    distances = np.sqrt((((x[:, None] - x[None]) / scales) ** 2).sum(axis=2))
    covariance = signal**2 * np.vectorize(matern)(distances) + linear**2 * x @ x.T
    covariance += (noise**2 + JITTER) * np.eye(6)
    density = multivariate_normal(np.zeros(6), covariance).logpdf(y) + 3 * math.log(2 * math.pi)
    means, deviations = _prior(2)
    loss, _ = _loss(logs, x, y)
    assert loss == pytest.approx(-density + 0.5 * (((logs - means) / deviations) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, logs = rng.normal(size=(9, 3)), rng.normal(size=9), rng.normal(size=6) / 2
    _, gradient = _loss(logs, x, y)
    expected = approx_fprime(logs, lambda each: _loss(each, x, y)[0], 1e-6)
    assert gradient == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_fit_predicts_a_smooth_function_between_its_points_and_knows_where_it_does_not() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, size=(40, 2))
    process = fit_process(x, smooth(x) + 0.01 * rng.normal(size=40))
    inside = rng.uniform(-0.9, 0.9, size=(50, 2))
    mean, sd = process.predict(inside)
    assert np.abs(mean - smooth(inside)).max() < 0.05
    assert process.noise == pytest.approx(0.01, rel=0.5)
    assert process.predict([[8.0, 8.0]])[1][0] > 10 * sd.max()


def test_units_of_in_and_outputs_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, size=(15, 2))
    mean, sd = fit_process(x, smooth(x)).predict(x + 0.1)
    other_mean, other_sd = fit_process(x * 1000 + 5, smooth(x) * 1e-3 - 2).predict((x + 0.1) * 1000 + 5)
    assert (other_mean + 2) * 1e3 == pytest.approx(mean, rel=1e-3)
    assert other_sd * 1e3 == pytest.approx(sd, rel=1e-2, abs=1e-4)


def test_a_feature_that_does_not_matter_gets_a_longer_scale() -> None:
    x = np.random.default_rng(4).uniform(-1, 1, size=(40, 2))
    short, long = fit_process(x, np.sin(3 * x[:, 0])).hyperparameters.length_scales
    assert long > 3 * short


def test_repeated_points_constant_features_and_constant_outputs_do_no_harm() -> None:
    mean, sd = fit_process([[1.0, 2.0]] * 5, [3.0] * 5).predict([[1.0, 2.0]])
    assert mean[0] == pytest.approx(3.0)
    assert np.isfinite(sd).all()


def test_wrong_shapes_and_numbers_that_are_not_finite_are_refused() -> None:
    for x, y in (([1.0, 2.0], [1.0, 2.0]), ([[1.0]], [1.0, 2.0]), ([[1.0]], [math.nan]), ([[math.inf]], [1.0])):
        with pytest.raises(LtsRayError, match="Gaussian process needs"):
            fit_process(x, y)
    with pytest.raises(LtsRayError, match="fitted on 1 features"):
        fit_process([[1.0], [2.0]], [1.0, 2.0]).predict([[1.0, 2.0]])
    with pytest.raises(LtsRayError, match="2 length scales for 1 features"):
        condition([[1.0]], [1.0], Hyperparameters(length_scales=(1.0, 1.0), signal=1, linear=1, noise=1))
