"""A step finds room in its bucket, and the views of a bucket's data do not overlap."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.runtime.cuda.bucket import MOST_SINGLES, TILE, bucket_for
from lts_ray.runtime.cuda.step_data import StepData


@given(st.integers(0, MOST_SINGLES), st.lists(st.integers(2, 200), max_size=8))
@settings(max_examples=50)
def test_a_bucket_holds_its_step_and_wastes_little(singles: int, pieces: list[int]) -> None:
    singles = singles if pieces else max(singles, 1)
    bucket = bucket_for(singles, pieces, singles + len(pieces) if singles < MOST_SINGLES - 8 else singles)
    assert bucket.singles >= singles
    assert bucket.wants >= singles
    assert bucket.pieces >= sum(pieces)
    assert bucket.tiles >= sum(-(-piece // TILE) for piece in pieces)
    assert bool(bucket.tiles) == bool(pieces)
    assert bucket.rows <= max(2 * singles, 16, 4 * singles if pieces else 0) + max(TILE, 2 * sum(pieces))


def test_views_of_a_buckets_data_are_apart_and_aligned() -> None:
    memory = torch.zeros(4096, dtype=torch.int32)
    data = StepData.of(memory, bucket_for(3, [17], 2), 3)
    views = [getattr(data, name) for name in StepData.__slots__ if name != "bucket"]
    for number, view in enumerate(views, 1):
        assert view.data_ptr() % 16 == 0
        view.fill_(number)
    for number, view in enumerate(views, 1):
        assert bool((view == number).all())
    assert data.widths[1].data_ptr() % 16 == 0
    assert data.n_before_blocks + data.blocks.numel() == memory.numel()
