from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.load.fault import FAULTS, draw_faults
from lts_ray.errors import LtsRayError


def test_each_kind_comes_as_often_as_the_others() -> None:
    counts = Counter(fault.name for fault in draw_faults(50, seed=1))
    assert counts.keys() == set(FAULTS)
    assert set(counts.values()) == {6, 7}


def test_a_seed_gives_the_same_faults_however_many() -> None:
    assert draw_faults(50, seed=1)[:20] == draw_faults(20, seed=1) != draw_faults(20, seed=2)
    assert all(0 <= fault.pick < 1 < fault.lasts_s < 10 for fault in draw_faults(50, seed=1))


def test_what_is_stopped_or_slowed_is_a_replica_that_lives() -> None:
    roles = {fault.name: (fault.role, fault.kills) for fault in draw_faults(8, seed=1)}
    assert roles.pop("stop") == roles.pop("slow") == ("replica", False)
    assert roles == {name: (name, True) for name in roles}


@pytest.mark.parametrize(("names", "said"), [(["node", "meteor"], "meteor; there are replica"), ([], "none is named")])
def test_an_unknown_kind_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(LtsRayError, match=said):
        draw_faults(5, seed=1, names=names)
