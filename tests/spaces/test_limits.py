from __future__ import annotations

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.spaces.limits import Limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_latency_ms": 0}, "max_latency_ms must be above 0; got 0"),
        ({"max_memory_mb": -1.0}, "max_memory_mb must be above 0; got -1"),
        ({"max_memory_mb": float("nan")}, "max_memory_mb must be a finite number; got nan"),
        ({"min_decoder_params": 5, "max_decoder_params": 4}, "min_decoder_params 5 is larger"),
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        Limits(**given)  # type: ignore[arg-type]


def test_limits_include_their_ends() -> None:
    limits = Limits(min_decoder_params=4, max_decoder_params=6)
    assert [limits.admits_params(count) for count in (3, 4, 6, 7)] == [False, True, True, False]
    assert Limits().admits_params(10**12)


def test_every_latency_has_the_limit() -> None:
    limits = Limits(max_latency_ms=25.0, max_memory_mb=400.0)
    assert limits.of_objectives(2) == (None, 25.0, 25.0, 400.0)
