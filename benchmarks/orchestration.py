"""What the machinery around measurements costs: a whole search on two simulated nodes whose measurements only wait.

Two targets measure at the same time, each as if on a host of its own, so nothing but waiting takes their time. The
search runs as always: Ray Tune, the pool, the log on disk. From the first measurement's begin to the last one's end it
should take as long as the measurements of one node; what it takes longer is orchestration.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json_lines
from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Failed, Measurement
from lts_ray.ray_session import nodes_for, simulated_cluster
from lts_ray.search.algorithms.search_settings import AlgorithmName, SearchSettings
from lts_ray.search.backbone_search import backbone_job
from lts_ray.search.on_ray.search_run import run_search
from lts_ray.search.search_job import SearchJob
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.target import Target

TARGETS = tuple(
    Target(name=name, label_selector={"role": name}, resources={name: 1}, sequence_length=16)
    for name in ("node-a", "node-b")
)


@dataclass(frozen=True, kw_only=True)
class Orchestration:
    """seconds: from the first measurement's begin to the last one's end. busy_seconds: of the busiest node in them."""

    algorithm: AlgorithmName
    evaluations: int
    measurement_ms: float
    seconds: float
    busy_seconds: float

    @property
    def overhead(self) -> float:
        """What the search took longer than its measurements, as a share of these."""
        return self.seconds / self.busy_seconds - 1

    def to_json(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "evaluations": self.evaluations,
            "nodes": len(TARGETS),
            "measurement_ms": self.measurement_ms,
            "seconds": round(self.seconds, 3),
            "busy_seconds": round(self.busy_seconds, 3),
            "overhead": round(self.overhead, 4),
        }


class WaitingActor:
    """A measurement actor that waits and notes when. payload: `seconds` to wait and the file to note it in."""

    def __init__(self, target: Target, source: object, payload: dict[str, Any]) -> None:
        self._target, self._payload = target, payload

    def start(self) -> str | Failed:
        return f"host of {self._target.name}"

    def measure(self, candidate: Architecture) -> Measurement | Failed:
        begin = time.monotonic()
        time.sleep(float(self._payload["seconds"]))
        noted = {"target": self._target.name, "begin_s": begin, "end_s": time.monotonic()}
        append_json_line(Path(str(self._payload["file"])) / f"{self._target.name}.jsonl", noted)
        size = gpt2.decoder_params(candidate) / 1e6
        return Measurement(
            prefill=Latency(regime="prefill", threads=1, blocks=(TimedBlock(times_ms=(size,)),)),
            decode=Latency(regime="decode", threads=1, blocks=(TimedBlock(times_ms=(size / 10 + candidate.n_layer,)),)),
            peak_memory_bytes=int(4e6 * size),
        )


def run(
    *, algorithm: AlgorithmName = "lts", evaluations: int = 100, measurement_ms: float = 200.0, progress: bool = True
) -> Orchestration:
    """Takes evaluations · measurement_ms, and half a minute to start the nodes. Raises LtsRayError without Ray."""
    with tempfile.TemporaryDirectory(prefix="lts-ray-bench-") as folder, simulated_cluster(nodes_for(TARGETS)) as where:
        planned = backbone_job(
            space=gpt2.SPACE,
            targets=TARGETS,
            settings=SearchSettings(evaluations=evaluations, quality="decoder_params", algorithm=algorithm),
        )
        job: SearchJob[Architecture] = SearchJob(
            plan=planned.plan,
            source=planned.source,
            results=planned.results,
            payload={"seconds": measurement_ms / 1000, "file": folder},
            actor_class=WaitingActor,
        )
        run_search(job, Path(folder) / "search", address=where, progress=progress)
        noted = [read_json_lines(Path(folder) / f"{each.name}.jsonl", what="notes") for each in TARGETS]
    if any(len(each) != evaluations for each in noted):
        raise LtsRayError(f"{evaluations} evaluations were measured {[len(each) for each in noted]} times on the nodes")
    every = [each for of_target in noted for each in of_target]
    return Orchestration(
        algorithm=algorithm,
        evaluations=evaluations,
        measurement_ms=measurement_ms,
        seconds=max(each["end_s"] for each in every) - min(each["begin_s"] for each in every),
        busy_seconds=max(sum(each["end_s"] - each["begin_s"] for each in of_target) for of_target in noted),
    )
