"""How a command ends: in its result, or in one line on stderr and exit code 2, whatever its output goes to."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from lts_ray.errors import LtsRayError
from lts_ray.files import reason_of

NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Storage size calculation overflowed")
"""Words of torch's, which has no error type for it on a CPU."""
NOT_READ = 128 + signal.SIGPIPE
"""The exit code of a command whose output is no longer read, as after `| head`: a shell's for one that SIGPIPE ends."""


class _Output:
    """Standard output, where what cannot be written is an LtsRayError: no library then takes it for its own problem.

    Where its reader has closed it, that is the end of the command, and no problem.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._told(self._stream.write, text))

    def flush(self) -> None:
        self._told(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _told(self, do: Callable[..., Any], *arguments: str) -> Any:
        try:
            return do(*arguments)
        except OSError as error:
            with suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self._stream.fileno())  # where the rest goes, when Python ends
            if isinstance(error, BrokenPipeError):
                raise SystemExit(NOT_READ) from None
            raise LtsRayError(f"standard output cannot be written: {reason_of(error)}") from None


@contextmanager
def ending_in_one_line(name: str) -> Iterator[None]:
    """What a command runs in: a problem that the user can mend is one line on stderr, after `name`, and exit code 2.

    So is a standard output that is full or not there; one that is no longer read ends the command without a word.
    What it has no characters for is replaced.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for as long as the process lives
    stdout, code, problem = sys.stdout, None, None
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="replace")
    try:
        if stdout is None:
            raise LtsRayError("standard output is closed")
        sys.stdout = cast(TextIO, _Output(stdout))
        try:
            yield
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
    except LtsRayError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not NO_MEMORY.search(str(error)):
            raise
        problem = "there is not enough memory for this"
    finally:
        sys.stdout = stdout
        with suppress(LtsRayError, SystemExit):
            _Output(stdout or io.StringIO()).flush()
    if problem is None:
        raise SystemExit(code)
    with suppress(OSError):
        print(f"{name}: {' '.join(problem.splitlines())}", file=sys.stderr, flush=True)
    raise SystemExit(2)
