"""The processes of a check's parts: they make themselves ready beside each other, and rest while one measures."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.prepared_process import PreparedProcess


@dataclass(frozen=True, slots=True)
class CheckPart:
    kind: str
    of: tuple[str, ...] = ()
    """Of what, as check_part gets it."""
    seconds: float = 30.0
    """The most that it takes, from when it is its turn; where it is not timed from when it began."""
    timed: bool = True
    """Whether nothing may run beside it."""
    nice: int = 0

    @property
    def name(self) -> str:
        return " ".join((self.kind, *self.of))


class PartCrew:
    def __init__(self, order: Iterable[CheckPart], command: Sequence[str], *, at_once: int) -> None:
        """order: of beginning. at_once: how many make themselves ready at a time."""
        self._waiting, self._command, self._at_once = list(order), command, at_once
        self._processes: dict[CheckPart, PreparedProcess] = {}
        self.given: Mapping[str, Any] = {}
        """What those that begin to measure are told of the card."""

    def rows(self, part: CheckPart, left_s: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """Of a part's process, which ends with them. Raises PartFailedError."""
        process = self._processes.get(part) or self._begin(part)
        try:
            if not part.timed:
                seconds = max(part.seconds - (time.monotonic() - process.began), 1.0)
                yield from process.rows(min(seconds, left_s()), {}, self.begin_more)
                return
            until = time.monotonic() + min(part.seconds, left_s())
            self._wait(process, until)
            if process.look() and not process.ready:  # perhaps there was no memory beside the others
                print(f"{part.name} begins again, after {process.words[-1_000:]}", flush=True)
                process.end()
                process = self._begin(part)
                self._wait(process, until)
            if process.ready:
                self._send_preparing(signal.SIGSTOP)
                time.sleep(0.3)  # for what they have queued on the card
            yield from process.rows(max(until - time.monotonic(), 0.0), self.given, lambda: None)
        finally:
            process.end()
            del self._processes[part]
            self._send_preparing(signal.SIGCONT)
            self.begin_more()

    def begin_more(self) -> None:
        """As many as have room."""
        preparing = sum(process.is_preparing for process in self._processes.values())
        for part in self._waiting[: max(0, self._at_once - preparing)]:
            self._begin(part)

    def end(self) -> None:
        for process in self._processes.values():
            process.end()

    def _begin(self, part: CheckPart) -> PreparedProcess:
        if part in self._waiting:
            self._waiting.remove(part)
        process = PreparedProcess([*self._command, part.kind, *part.of], nice=part.nice)
        self._processes[part] = process
        return process

    def _wait(self, process: PreparedProcess, until: float) -> None:
        """Until it is ready, or over, or the time is up."""
        while process.is_preparing and time.monotonic() < until:
            self.begin_more()
            time.sleep(0.02)

    def _send_preparing(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.is_preparing:
                process.send(number)
