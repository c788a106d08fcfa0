from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.replay.design_table import DesignTable, read_designs
from lts_ray.replay.table_space import ABSENT, TableSpace
from tests.replay.tables import OBJECTIVES, write_table

TINY = DesignTable(
    columns=("width", "ratios"),
    designs=((1.0, (2.0, 4.0)), (1.0, (4.0, 4.0)), (9.0, (2.0, 2.0, 2.0))),
    objective_names=("x", "y"),
    objectives=((1.0, 2.0), (2.0, 1.0), (3.0, 3.0)),
)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> TableSpace:
    return TableSpace(read_designs(write_table(tmp_path_factory.mktemp("t") / "t.csv"), objectives=OBJECTIVES))


def test_a_row_is_nearest_to_itself_until_it_is_taken() -> None:
    space = TableSpace(TINY)
    first, second, third = space.listing()
    assert space.nearest(first, set()) == first
    assert space.nearest(first, {first}) == second
    assert space.nearest(first, {first, second}) == third
    with pytest.raises(LtsRayError, match="all 3 rows of the table are used"):
        space.nearest(first, {first, second, third})


def test_a_list_column_weighs_as_much_as_a_number() -> None:
    """Both ratios off by the whole range are as far as the width off by its range."""
    space = TableSpace(TINY)
    off = space.from_genes((0, 1, 0, 0))  # width 1, ratios 4 and 2: one of two off from the first and the second
    assert space.nearest(off, set()) in space.listing()[:2]
    assert space.nearest(off, set(space.listing()[:2])) == space.listing()[2]


def test_layers_that_a_design_has_not_are_absent() -> None:
    space = TableSpace(TINY)
    assert space.listing()[0][-1] == ABSENT
    assert space.from_genes((0, 0, 1, 1)) == space.listing()[0]
    assert [len(gene.choices) for gene in space.genes] == [2, 2, 2, 2]


@given(seed=st.integers(0, 2**32), probability=st.floats(0, 1))
def test_children_are_designs_of_the_same_columns(space: TableSpace, seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = space.sample(rng), space.sample(rng)
    for child in (space.mutate(first, rng, probability), space.crossover(first, second, rng)):
        assert space.contains(child)
        assert space.nearest(child, set()) in space.listing()
    assert space.mutate(first, rng, 0.0) == first


def test_features_are_equally_many_for_designs_of_different_depth(space: TableSpace) -> None:
    assert len({len(space.features(each)) for each in space.listing()}) == 1
