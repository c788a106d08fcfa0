"""What a replica says of late: counts leave after the window, and what it bears is found anew only now and then."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serve.autoscaling.recent_load import AGAIN, RecentLoad
from serve.autoscaling.sustained_rate import RecentRequest
from serve.policies.budget import Budget, Timing
from serve.policies.request import Request

TIGHT = Request(prompt=(1, 2, 3), max_tokens=9, budget=Budget(e2e_ms=100.0))


def timing(e2e_ms: float) -> Timing:
    return Timing(ttft_ms=1.0, tpot_ms=1.0, e2e_ms=e2e_ms)


def test_counts_are_of_the_window() -> None:
    recent = RecentLoad(100.0, window_s=10.0)
    for second in range(5):
        recent.came(100.0 + second)
        recent.made([100.0 + second], 7, 14.0)
        recent.ended(100.0 + second, TIGHT, timing(50.0 * (1 + second)), tokens=7)
    load = recent.load(105.0, running=2, waiting=1, bears=lambda sample, cv2: 1.0, worst_loss=3.0)
    assert (load.came, load.bounded, load.kept, load.tokens, load.loss) == (5, 5, 2, 35, 70)
    assert (load.running, load.waiting, load.window_s, load.worst_loss) == (2, 1, 5, 3)
    assert load.used_p90 == pytest.approx(2.3)
    later = recent.load(200.0, running=0, waiting=0, bears=lambda sample, cv2: 1.0)
    assert (later.came, later.bounded, later.tokens, later.used_p90, later.window_s) == (0, 0, 0, 0, 10)


def test_what_it_bears_is_known_from_some_requests_on_and_asked_for_now_and_then() -> None:
    asked: list[tuple[Sequence[RecentRequest], float]] = []

    def bears(sample: Sequence[RecentRequest], cv2: float) -> float:
        asked.append((list(sample), cv2))
        return 4.0

    recent = RecentLoad(0.0)
    for number in range(AGAIN - 1):
        recent.ended(float(number), TIGHT, timing(10.0), tokens=5)  # evenly spaced
    assert recent.load(20.0, running=0, waiting=0, bears=bears).sustained == 0
    recent.ended(21.0, TIGHT, timing(10.0), tokens=5)
    for _ in range(9):
        assert recent.load(22.0, running=0, waiting=0, bears=bears).sustained == 4
    assert len(asked) == 1
    assert asked[0][0][0] == RecentRequest(3, 5, TIGHT.budget)
    recent.ended(23.0, TIGHT, timing(10.0), tokens=5)
    recent.load(60.0, running=0, waiting=0, bears=bears)
    assert len(asked) == 2
    assert asked[0][1] == 1  # too few gaps to tell
    assert 0 <= asked[1][1] < 2
