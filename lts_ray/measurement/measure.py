"""What a submodel costs on one target, measured on this machine: latency of both regimes and peak memory.

The result is a value either way: a `Measurement`, or `Failed` with the reason. A failure never becomes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Cost
from lts_ray.measurement.latency import Latency, Regime, decode_latency, prefill_latency
from lts_ray.measurement.memory import peak_memory_bytes
from lts_ray.measurement.target import Target
from lts_ray.models.matformer import MatFormer


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no result."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    prefill: Latency
    decode: Latency
    peak_memory_bytes: int

    @property
    def cost(self) -> Cost:
        return Cost(
            prefill_ms=self.prefill.median_ms,
            decode_ms=self.decode.median_ms,
            peak_memory_mb=self.peak_memory_bytes / 1e6,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "prefill": _latency_to_json(self.prefill),
            "decode": _latency_to_json(self.decode),
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        try:
            return cls(
                prefill=_latency_from_json("prefill", value["prefill"]),
                decode=_latency_from_json("decode", value["decode"]),
                peak_memory_bytes=int(value["peak_memory_bytes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LtsRayError(f"a measurement is not usable: {error!r}") from None


def measure(model: MatFormer, submodel: Submodel, target: Target, *, seconds: float = 2.0) -> Measurement:
    """Measure one submodel in this process. model: on the target's device and in its dtype, as `prepare` makes it.

    seconds: about how long to time for, both regimes together; a slow step is still run ten times.
    """
    model.config.check(submodel)
    return Measurement(
        prefill=prefill_latency(model, submodel, target, seconds=seconds / 2),
        decode=decode_latency(model, submodel, target, seconds=seconds / 2),
        peak_memory_bytes=peak_memory_bytes(model, submodel, target),
    )


def measure_submodels(model: MatFormer, submodels: Iterable[Submodel], target: Target) -> list[Measurement]:
    """Measure several submodels, in their order, on this machine as `target` says; its selector is not looked at."""
    ready = prepare(model, target)
    return [measure(ready, submodel, target) for submodel in submodels]


def prepare(model: MatFormer, target: Target) -> MatFormer:
    """`model` in eval mode, on the target's device and in its dtype; moved in place where it differs."""
    if target.device == "cuda" and not torch.cuda.is_available():
        raise LtsRayError(f"target {target.name!r} wants CUDA, but this node has no usable GPU")
    return model.eval().to(device=target.device, dtype=getattr(torch, target.dtype))


def _latency_to_json(latency: Latency) -> dict[str, Any]:
    return {
        "median_ms": round(latency.median_ms, 4),
        "iqr_ms": round(latency.iqr_ms, 4),
        "threads": latency.threads,
        "times_ms": list(latency.times_ms),
    }


def _latency_from_json(regime: Regime, value: Mapping[str, Any]) -> Latency:
    return Latency(
        regime=regime, threads=int(value["threads"]), times_ms=tuple(float(each) for each in value["times_ms"])
    )
