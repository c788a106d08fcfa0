"""Measurement actors with behaviour: real Ray actors that measure nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lts_ray.architecture import Submodel
from lts_ray.measurement.actor import MeasurementActor, host_identity
from lts_ray.measurement.fake import FakeEvaluator
from lts_ray.measurement.measure import Failed, Measurement


class QuickActor(MeasurementActor):
    def start(self) -> str | Failed:
        return host_identity()

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        outcome = FakeEvaluator((self._target.name,)).evaluate(submodel)
        assert not isinstance(outcome, Failed)
        return outcome.measurements[self._target.name]


class RecordingActor(QuickActor):
    """Appends the begin and the end of each measurement to the file that $RECORD in the weights names."""

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        begin = time.monotonic()
        time.sleep(0.05)
        with Path(str(self._weights["record"])).open("a", encoding="utf-8") as file:
            file.write(f"{begin} {time.monotonic()} {self._target.name} {os.environ.get('RAY_NODE_ID', '')}\n")
        return super().measure(submodel)


class MortalActor(QuickActor):
    """Its process ends in the middle of a measurement, as often as the file in the weights has lines left."""

    def measure(self, submodel: Submodel) -> Measurement | Failed:
        lives = Path(str(self._weights["deaths"]))
        left = int(lives.read_text(encoding="utf-8"))
        if left > 0:
            lives.write_text(str(left - 1), encoding="utf-8")
            os._exit(1)
        return super().measure(submodel)
