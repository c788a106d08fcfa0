"""What a candidate costs on one target, measured on this machine: latency of both regimes and peak memory.

The result is a value either way: a `Measurement`, or `Failed` with the reason. A failure never becomes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lts_ray.cost import Cost
from lts_ray.device import within_gpu_memory
from lts_ray.errors import LtsRayError
from lts_ray.measurement.latency import Latency
from lts_ray.measurement.peak_memory import peak_memory_bytes
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.steps import Regime
from lts_ray.measurement.subjects.encoder_subject import has_steps
from lts_ray.measurement.subjects.subject import RanIn, Subject
from lts_ray.measurement.subjects.submodel_subject import UniversalSubjects
from lts_ray.models.universal_model import UniversalModel
from lts_ray.quantisation.quantised_weights import QuantisedWeights
from lts_ray.submodel import Submodel
from lts_ray.target import Target


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no result."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    prefill: Latency
    decode: Latency | None
    """None of an encoder, which has no decode step."""
    peak_memory_bytes: int
    ran_in: RanIn = "torch"
    """What ran the steps."""

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """Those there are."""
        return (self.prefill,) if self.decode is None else (self.prefill, self.decode)

    @property
    def unsteady(self) -> tuple[Regime, ...]:
        """Of the latencies, those to distrust."""
        return tuple(latency.regime for latency in self.latencies if latency.is_unsteady)

    @property
    def is_unsteady(self) -> bool:
        return bool(self.unsteady)

    @property
    def cost(self) -> Cost:
        return Cost(
            prefill_ms=self.prefill.value_ms,
            decode_ms=None if self.decode is None else self.decode.value_ms,
            peak_memory_mb=self.peak_memory_bytes / 1e6,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "prefill": self.prefill.to_json(),
            "decode": None if self.decode is None else self.decode.to_json(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "ran_in": self.ran_in,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        try:
            return cls(
                prefill=Latency.from_json("prefill", value["prefill"]),
                decode=None if value["decode"] is None else Latency.from_json("decode", value["decode"]),
                peak_memory_bytes=int(value["peak_memory_bytes"]),
                ran_in="kernels" if value.get("ran_in") == "kernels" else "torch",  # older logs are all of torch
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LtsRayError(f"a measurement is not usable: {error!r}") from None


def measure(subject: Subject, reference: Reference, *, seconds: float = 2.0) -> Measurement:
    """Measure one candidate in this process, on the reference's target.

    seconds: about how long to time for, both regimes together; a slow step is still run twelve times, and up to twice
    as often while the node is slow.
    """
    return Measurement(
        prefill=reference.latency("prefill", subject, seconds=seconds / 2),
        decode=reference.latency("decode", subject, seconds=seconds / 2) if has_steps(subject) else None,
        peak_memory_bytes=peak_memory_bytes(subject, reference.target),
        ran_in=subject.ran_in,
    )


def measure_submodels(
    model: UniversalModel,
    submodels: Iterable[Submodel],
    target: Target,
    *,
    precisions: Sequence[str] | None = None,
    quantised: QuantisedWeights | None = None,
) -> list[Measurement]:
    """Measure several submodels, in their order, on this machine as `target` says; its selector is not looked at.

    precisions: of the submodels; they and quantised are as of `build_runtime`. Raises LtsRayError where the GPU has no
    room for the model and what its batch takes.
    """
    what = f"the model with a batch of {target.batch_size} rows of {target.sequence_length} tokens"
    with within_gpu_memory(what, advice="measure a smaller batch or shorter rows, or give dtype bfloat16"):
        subjects = UniversalSubjects.of(model, target, precisions=precisions, quantised=quantised)
        reference = Reference.of(subjects.reference, target)
        return [measure(subjects.subject(submodel), reference) for submodel in submodels]
