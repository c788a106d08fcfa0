"""What one step costs on a target, as a function of the work in it, as a search measures it with the plain model.

The endpoint's engine runs other kernels and measures its own steps when it starts: see lts_ray.runtime.step_costs.

Two linear models with non-negative coefficients, fitted to a few measured steps by least squares of the relative
error. FFN widths enter as their sum over the layers (`neurons`): all layers of a universal model share one d_model,
so a neuron costs the same wherever it is.

- prefill of one sequence: fixed + neurons (weights read) + tokens + tokens·neurons (arithmetic) + tokens² (attention);
- one decode step: fixed + neurons of the widest row (weights read once) + per row: 1, its neurons, its context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from lts_ray.errors import LtsRayError

N_TERMS = 5


@dataclass(frozen=True, kw_only=True)
class PrefillSample:
    """One measured prefill of `tokens` tokens of one sequence."""

    tokens: int
    neurons: int
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class DecodeSample:
    """One measured decode step of len(neurons) rows, which hold `context_tokens` tokens in all."""

    neurons: tuple[int, ...]
    context_tokens: int
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class StepCostModel:
    """Predicted step times in milliseconds.

    prefill, decode: coefficients of the terms above, in their order. relative_error: the fit's median relative error
    on the steps it was fitted to.
    """

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    relative_error: float

    def __post_init__(self) -> None:
        for name in ("prefill", "decode"):
            values = getattr(self, name)
            if len(values) != N_TERMS or any(not np.isfinite(value) or value < 0 for value in values):
                raise LtsRayError(
                    f"a cost model's {name} needs {N_TERMS} finite non-negative numbers; got {list(values)}"
                )

    def prefill_ms(self, *, tokens: int, neurons: int) -> float:
        return _dot(self.prefill, _prefill_terms(tokens, neurons))

    def decode_ms(self, *, neurons: Sequence[int], context_tokens: int) -> float:
        """One step of one token for each row. neurons: per row; an empty step costs nothing."""
        return _dot(self.decode, _decode_terms(neurons, context_tokens)) if neurons else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "prefill": list(self.prefill),
            "decode": list(self.decode),
            "relative_error": self.relative_error,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepCostModel:
        try:
            return cls(
                prefill=tuple(float(each) for each in value["prefill"]),
                decode=tuple(float(each) for each in value["decode"]),
                relative_error=float(value["relative_error"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LtsRayError(f"a cost model is not usable: {error!r}") from None


def fit(prefills: Sequence[PrefillSample], decodes: Sequence[DecodeSample]) -> StepCostModel:
    """Fit both models. Raises LtsRayError without samples of both kinds."""
    if not prefills or not decodes:
        raise LtsRayError("a cost model needs measured prefills and measured decode steps")
    prefill = _fit(
        [_prefill_terms(each.tokens, each.neurons) for each in prefills], [each.latency_ms for each in prefills]
    )
    decode = _fit(
        [_decode_terms(each.neurons, each.context_tokens) for each in decodes], [each.latency_ms for each in decodes]
    )
    model = StepCostModel(prefill=prefill, decode=decode, relative_error=0.0)
    errors = [
        abs(model.prefill_ms(tokens=each.tokens, neurons=each.neurons) / each.latency_ms - 1) for each in prefills
    ] + [
        abs(model.decode_ms(neurons=each.neurons, context_tokens=each.context_tokens) / each.latency_ms - 1)
        for each in decodes
    ]
    return StepCostModel(prefill=prefill, decode=decode, relative_error=median(errors))


def _prefill_terms(tokens: int, neurons: int) -> tuple[float, ...]:
    return (1.0, float(neurons), float(tokens), float(tokens * neurons), float(tokens * tokens))


def _decode_terms(neurons: Sequence[int], context_tokens: int) -> tuple[float, ...]:
    return (1.0, float(max(neurons)), float(len(neurons)), float(sum(neurons)), float(context_tokens))


def _dot(coefficients: Sequence[float], terms: Sequence[float]) -> float:
    return sum(coefficient * term for coefficient, term in zip(coefficients, terms, strict=True))


def _fit(terms: Sequence[Sequence[float]], latencies_ms: Sequence[float]) -> tuple[float, ...]:
    design: NDArray[np.float64] = np.asarray(terms, dtype=np.float64)
    observed = np.asarray(latencies_ms, dtype=np.float64)
    weighted = design / observed[:, None]  # each row's error is relative to what was measured
    scale = np.maximum(weighted.max(axis=0), 1e-300)  # columns differ by nine orders of magnitude
    solution, _ = nnls(weighted / scale, np.ones_like(observed))
    return tuple(float(value) for value in solution / scale)
