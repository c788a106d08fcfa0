"""Ctrl-C, SIGTERM and a terminal that goes away end a command alike: with its last line, however often they come."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import ParamSpec, TypeVar

from lts_ray.errors import LtsRayError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
LIKE_CTRL_C = (signal.SIGTERM, signal.SIGHUP)


def interruptible(verb: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The verb, of which an interrupt is an LtsRayError: the one with which it answered the interrupt, if it did.

    What it takes down meanwhile a second interrupt cuts short; later ones, at the process's end, change nothing more.
    """

    @wraps(verb)
    def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        with _like_ctrl_c():
            try:
                return verb(*args, **options)
            except KeyboardInterrupt as interrupt:
                _ignore()
                raise _answer(interrupt) from None
            except LtsRayError as error:
                if isinstance(error.__context__, KeyboardInterrupt):
                    _ignore()
                raise

    return run


@contextmanager
def _like_ctrl_c() -> Iterator[None]:
    """The other signals act as Ctrl-C does at that moment; one that is ignored, as by nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in LIKE_CTRL_C}
    ours = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is interrupt:
                signal.signal(number, before[number])


def _ignore() -> None:
    """Nothing comes between the last line and the end, which is near: Ray's processes are still to be stopped."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *LIKE_CTRL_C):
            signal.signal(number, signal.SIG_IGN)


def _answer(interrupt: BaseException) -> LtsRayError:
    """What was to be said when another interrupt came, else no more than that there was one."""
    seen: BaseException | None = interrupt
    while seen is not None:
        if isinstance(seen, LtsRayError):
            return seen
        seen = seen.__context__
    return LtsRayError("interrupted")
