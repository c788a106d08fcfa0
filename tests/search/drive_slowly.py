"""A search slow enough that a test can kill it between two evaluations."""

from __future__ import annotations

import time
from pathlib import Path

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.outcome import Evaluation
from lts_ray.submodel import Submodel
from tests.search.drive import drive
from tests.search.fake_evaluator import FakeEvaluator
from tests.search.helpers import TARGETS, session


class SlowEvaluator(FakeEvaluator):
    def evaluate(self, submodel: Submodel) -> Evaluation | Failed:
        time.sleep(0.02)
        return super().evaluate(submodel)


def drive_slowly(folder: Path) -> None:
    drive(session(folder, resume=folder.exists()), SlowEvaluator(TARGETS))
