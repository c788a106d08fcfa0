"""Numbers that a run gives its granularities, loss weights or probabilities: a mapping, or a preset by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lts_ray.errors import LtsRayError

Weighting = Mapping[str, float] | str
"""By granularity, relative; or the name of a preset."""

EQUAL = "equal"
UNIFORM = "uniform"
"""The presets that fit any granularities: the same number for each."""

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "large-first": {"XL": 2.0, "L": 1.5, "M": 1.2, "S": 1.0},
    "large-first-scaling": {"XL": 2.0, "L": 1.5, "M": 1.25, "S": 1.0},
    "small-first": {"XL": 1.0, "L": 1.2, "M": 1.5, "S": 2.0},
    "xl-double": {"XL": 2.0, "L": 1.0, "M": 1.0, "S": 1.0},
    "square-root": {"XL": 8**0.5, "L": 2.0, "M": 2**0.5, "S": 1.0},
}
"""The λ of MatFormer's re-weightings (table 5; `large-first-scaling` is that of appendix D.5), beside `equal`."""

PROBABILITIES: Mapping[str, Mapping[str, float]] = {
    "large-often": {"S": 0.17, "M": 0.20, "L": 0.22, "XL": 0.41},
}
"""Of sampling one granularity a step (MatFormer's NeurIPS version), beside `uniform`."""


def loss_weights(given: Weighting, granularities: Collection[str]) -> dict[str, float]:
    """The λ of each of the model's granularities, in their order and summing to 1: the paper's is a weighted average.

    A granularity that a mapping leaves out has none. Raises LtsRayError for unknown names and unusable numbers.
    """
    return _resolved(given, granularities, presets=WEIGHTS, same=EQUAL, what="weights")


def draw_probabilities(given: Weighting, granularities: Collection[str]) -> dict[str, float]:
    """As `loss_weights`: how likely a step is each granularity's."""
    return _resolved(given, granularities, presets=PROBABILITIES, same=UNIFORM, what="probabilities")


def _resolved(
    given: Weighting,
    granularities: Collection[str],
    *,
    presets: Mapping[str, Mapping[str, float]],
    same: str,
    what: str,
) -> dict[str, float]:
    if given == same:
        return {name: 1 / len(granularities) for name in granularities}
    if isinstance(given, str):
        if given not in presets:
            raise LtsRayError(
                f"training.{what} has no preset {given!r}; use one of {', '.join((same, *presets))}, "
                f"or a number for each granularity"
            )
        given = presets[given]
    if not isinstance(given, Mapping):
        raise LtsRayError(f"training.{what} must be a number for each granularity, or a preset's name; got {given!r}")
    unknown = [str(name) for name in given if name not in granularities]
    if unknown:
        raise LtsRayError(
            f"training.{what} has unknown granularities {', '.join(unknown)}; the model has {', '.join(granularities)}"
        )
    return normalized({name: given[name] for name in granularities if name in given}, what=what)


def normalized(given: Mapping[str, float], *, what: str = "weights") -> dict[str, float]:
    """Scaled to sum to 1; those of zero are left out."""
    values = given.values()
    if not all(isinstance(value, int | float) and 0 <= value < float("inf") for value in values) or not sum(values) > 0:
        raise LtsRayError(f"training.{what} must be non-negative numbers, not all zero; got {dict(given)}")
    return {name: value / sum(values) for name, value in given.items() if value > 0}
