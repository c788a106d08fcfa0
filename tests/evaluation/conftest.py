"""The tasks that the tests here define, and a harness that knows them without reading its own 14,000 files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from lm_eval import tasks
from lm_eval.tasks._index import TaskIndex

THEIRS = Path(tasks.__file__).parent
TASKS = Path(__file__).parent / "tasks"
NAMES = ["union_endings", "union_next_word", "union_passages"]


@pytest.fixture
def without_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in a folder that is included is unknown."""
    build = TaskIndex.build

    def rest(paths: Iterable[Path], **options: Any) -> dict[str, Any]:
        return build([each for each in paths if each != THEIRS], **options)

    monkeypatch.setattr(TaskIndex, "build", staticmethod(rest))
