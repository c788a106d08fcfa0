from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from lts_ray.search.on_ray.repeated_interrupt import repeated_interrupt


def press_and_wait(*, drop: int) -> None:
    """Press Ctrl-C once and drop that many interrupts on the way; the next one gets through."""
    for place in range(drop + 1):
        try:
            if place == 0:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        except KeyboardInterrupt:
            if place == drop:
                raise


@pytest.mark.parametrize("drop", [0, 1, 3])
def test_an_interrupt_that_is_dropped_on_the_way_comes_again(drop: int) -> None:
    with pytest.raises(KeyboardInterrupt), repeated_interrupt(again_s=0.02):
        press_and_wait(drop=drop)


def test_after_the_block_nothing_comes_any_more_and_the_handler_is_the_one_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), repeated_interrupt(again_s=0.02):
        press_and_wait(drop=0)
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_is_left_alone() -> None:
    entered = []

    def enter() -> None:
        with repeated_interrupt():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGINT)]
