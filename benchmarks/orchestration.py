"""What the machinery around measurements costs: a whole search on two simulated nodes whose measurements only wait.

Two targets measure at the same time, each as if on a host of its own, so nothing but waiting takes their time. The
search runs as always: Ray Tune, the pool, the log on disk. From the first measurement's begin to the last one's end it
should take as long as the measurements of one node; what it takes longer is orchestration.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common.command import run_benchmark
from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json_lines
from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Failed, Measurement
from lts_ray.ray_session import nodes_for, simulated_cluster
from lts_ray.search.algorithms.search_settings import AlgorithmName, SearchSettings
from lts_ray.search.backbone_search import backbone_job
from lts_ray.search.on_ray.search_run import run_search
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.target import Target

TARGETS = tuple(
    Target(name=name, label_selector={"role": name}, resources={name: 1}, sequence_length=16)
    for name in ("node-a", "node-b")
)


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
        size = gpt2.SPACE.decoder_params(candidate) / 1e6
        return Measurement(
            prefill=Latency(regime="prefill", threads=1, blocks=(TimedBlock(times_ms=(size,)),)),
            decode=Latency(regime="decode", threads=1, blocks=(TimedBlock(times_ms=(size / 10 + candidate.n_layer,)),)),
            peak_memory_bytes=int(4e6 * size),
        )


def time_search(algorithm: AlgorithmName, evaluations: int, measurement_ms: float) -> tuple[float, float]:
    """Seconds from the first measurement's begin to the last one's end, and those in which the busier node measured.

    Takes evaluations · measurement_ms, and half a minute to start the nodes. Raises LtsRayError without Ray.
    """
    with tempfile.TemporaryDirectory(prefix="lts-ray-bench-") as folder, simulated_cluster(nodes_for(TARGETS)) as where:
        settings = SearchSettings(evaluations=evaluations, quality="decoder_params", algorithm=algorithm)
        job = backbone_job(space=gpt2.SPACE, targets=TARGETS, settings=settings)
        payload = {"seconds": measurement_ms / 1000, "file": folder}
        workload = replace(job.workload, payload=payload, actor_class=WaitingActor)
        run_search(replace(job, workload=workload), Path(folder) / "search", address=where)
        noted = [read_json_lines(Path(folder) / f"{target.name}.jsonl", what="notes") for target in TARGETS]
    counts = [len(notes) for notes in noted]
    if counts != [evaluations] * len(TARGETS):
        raise LtsRayError(f"{evaluations} evaluations were measured {counts} times on the nodes")
    begins = [note["begin_s"] for notes in noted for note in notes]
    ends = [note["end_s"] for notes in noted for note in notes]
    return max(ends) - min(begins), max(sum(note["end_s"] - note["begin_s"] for note in notes) for notes in noted)


def orchestration(
    algorithm: Annotated[AlgorithmName, typer.Option("--algorithm", "-a", help="What chooses.")] = "lts",
    evaluations: Annotated[int, typer.Option("--evaluations", "-n", min=1, help="Candidates to measure.")] = 100,
    measurement_ms: Annotated[float, typer.Option(min=1, help="How long one measurement takes.")] = 200.0,
) -> None:
    """Orchestration: how much longer a search on two simulated nodes takes than its measurements, which only wait."""
    seconds, busy_seconds = time_search(algorithm, evaluations, measurement_ms)
    overhead = seconds / busy_seconds - 1
    print(f"{evaluations} measurements on each of two nodes: {busy_seconds:.2f} s")
    print(f"the search, from first to last:            {seconds:.2f} s, {100 * overhead:.1f} % more")
    asked = {"algorithm": algorithm, "evaluations": evaluations, "nodes": 2, "measurement_ms": measurement_ms}
    print(json.dumps(asked | {"seconds": seconds, "busy_seconds": busy_seconds, "overhead": overhead}))


if __name__ == "__main__":
    run_benchmark(orchestration)
