"""What torch is asked for as a step is captured: stand-ins take notes, where there is no card."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from lts_ray.runtime.cuda.bucket import Bucket
from lts_ray.runtime.cuda.step_graphs import StepGraphs

DEVICE = torch.device("cuda", 0)


@dataclass
class Notes:
    events: list[str] = field(default_factory=list)
    stream: str = "current"

    def note(self, what: str) -> None:
        self.events.append(f"{what} on {self.stream}")

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream.name
        try:
            yield
        finally:
            self.stream = before


@dataclass
class Stream:
    notes: Notes
    name: str

    def wait_stream(self, other: Stream) -> None:
        self.notes.events.append(f"{self.name} waits for {other.name}")


class Graph:
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def capture_begin(self, *, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local", "other threads may use the card meanwhile"
        assert not torch.is_inference_mode_enabled()
        self.notes.note("capture")

    def capture_end(self) -> None:
        self.notes.note("end")

    def replay(self) -> None:
        self.notes.note("replay")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    notes = Notes()
    for name, stand_in in {
        "current_stream": lambda device: Stream(notes, "current"),
        "Stream": lambda device: Stream(notes, "side"),
        "stream": notes.on,
        "CUDAGraph": lambda: Graph(notes),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return notes


CAPTURED = [
    "side waits for current",
    "launch on side",
    "capture on side",
    "launch on side",
    "end on side",
    "current waits for side",
]


def test_a_step_is_run_and_then_captured_on_a_stream_of_its_own_and_later_replayed(notes: Notes) -> None:
    """Once run, it has loaded all that it needs, which a capture may not do."""
    graphs, collecting = StepGraphs(DEVICE), list[bool]()

    def launch() -> None:
        notes.note("launch")
        collecting.append(gc.isenabled())

    with torch.inference_mode():
        for rows in (1, 2, 1, 2):
            graphs.run(Bucket(rows), launch)
    assert notes.events == [*CAPTURED, *CAPTURED, "replay on current", "replay on current"]
    assert collecting == [True, False] * 2
    assert gc.isenabled()


def test_a_launch_that_fails_while_it_is_captured_ends_the_capture_and_keeps_nothing(notes: Notes) -> None:
    graphs, failing = StepGraphs(DEVICE), [False, True]

    def launch() -> None:
        notes.note("launch")
        if failing and failing.pop(0):
            raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        graphs.run(Bucket(1), launch)
    assert notes.events[-1] == "end on side"
    assert gc.isenabled()
    notes.events.clear()
    graphs.run(Bucket(1), launch)
    assert notes.events == CAPTURED
