"""A step finds room in its bucket, and the views of a bucket's data do not overlap."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.runtime.cuda.bucket import LARGEST, LEAST_ROWS, MOST_SINGLES, bucket_for, usual_buckets
from lts_ray.runtime.cuda.step_data import StepData


@given(st.integers(0, MOST_SINGLES), st.lists(st.integers(2, 200), max_size=8), st.sampled_from([2, 3, 16, 64]))
@settings(max_examples=50)
def test_a_bucket_holds_its_step_and_wastes_little(singles: int, pieces: list[int], tile: int) -> None:
    singles = singles if pieces else max(singles, 1)
    bucket = bucket_for(singles, pieces, min(singles + len(pieces), MOST_SINGLES), tile=tile)
    assert bucket.singles >= singles
    assert bucket.wants >= singles
    assert bucket.tiles >= sum(-(-piece // tile) for piece in pieces)
    assert bool(bucket.tiles) == bool(pieces)
    assert singles + sum(pieces) <= bucket.rows < max(2 * (singles + sum(pieces)), LEAST_ROWS + 1)
    assert max(bucket.singles, bucket.wants) <= bucket.rows


def test_buckets_stay_within_the_largest() -> None:
    """Which the memory is made for."""
    for tile in (2, 3, 16, 64):
        buckets = [bucket_for(256, [size] * (1792 // size), 256, tile=tile) for size in (2, 3, 4, 5, 33, 1792)]
        for bucket in buckets + usual_buckets(tile):
            for name in ("rows", "singles", "wants", "tiles"):
                assert getattr(bucket, name) <= getattr(LARGEST, name)
        assert len(set(usual_buckets(tile))) == 37


def test_views_of_a_buckets_data_are_apart_and_aligned() -> None:
    memory = torch.zeros(4096, dtype=torch.int32)
    data = StepData.of(memory, bucket_for(3, [17], 2, tile=16), 3)
    views = [getattr(data, name) for name in StepData.__slots__ if name != "bucket"]
    for number, view in enumerate(views, 1):
        assert view.data_ptr() % 16 == 0
        view.fill_(number)
    for number, view in enumerate(views, 1):
        assert bool((view == number).all())
    assert data.widths[1].data_ptr() % 16 == 0
    # The host writes these as the rows of one matrix.
    rows = [getattr(data, name) for name in ("tokens", "positions", "tables", "places", "dims")]
    together = [row.data_ptr() for row in (*rows, *data.widths, *data.heads)]
    assert [after - before for before, after in pairwise(together)] == [16 * -(-data.bucket.rows // 4)] * 10
    assert StepData.numbers(data.bucket, 3) + data.blocks.numel() == memory.numel()
