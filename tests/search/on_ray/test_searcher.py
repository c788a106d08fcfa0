from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lts_ray.measurement.outcome import outcome_to_json
from lts_ray.search.on_ray.searcher import LtsSearcher
from lts_ray.search.on_ray.trial import OUTCOME
from tests.search.fake_evaluator import FakeEvaluator
from tests.search.helpers import TARGETS, session


def test_a_result_that_cannot_be_logged_stops_the_search_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is given up, nothing more is suggested, and the reason is the disk's and not the trial's."""
    offered: list[tuple[str, object]] = []
    searcher = LtsSearcher(session(tmp_path / "search"), offer=lambda *offer: offered.append(offer))
    for ticket in "abc":
        searcher.suggest(ticket)
    candidates = dict(offered)
    outcome = FakeEvaluator(TARGETS).evaluate(candidates["a"])  # type: ignore[arg-type]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lts_ray.files.os.fsync", full)
    searcher.on_trial_complete("a", {OUTCOME: json.dumps(outcome_to_json(outcome))})
    assert searcher.failure is not None
    assert "cannot be written: No space left on device" in searcher.failure
    assert {ticket for ticket, candidate in offered if candidate is None} >= {"b", "c"}
    searcher.on_trial_complete("b", {})
    assert "No space left on device" in searcher.failure
    assert searcher.suggest("d") == "FINISHED"
