"""How a command ends: in its result, or in one line on stderr and exit code 2, whatever its output goes to."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import typer

from lts_ray.ending import ending_in_one_line
from lts_ray.errors import LtsRayError

Output = Callable[[str], AbstractContextManager[None]]


def ended(command: Callable[[], None]) -> object:
    """Run it as a verb; its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    with pytest.raises(SystemExit) as end, ending_in_one_line("lts-ray"):
        app([])
    return end.value.code or 0


def raising(error: Exception) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """Standard output goes to a full disk, or to a pipe whose reader has left."""

    @contextmanager
    def begin(place: str) -> Iterator[None]:
        if place == "full":
            descriptor = os.open("/dev/full", os.O_WRONLY)
        else:
            end, descriptor = os.pipe()
            os.close(end)
        with os.fdopen(descriptor, "w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            yield

    return begin


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LtsRayError("no model a\nb"), "lts-ray: no model a b"),
        (OSError(28, "No space left on device"), "lts-ray: No space left on device"),
        (PermissionError(13, "Permission denied", "a"), "lts-ray: a: Permission denied"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lts-ray: there is not enough memory for this"),
        (MemoryError(), "lts-ray: there is not enough memory for this"),
    ],
    ids=["ours", "system", "file", "torch's memory", "memory"],
)
def test_a_problem_is_one_line_and_exit_code_2(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(error)) == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), ending_in_one_line("lts-ray"):
        raise ZeroDivisionError


def test_without_a_problem_a_command_ends_in_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: print("result")) == 0
    assert ended(raising(typer.Exit(3))) == 3
    assert capsys.readouterr() == ("result\n", "")


@pytest.mark.parametrize("lines", [1, 100_000], ids=["when it is flushed", "while it is printed"])
@pytest.mark.parametrize(
    ("place", "code", "told"),
    [("full", 2, ["lts-ray: standard output cannot be written: No space left on device"]), ("closed pipe", 141, [])],
    ids=["full", "closed"],
)
def test_an_output_that_is_full_is_said_in_one_line_and_one_that_is_not_read_not_at_all(
    place: str, code: int, told: list[str], lines: int, output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    with output(place):
        assert ended(lambda: print("line\n" * lines)) == code  # what was not written is not tried again when it closes
    assert capsys.readouterr().err.splitlines() == told


@pytest.mark.parametrize("place", ["full", "closed pipe"])
def test_an_output_that_cannot_be_written_hides_no_other_problem(
    place: str, output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        print("row")
        raise LtsRayError("no model")

    with output(place):
        assert ended(command) == 2
    assert capsys.readouterr().err == "lts-ray: no model\n"


def test_an_output_that_is_not_there_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert ended(raising(AssertionError("it worked"))) == 2
    assert capsys.readouterr().err == "lts-ray: standard output is closed\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_output_has_no_characters_for_is_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert ended(lambda: print("café → \udcff")) == 0
    expected = "café → ?" if encoding == "utf-8" else "caf? ? ?" if encoding == "ascii" else "café ? ?"
    assert written.getvalue().decode(encoding) == expected + "\n"
