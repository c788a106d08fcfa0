"""A first step waits for requests that are being read, no longer than a moment, and for nothing where none is."""

from __future__ import annotations

import threading

from serve.engine.hold import Hold


def started(
    hold: Hold, wake: threading.Condition, *, seconds: float = 3600
) -> tuple[threading.Thread, threading.Event]:
    """A thread that waits for news, and what it sets when it goes on."""
    waiting, over = threading.Event(), threading.Event()

    def engine() -> None:
        with wake:
            waiting.set()
            hold.wait(seconds=seconds)
        over.set()

    thread = threading.Thread(target=engine)
    thread.start()
    waiting.wait()
    return thread, over


def test_a_step_waits_until_all_that_come_have_come() -> None:
    wake = threading.Condition()
    hold = Hold(wake)
    thread, over = started(hold, wake)
    with hold:
        with hold, wake:
            wake.notify_all()
        assert not over.is_set(), "another one is still being read"
    thread.join()


def test_a_request_alone_is_waited_for_only_until_it_is_there() -> None:
    wake = threading.Condition()
    thread, _ = started(Hold(wake), wake)
    with wake:
        wake.notify_all()
    thread.join()


def test_one_that_does_not_come_is_waited_for_a_moment() -> None:
    wake = threading.Condition()
    hold = Hold(wake)
    thread, _ = started(hold, wake, seconds=0.01)
    with hold:
        with wake:
            wake.notify_all()
        thread.join()


def test_a_failed_request_holds_no_longer() -> None:
    wake = threading.Condition()
    hold = Hold(wake)
    thread, _ = started(hold, wake)
    try:
        with hold:
            raise ValueError
    except ValueError:
        pass
    thread.join()
