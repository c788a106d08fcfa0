"""What a comparison of decoders found: steps, prompts and losses, and the ratios of ours to others'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from typing import Any

from benchmarks.common.machine import Machine
from benchmarks.decoders.decode_times import (
    CONTINUOUS,
    CTRANSLATE2,
    ENGINE,
    LLAMA_CPP,
    OPENVINO,
    TRANSFORMERS,
    DecodeTimes,
    DecodeWork,
    Way,
)

SCHEMA = 3
OTHERS = {
    **{engine: (engine,) for engine in (LLAMA_CPP, OPENVINO, CTRANSLATE2)},
    "transformers' best": (TRANSFORMERS, CONTINUOUS),
}


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    times: tuple[DecodeTimes, ...]
    step_bytes: Mapping[tuple[Way, int], float]
    """What a step must read, by way and batch."""
    read_ms: Mapping[Way, float]
    """From a prompt of work.read_tokens to its first token."""
    losses: Mapping[Way, float]
    """In nats a token of the text; empty where none was read."""
    work: DecodeWork
    """Its submodels are in the order of their sizes."""
    bandwidth: float
    """Bytes a second that the machine reads."""
    prediction_error: float | None
    """Of the times that the engine predicted for its steps, the median relative error; None where none was timed."""
    step_python_ms: Mapping[int, float]
    """CPU time of the engine's thread for a step, the kernels' own taken off, by the number of rows; the median."""
    seed: int
    machine: Machine
    versions: Mapping[str, str]
    """Of the libraries compared."""

    def of(self, engine: str, submodel: str, precision: str, batch: int) -> DecodeTimes | None:
        """precision: of ours; others' may have another name."""
        sought = (engine, submodel, precision, batch)
        return next((each for each in self.times if (*each.way.kind, each.batch) == sought), None)

    def bandwidth_share(self, times: DecodeTimes) -> float:
        return self.step_bytes[times.way, times.batch] / (times.step_ms / 1e3) / self.bandwidth

    def ratios(self) -> dict[str, float]:
        """The engine beside others of its precision, its widths and precisions beside each other, as was measured."""
        ratios: dict[str, float] = {}
        full = self.work.submodels[-1]
        for submodel, precision in product(self.work.submodels, self.work.precisions):
            for batch in self.work.batches:
                ours, whole = (self.of(ENGINE, name, precision, batch) for name in (submodel, full))
                if ours is None or whole is None:
                    continue
                at = f"{ours.way.text}, batch {batch}"
                for other, engines in OTHERS.items():
                    theirs = [times for name in engines if (times := self.of(name, submodel, precision, batch))]
                    if theirs:
                        best = min(theirs, key=lambda times: times.step_ms)
                        ratios[f"{at}: x {other}, {best.way.precision}"] = best.step_ms / ours.step_ms
                if submodel != full:
                    bytes_gain = self.step_bytes[whole.way, batch] / self.step_bytes[ours.way, batch]
                    gain = whole.step_ms / ours.step_ms
                    ratios[f"{at}: gain over {full}, of what its bytes promise"] = gain / bytes_gain
            ratios |= self._beside(Way(ENGINE, submodel, precision))
        return ratios

    def _beside(self, ours: Way) -> dict[str, float]:
        """Of what no batch is in: the time to read a prompt, and the loss."""
        first = replace(ours, precision=self.work.precisions[0])
        if ours not in self.read_ms:
            return {}
        peers = {way: f"{way.engine}, {way.precision}" for way in self.read_ms if _is_peer(way, ours)}
        if ours != first:
            peers[first] = first.precision
        found: dict[str, float] = {}
        for way, name in peers.items():
            found[f"{ours.text}, prompt of {self.work.read_tokens}: x {name}"] = self.read_ms[way] / self.read_ms[ours]
            if self.losses:
                found[f"{ours.text}: loss above {name}"] = self.losses[ours] - self.losses[way]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One for each way and batch, by submodel and batch."""
        order = self.work.submodels.index
        return [
            {
                "submodel": times.way.submodel,
                "batch": times.batch,
                "engine": times.way.engine,
                "precision": times.way.precision,
                "tokens_per_second": times.tokens_per_second,
                "step_ms": times.step_ms,
                "step_mb": self.step_bytes[times.way, times.batch] / 1e6,
                "bandwidth_share": self.bandwidth_share(times),
                "agreement": times.agreement,
                "prompt_ms": self.read_ms[times.way],
                "loss": self.losses.get(times.way),
            }
            for times in sorted(self.times, key=lambda times: (order(times.way.submodel), times.batch))
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "versions": dict(self.versions),
            "seed": self.seed,
            **asdict(self.work),
            "read_bandwidth_gb_s": self.bandwidth / 1e9,
            "step_prediction_error": self.prediction_error,
            "step_python_ms": {str(rows): cpu_ms for rows, cpu_ms in self.step_python_ms.items()},
            "rows": self.rows(),
            "ratios": self.ratios(),
        }


def _is_peer(way: Way, ours: Way) -> bool:
    """Whether it is another library's at the same submodel, and a precision that ours is to be compared with."""
    names = chain(*OTHERS.values())
    return way.engine in names and way.kind[1:] == ours.kind[1:]
