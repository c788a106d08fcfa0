"""A Gaussian process for a few hundred points: Matérn-5/2 with a length scale per feature, a linear term, noise.

In- and outputs are standardised. Hyperparameters are the most probable ones under weak log-normal priors, found by
L-BFGS with analytic gradients from fixed starting points: the same data always give the same fit. The priors are about
standardised data in general; among them, length scales grow with the root of the number of features (Hvarfner et al.
2024), which keeps a fit to few points in many dimensions from explaining them by one far too short scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from lts_ray.errors import LtsRayError

Array = NDArray[np.float64]

JITTER = 1e-8  # variance added to the diagonal, so that a Cholesky factor exists for repeated points
SCALE_BOUNDS = (math.log(0.03), math.log(1e4))  # logarithms, in units of standardised data
AMPLITUDE_BOUNDS = (math.log(1e-3), math.log(50.0))  # more signal would drown the jitter in rounding
NOISE_BOUNDS = (math.log(1e-4), math.log(2.0))
STARTS = ((1.0, 0.1), (0.3, 0.02))  # length scales as a multiple of the prior's median, and noise
TRIAL_ITERATIONS = 8  # from every start; the best goes on
ITERATIONS = 40


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """In units of standardised in- and outputs; all but the length scales are standard deviations."""

    length_scales: tuple[float, ...]
    """One a feature."""
    signal: float
    """Of the Matérn part."""
    linear: float
    """Of each feature's slope."""
    noise: float
    """Of an observation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianProcess:
    """A fitted process. inputs: [n, f] standardised; factor: [n, n], lower; weights: [n]."""

    hyperparameters: Hyperparameters
    inputs: Array
    factor: Array
    weights: Array
    input_mean: Array
    input_scale: Array
    output_mean: float
    output_scale: float

    def predict(self, x: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation of the function, without an observation's noise, at x [m, f]: [m] and [m]."""
        points = np.asarray(x, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.inputs.shape[1]:
            raise LtsRayError(f"the process was fitted on {self.inputs.shape[1]} features; got shape {points.shape}")
        points = (points - self.input_mean) / self.input_scale
        theta = self.hyperparameters
        across = _covariance(points, self.inputs, theta)  # [m, n]
        solved = solve_triangular(self.factor, across.T, lower=True)  # [n, m]
        prior = theta.signal**2 + theta.linear**2 * (points**2).sum(axis=1)
        variance = np.maximum(prior - (solved**2).sum(axis=0), 0.0)
        mean = self.output_mean + self.output_scale * (across @ self.weights)
        return mean, self.output_scale * np.sqrt(variance)

    @property
    def noise(self) -> float:
        """The standard deviation of one observation's noise, in units of the outputs."""
        return self.hyperparameters.noise * self.output_scale


def fit_process(x: ArrayLike, y: ArrayLike) -> GaussianProcess:
    """The process for y [n] observed at x [n, f]. Raises LtsRayError for other shapes and for values not finite."""
    inputs, outputs, standard = _standardised(x, y)
    features = inputs.shape[1]
    first = [_improve(_start(features, *start), inputs, outputs, iterations=TRIAL_ITERATIONS) for start in STARTS]
    best, _ = _improve(min(first, key=lambda each: each[1])[0], inputs, outputs, iterations=ITERATIONS)
    return _condition(inputs, outputs, standard, _unpack(best))


def condition(x: ArrayLike, y: ArrayLike, hyperparameters: Hyperparameters) -> GaussianProcess:
    """As `fit_process`, with hyperparameters that are known already."""
    inputs, outputs, standard = _standardised(x, y)
    if len(hyperparameters.length_scales) != inputs.shape[1]:
        raise LtsRayError(f"{len(hyperparameters.length_scales)} length scales for {inputs.shape[1]} features")
    return _condition(inputs, outputs, standard, hyperparameters)


_Standard = tuple[Array, Array, float, float]


def _standardised(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array, _Standard]:
    inputs, outputs = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if inputs.ndim != 2 or outputs.shape != inputs.shape[:1] or not inputs.size:
        raise LtsRayError(f"a Gaussian process needs x [n, f] and y [n]; got {inputs.shape} and {outputs.shape}")
    if not np.isfinite(inputs).all() or not np.isfinite(outputs).all():
        raise LtsRayError("a Gaussian process needs finite numbers; x or y holds one that is not")
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scale = np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)  # a feature that does not vary stays 0
    output_mean, output_scale = float(outputs.mean()), float(outputs.std())
    output_scale = output_scale if output_scale > 1e-12 * abs(output_mean) else 1.0
    return (inputs - mean) / scale, (outputs - output_mean) / output_scale, (mean, scale, output_mean, output_scale)


def _condition(inputs: Array, outputs: Array, standard: _Standard, theta: Hyperparameters) -> GaussianProcess:
    covariance = _covariance(inputs, inputs, theta)
    covariance[np.diag_indices_from(covariance)] += theta.noise**2 + JITTER
    factor: Array = cholesky(covariance, lower=True)
    mean, scale, output_mean, output_scale = standard
    return GaussianProcess(
        hyperparameters=theta,
        inputs=inputs,
        factor=factor,
        weights=cho_solve((factor, True), outputs),
        input_mean=mean,
        input_scale=scale,
        output_mean=output_mean,
        output_scale=output_scale,
    )


def _covariance(first: Array, second: Array, theta: Hyperparameters) -> Array:
    """[m, n] for points [m, f] and [n, f]."""
    scales = np.asarray(theta.length_scales)
    matern, _ = _matern(_squared_distances(first / scales, second / scales))
    return theta.signal**2 * matern + theta.linear**2 * (first @ second.T)


def _squared_distances(first: Array, second: Array) -> Array:
    squares: Array = first @ (-2 * second.T)
    squares += (first**2).sum(axis=1)[:, None]
    squares += (second**2).sum(axis=1)
    return np.maximum(squares, 0.0, out=squares)  # rounding may leave a point a negative distance from itself


def _matern(squared: Array) -> tuple[Array, Array]:
    """Matérn-5/2 of squared distances, and its derivative with respect to them."""
    root: Array = 5 * squared
    np.sqrt(root, out=root)
    decay: Array = np.exp(-root)
    root += 1
    root *= decay  # in place: at hundreds of points, fresh memory costs more than the arithmetic
    decay *= squared
    decay *= 5 / 3
    decay += root
    root *= -5 / 6
    return decay, root


def _unpack(logs: Array) -> Hyperparameters:
    values = np.exp(logs).tolist()
    return Hyperparameters(length_scales=tuple(values[:-3]), signal=values[-3], linear=values[-2], noise=values[-1])


def _prior(features: int) -> tuple[Array, Array]:
    """Means and standard deviations of the logarithms: length scales, signal, linear, noise."""
    means = [math.log(2.0) + math.log(features) / 2] * features + [0.0, -math.log(features) / 2, math.log(0.05)]
    return np.array(means), np.array([1.0] * features + [1.0, 1.0, 2.0])


def _start(features: int, scale: float, noise: float) -> Array:
    logs, _ = _prior(features)
    logs[:features] += math.log(scale)
    logs[-1] = math.log(noise)
    return logs


def _improve(logs: Array, inputs: Array, outputs: Array, *, iterations: int) -> tuple[Array, float]:
    """Better logarithms than these, and their loss."""
    features = inputs.shape[1]
    found = minimize(
        _loss,
        logs,
        args=(inputs, outputs),
        jac=True,
        method="L-BFGS-B",
        bounds=[SCALE_BOUNDS] * features + [AMPLITUDE_BOUNDS] * 2 + [NOISE_BOUNDS],
        options={"maxiter": iterations, "ftol": 1e-7},
    )
    return found.x, float(found.fun)


def _loss(logs: Array, inputs: Array, outputs: Array) -> tuple[float, Array]:
    """Minus the log posterior density of the hyperparameters' logarithms, up to a constant, and its gradient.

    With A = K⁻¹ - wwᵀ, the derivative along dK is ½ Σᵢⱼ Aᵢⱼ dKᵢⱼ. As dK is symmetric, so that A need not be, K⁻¹ stays
    the triangle that LAPACK gives, off the diagonal doubled. A length scale's part, Σᵢⱼ Wᵢⱼ (xᵢ - xⱼ)², is
    Σᵢ (W1 + Wᵀ1)ᵢ xᵢ² - 2 xᵀWx: products of matrices for all features at once, and nothing of size n·n·f.
    """
    n, features = inputs.shape
    theta = _unpack(logs)
    scaled = inputs / np.asarray(theta.length_scales)
    matern, slope = _matern(_squared_distances(scaled, scaled))
    matern *= theta.signal**2
    linear = (theta.linear**2 * inputs) @ inputs.T
    covariance = matern + linear
    covariance.flat[:: n + 1] += theta.noise**2 + JITTER
    factor = cholesky(covariance.T, lower=True, check_finite=False, overwrite_a=True)  # .T: in LAPACK's order already
    weights = cho_solve((factor, True), outputs, check_finite=False)
    loss = 0.5 * float(outputs @ weights) + float(np.log(np.diag(factor)).sum())
    triangle, _ = dpotri(factor, lower=1, overwrite_c=True)  # zeros above the diagonal, as in the factor
    pull = triangle.T  # it lies in memory as the other matrices do
    pull *= 2
    pull.flat[:: n + 1] /= 2
    pull -= np.outer(weights, weights)
    gradient = np.empty_like(logs)
    gradient[-3] = np.vdot(pull, matern)
    gradient[-2] = np.vdot(pull, linear)
    gradient[-1] = theta.noise**2 * np.trace(pull)
    pull *= slope
    squares = (pull.sum(axis=1) + pull.sum(axis=0)) @ scaled**2 - 2 * (scaled * (pull @ scaled)).sum(axis=0)
    gradient[:features] = -(theta.signal**2) * squares  # a squared distance falls by 2 d log(scale) of its part
    means, deviations = _prior(features)
    away = (logs - means) / deviations
    return loss + 0.5 * float(away @ away), gradient + away / deviations
