"""A search that stands still between two evaluations until a test kills it there."""

from __future__ import annotations

import time
from pathlib import Path

from lts_ray.files import read_json_lines
from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.outcome import Evaluation
from lts_ray.search.search_log import LOG
from lts_ray.submodel import Submodel
from tests.search.drive import drive
from tests.search.fake_evaluator import FakeEvaluator
from tests.search.helpers import TARGETS, session


def drive_to(folder: Path, lines: int) -> None:
    """lines: of the log, by then."""

    class HaltingEvaluator(FakeEvaluator):
        def evaluate(self, submodel: Submodel) -> Evaluation | Failed:
            while len(read_json_lines(folder / LOG, what="log")) >= lines:
                time.sleep(1)
            return super().evaluate(submodel)

    drive(session(folder, resume=folder.exists()), HaltingEvaluator(TARGETS))
