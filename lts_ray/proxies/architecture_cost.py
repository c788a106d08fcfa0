"""What any architecture of a space costs on one target, learned from a few dozen measured ones.

Two parts a cost. The law: a sum over layers of terms that a layer's work and weights consist of, and of terms of what
surrounds the layers, with non-negative coefficients by least squares of the relative error. So it holds for layers that
differ and for more of them than were measured. The remainder: a Gaussian process over the logarithm of what the law
leaves, for what is no sum, such as weights that stay in a processor's cache or shapes that kernels like less.
A sample that contradicts all others is left out: a few measurements of a disturbed node do not bend a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, get_args

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from lts_ray.architecture import Architecture
from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.proxies.architecture_terms import Array, features_of, terms_of
from lts_ray.proxies.gaussian_process import GaussianProcess, Hyperparameters, condition, fit_process
from lts_ray.spaces.backbone_space import BackboneSpace

CostName = Literal["prefill_ms", "decode_ms", "peak_memory_mb"]
COST_NAMES: tuple[CostName, ...] = get_args(CostName)
Sample = tuple[Architecture, Cost]

FEWEST = 12
"""Samples that the coefficients are told apart with."""
OUTLYING = 4.0
"""Standard deviations from what all other samples say, from which on a sample is taken to be a failed measurement."""
SPREAD = 1.4826
"""A normal distribution's standard deviation over its median absolute value."""
ROUNDS = 4
"""Of finding outliers: a gross one hides the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Of n architectures, in their order."""

    mean: Array
    """What would be measured, [n]."""
    relative_deviation: Array
    """Its relative standard deviation, [n]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    prefill_ms: Prediction
    decode_ms: Prediction
    peak_memory_mb: Prediction

    def costs(self) -> list[Cost]:
        """The means, architecture by architecture."""
        columns = [getattr(self, name).mean.tolist() for name in COST_NAMES]
        return [Cost(**dict(zip(COST_NAMES, values, strict=True))) for values in zip(*columns, strict=True)]


@dataclass(frozen=True, kw_only=True)
class RelativeError:
    """Of samples that were left out of the fit one by one."""

    mean: float
    median: float
    largest: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """One fitted cost."""

    coefficients: tuple[float, ...]
    """Of this cost's terms, in their order."""
    remainder: GaussianProcess
    values: Array
    """The samples', without outliers."""

    def predict(self, terms: Array, features: Array) -> Prediction:
        """terms: [n, terms]; features: [n, features]."""
        logs, deviations = self.remainder.predict(features)
        return Prediction(
            mean=terms @ np.array(self.coefficients) * np.exp(logs),
            relative_deviation=np.hypot(deviations, self.remainder.noise),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ArchitectureCost:
    """All three costs, fitted to `samples`."""

    space: BackboneSpace
    samples: tuple[Sample, ...]
    laws: Mapping[CostName, Law]
    relative_error: Mapping[CostName, RelativeError]

    def predict(self, architectures: Sequence[Architecture]) -> Predictions:
        return Predictions(**{name: predict(name, law, architectures, self.space) for name, law in self.laws.items()})


def fit_costs(samples: Sequence[Sample], space: BackboneSpace) -> ArchitectureCost:
    """samples: measured architectures, of layers that are alike or not.

    Raises LtsRayError for too few of them, and for encoders, which have no decode step: `learn` takes each cost alone.
    """
    check_has_steps(space)
    architectures = [architecture for architecture, _ in samples]
    laws, errors = {}, {}
    for name in COST_NAMES:
        measured = [getattr(cost, name) for _, cost in samples]
        laws[name] = learn(name, architectures, measured, space)
        errors[name] = _left_out(_Table.of(name, architectures, measured, space), laws[name])
    return ArchitectureCost(space=space, samples=tuple(samples), laws=laws, relative_error=errors)


def check_has_steps(space: BackboneSpace) -> None:
    """Raises LtsRayError for a space of encoders."""
    if not space.can_decode:
        raise LtsRayError(
            f"a model of all three costs needs decode steps, which encoders such as those of the space {space.name} "
            f"have not"
        )


def learn(
    name: CostName, architectures: Sequence[Architecture], measured: Sequence[float], space: BackboneSpace
) -> Law:
    """One cost alone. measured: in the unit of its name, positive. Raises LtsRayError for too few."""
    if len(architectures) < FEWEST:
        raise LtsRayError(f"a cost model needs at least {FEWEST} measured architectures; got {len(architectures)}")
    table = _Table.of(name, architectures, measured, space)
    law = table.fit()
    for _ in range(ROUNDS):
        values = _without_outliers(table.values, law)
        if np.array_equal(values, law.values):
            break
        law = replace(table, values=values).fit()
    return law


def predict(name: CostName, law: Law, architectures: Sequence[Architecture], space: BackboneSpace) -> Prediction:
    """What `learn` learned of the same cost and space, for any architectures."""
    if not architectures:
        return Prediction(mean=np.empty(0), relative_deviation=np.empty(0))
    return law.predict(terms_of(name, space, architectures), features_of(name, space, architectures))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """The samples of one cost as arrays. terms: [n, terms]; features: [n, features]; values: [n]."""

    terms: Array
    features: Array
    values: Array

    @classmethod
    def of(
        cls, name: CostName, architectures: Sequence[Architecture], values: Sequence[float], space: BackboneSpace
    ) -> _Table:
        return cls(
            terms=terms_of(name, space, architectures),
            features=features_of(name, space, architectures),
            values=np.array(values, dtype=np.float64),
        )

    def without(self, index: int) -> _Table:
        rest = np.arange(len(self.values)) != index
        return replace(self, terms=self.terms[rest], features=self.features[rest], values=self.values[rest])

    def fit(self) -> Law:
        coefficients = self.coefficients()
        return self.law(coefficients, fit_process(self.features, self.remainder(coefficients)).hyperparameters)

    def coefficients(self) -> tuple[float, ...]:
        """Non-negative, so that more work never costs less; each row's error is relative to what was measured."""
        weighted = self.terms / self.values[:, None]
        scale = np.maximum(weighted.max(axis=0), 1e-300)  # columns differ by many orders of magnitude
        solution, _ = nnls(weighted / scale, np.ones_like(self.values))
        return tuple(map(float, solution / scale))

    def remainder(self, coefficients: tuple[float, ...]) -> Array:
        left: Array = np.log(self.values / (self.terms @ np.array(coefficients)))
        return left

    def law(self, coefficients: tuple[float, ...], hyperparameters: Hyperparameters) -> Law:
        process = condition(self.features, self.remainder(coefficients), hyperparameters)
        return Law(coefficients=coefficients, remainder=process, values=self.values)


def _without_outliers(measured: Array, law: Law) -> Array:
    """The measured values; outliers replaced by what all others say, so that they have no say themselves.

    In a process with covariance K of observations y, an observation is (K⁻¹y)ᵢ / (K⁻¹)ᵢᵢ away from what the others say
    of it, and that has the variance 1 / (K⁻¹)ᵢᵢ.
    """
    process = law.remainder
    inverse_root = solve_triangular(process.factor, np.eye(len(measured)), lower=True)
    precision = (inverse_root**2).sum(axis=0)
    expected = np.log(law.values) - process.output_scale * process.weights / precision
    deviations = process.output_scale / np.sqrt(precision)
    away = (np.log(measured) - expected) / deviations
    limit = OUTLYING * SPREAD * float(np.median(np.abs(away)))
    kept: Array = np.where(np.abs(away) > limit, np.exp(expected), measured)
    return kept


def _left_out(table: _Table, law: Law) -> RelativeError:
    """Coefficients and remainder are learned anew without each sample in turn; only the hyperparameters know it."""
    kept = replace(table, values=law.values)
    errors = []
    for index, value in enumerate(table.values):
        rest = kept.without(index)
        known = rest.law(rest.coefficients(), law.remainder.hyperparameters)
        predicted = known.predict(table.terms[index : index + 1], table.features[index : index + 1])
        errors.append(abs(float(predicted.mean[0]) / float(value) - 1))
    return RelativeError(mean=fmean(errors), median=float(np.median(errors)), largest=max(errors))
