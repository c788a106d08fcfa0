"""An evaluator without hardware, for tests: a submodel always costs the same; wider ones cost more and lose less."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Failed, Measurement
from lts_ray.measurement.outcome import Evaluation
from lts_ray.measurement.steps import Regime
from lts_ray.precision import WEIGHT_BYTES
from lts_ray.submodel import Submodel

LOST = {"float32": 0.0, "bfloat16": 0.001, "int8": 0.003, "int4": 0.1}
"""Nats, by precision."""


class FakeEvaluator:
    """Neurons of later layers are worth more and cost the same, so that a front has more than the uniform widths.

    Fewer bits cost less and lose more.

    failing: submodels that fail. calls: what was evaluated, in order.
    """

    def __init__(self, targets: tuple[str, ...] = ("fake",), failing: AbstractSet[Submodel] = frozenset()) -> None:
        self.targets, self.failing = targets, failing
        self.calls: list[Submodel] = []

    def evaluate(self, submodel: Submodel) -> Evaluation | Failed:
        self.calls.append(submodel)
        if submodel in self.failing:
            return Failed(reason="told to fail")
        neurons = sum(submodel.widths)
        precision = submodel.precision or "float32"
        size, lost = WEIGHT_BYTES[precision] / 4, LOST[precision]
        worth = sum(width**0.5 * (1 + layer / 10) for layer, width in enumerate(submodel.widths))
        return Evaluation(
            loss=6 / (1 + 0.05 * worth) + lost,
            measurements={
                target: Measurement(
                    prefill=latency_of("prefill", slowness * (1 + neurons / 50)),
                    decode=latency_of("decode", slowness * size * (0.5 + neurons / 400)),
                    peak_memory_bytes=1_000_000 + round(size * 3072 * neurons),
                )
                for slowness, target in enumerate(self.targets, start=1)
            },
        )


def latency_of(regime: Regime, milliseconds: float) -> Latency:
    return Latency(regime=regime, threads=1, blocks=(TimedBlock(times_ms=(milliseconds,)),))
