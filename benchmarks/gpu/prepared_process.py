"""A part of a check in a process of its own, which makes itself ready beside others, and loses nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

MARK = "\x1e"
READY, ROW, FAILED = f"{MARK}ready", f"{MARK}row ", f"{MARK}failed "
"""How lines begin by which it says that it is ready, what it found, and why it ends."""
THREADS = {"TORCHINDUCTOR_COMPILE_THREADS": "2", "OMP_NUM_THREADS": "4", "PYTHONFAULTHANDLER": "1"}


class PartFailedError(Exception):
    """Its arguments: one line that says why, and the end of what the process printed."""


class PreparedProcess:
    """It begins to measure when its input has a line, and ends by itself where that is closed."""

    def __init__(self, command: Sequence[str], *, nice: int = 0) -> None:
        self._output = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            ["nice", "-n", str(nice), *command],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | THREADS,
            start_new_session=True,
        )
        self._at, self._rest = 0, b""
        self._rows, self._words = deque[Mapping[str, Any]](), deque[str](maxlen=40)
        self.ready, self._failed = False, ""
        self.began = time.monotonic()
        """ready: whether it was, when one last looked."""

    @property
    def is_preparing(self) -> bool:
        return not self.look() and not self.ready

    def send(self, number: signal.Signals) -> None:
        """To it and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def rows(
        self, seconds: float, given: Mapping[str, Any], meanwhile: Callable[[], None]
    ) -> Iterator[Mapping[str, Any]]:
        """Has it begin, and gives each row when it is there. meanwhile: called now and then.

        Raises PartFailedError where it fails, or has not ended by then.
        """
        until = time.monotonic() + seconds
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(given).encode() + b"\n")
            self._process.stdin.close()
        while True:
            over = self.look()
            while self._rows:
                yield self._rows.popleft()
            if over:
                break
            if time.monotonic() >= until:
                raise PartFailedError(f"not done after {seconds:.0f} s", self.where())
            meanwhile()
            time.sleep(0.02)
        code = self._process.returncode
        if code or self._failed:
            ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise PartFailedError(self._failed or ended, self.words)

    @property
    def words(self) -> str:
        rest = self._rest.decode(errors="replace")
        return "\n".join([*self._words, *([rest] if rest else [])])[-4_000:]

    def where(self) -> str:
        """What it says of where it hangs, in whatever call."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        self.look()
        return self.words

    def end(self) -> None:
        """It, and what it has started."""
        self.send(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)  # one that waits in a driver may stay for ever
        for file in (self._process.stdin, self._output):
            with suppress(OSError):
                file.close()  # type: ignore[union-attr]

    def look(self) -> bool:
        """Takes in what it has printed. Whether it is over."""
        over = self._process.poll() is not None  # before reading: nothing comes after
        while not self._output.closed and (piece := os.pread(self._output.fileno(), 1 << 20, self._at)):
            self._at += len(piece)  # the process writes where its own file is, which reading must not move
            self._rest += piece
        *lines, self._rest = self._rest.split(b"\n")
        for line in (line.decode(errors="replace") for line in lines):
            if line.startswith(ROW):
                self._rows.append(json.loads(line.removeprefix(ROW)))
            elif line.startswith(FAILED):
                self._failed = line.removeprefix(FAILED)
            elif line.startswith(READY):
                self.ready = True
            elif line.strip():
                self._words.append(line)
        return over


def tell(mark: str, what: str = "") -> None:
    """In such a process: on a line of its own, whatever else was begun there."""
    sys.stdout.write(f"\n{mark}{what}\n")
    sys.stdout.flush()
