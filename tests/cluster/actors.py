"""Measurement actors with behaviour: real Ray actors that measure nothing.

source: not looked at. payload: of use where it is the path of a file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray

from lts_ray.architecture import Architecture
from lts_ray.measurement.measurement import Failed, Measurement
from lts_ray.measurement.on_ray.actor import host_identity
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.measurement.brief import BriefActor
from tests.search.fake_evaluator import FakeEvaluator, latency_of


class QuickActor:
    """Measures at once; raises for a submodel of width 13."""

    def __init__(self, target: Target, source: object, payload: object) -> None:
        self.target, self.file = target, Path(payload if isinstance(payload, str) else "none")

    def start(self) -> str | Failed:
        return host_identity()

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        if submodel.widths[0] == 13:
            raise ValueError("no such submodel\nand more lines")
        outcome = FakeEvaluator((self.target.name,)).evaluate(submodel)
        assert not isinstance(outcome, Failed)
        return outcome.measurements[self.target.name]


class ScriptedActor(QuickActor):
    """Appends the begin and the end of each measurement to `record` of its folder, which a subclass gives.

    Its process ends in the middle of a measurement instead, as often as the number in `deaths` beside it says.
    """

    folder: str

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        record, deaths = Path(self.folder) / "record", Path(self.folder) / "deaths"
        left = int(deaths.read_text(encoding="utf-8"))
        if left > 0:
            deaths.write_text(str(left - 1), encoding="utf-8")
            os._exit(1)
        begin = time.monotonic()
        time.sleep(0.05)
        with record.open("a", encoding="utf-8") as file:
            file.write(f"{begin} {time.monotonic()} {self.target.name}\n")
        return super().measure(submodel)


class LonelyActor(QuickActor):
    """Pretends that its node is a host of its own, and appends the node to its file when a measurement begins.

    A measurement of a submodel of width 8 lasts until the file `go` beside its own exists; others are quick.
    """

    def start(self) -> str | Failed:
        return node_id()

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{node_id()}\n")
        while submodel.widths[0] == 8 and not self.file.with_name("go").exists():
            time.sleep(0.01)
        return super().measure(submodel)


class HaltingActor(BriefActor):
    """Measures so many candidates as a subclass says, and then none until its process is ended."""

    most: int
    measured = 0

    def measure(self, candidate: Any) -> Measurement | Failed:
        self.measured += 1
        while self.measured > self.most:
            time.sleep(1)
        return super().measure(candidate)


def node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


class ArchitectureActor(QuickActor):
    """Costs of architectures by a law; the second target is twice as fast."""

    def measure(self, candidate: Architecture) -> Measurement | Failed:  # type: ignore[override]
        size = gpt2.SPACE.decoder_params(candidate) / 1e6
        slowness = 1.0 if self.target.name == "edge" else 0.5
        return Measurement(
            prefill=latency_of("prefill", slowness * (5 + size)),
            decode=latency_of("decode", slowness * (1 + candidate.n_layer + size / 10)),
            peak_memory_bytes=int(4e6 * size + 1e5 * candidate.d_model),
        )


class HeldArchitectureActor(ArchitectureActor):
    """The second measurement, and all after it, wait until its file exists."""

    measured = 0

    def measure(self, candidate: Architecture) -> Measurement | Failed:  # type: ignore[override]
        self.measured += 1
        while self.measured > 1 and not self.file.exists():
            time.sleep(0.01)
        return super().measure(candidate)
