"""Tables are joined in their order, whatever was joined before, and only few are kept."""

from __future__ import annotations

import random

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.runtime.cuda.block_tables import SPARE, BlockTables


def test_tables_that_stay_grow_or_go_are_joined_as_they_are_now() -> None:
    tables, draw = BlockTables(1000), random.Random(0)
    held: list[tuple[int, ...]] = [(draw.randrange(1000),) for _ in range(SPARE)]
    for _ in range(50):
        for _ in range(20):
            row = draw.randrange(SPARE)
            held[row] = (*held[row], draw.randrange(1000)) if draw.random() < 0.8 else (draw.randrange(1000),)
        asked = draw.sample(held, 10)
        assert tables.joined(asked).tolist() == [block for table in asked for block in table]
        assert len(tables._known) <= 2 * len(asked) + SPARE


def test_a_list_may_change_and_a_range_will_do() -> None:
    tables, changing = BlockTables(9), [1, 2]
    assert tables.joined([changing, range(3)]).tolist() == [1, 2, 0, 1, 2]
    changing[0] = 8
    assert tables.joined([changing]).tolist() == [8, 2]
    changing[0] = 9
    with pytest.raises(LtsRayError, match="cache's 9"):
        tables.joined([changing])


def test_a_table_that_was_refused_is_refused_again() -> None:
    tables, wrong = BlockTables(9), (3, -1)
    for _ in range(2):
        with pytest.raises(LtsRayError, match="cache's 9"):
            tables.joined([(1, 2), wrong])
