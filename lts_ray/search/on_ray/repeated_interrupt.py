"""Ctrl-C that is not lost: the interrupt is raised again until it has left the block.

A KeyboardInterrupt that comes up inside a callback or a destructor, of which Ray runs many from C, is printed and
dropped there. The search would go on as if it had not been asked to stop.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 3.0


@contextmanager
def repeated_interrupt(*, again_s: float = AGAIN_S) -> Iterator[None]:
    """Within it, a Ctrl-C is repeated every `again_s` seconds. It does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, repeating = threading.Event(), list[threading.Thread]()

    def repeat() -> None:
        if not over.wait(again_s):
            os.kill(os.getpid(), signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if over.is_set():  # the one before has left the block
            return
        repeating.append(threading.Thread(target=repeat, name="repeat-interrupt", daemon=True))
        repeating[-1].start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        try:
            yield
        finally:
            over.set()
    finally:  # also where another interrupt came in the place above
        over.set()
        for thread in repeating:
            thread.join()  # else its last interrupt could come after the block
        signal.signal(signal.SIGINT, before)
