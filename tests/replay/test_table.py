from __future__ import annotations

from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.replay.design_table import read_designs
from tests.replay.tables import OBJECTIVES, write_table


def table(path: Path, text: str) -> Path:
    path = path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_of_choices_are_told_from_measurements(tmp_path: Path) -> None:
    read = read_designs(write_table(tmp_path / "t.csv"), objectives=OBJECTIVES)
    assert read.columns == ("d_model", "n_layer", "heads", "ratios", "bias")
    assert len(read.designs) == len(read.objectives) == 300
    assert len(read.objectives[0]) == 3


def test_a_measurement_that_is_no_objective_is_no_choice_either(tmp_path: Path) -> None:
    read = read_designs(write_table(tmp_path / "t.csv"), objectives=("perplexity", "memory_mb"))
    assert "latency_ms" not in read.columns


def test_lists_and_numbers_are_read(tmp_path: Path) -> None:
    path = table(tmp_path, 'a,b,x,y\n1,2 4 8,0.5,9\n2.5,"[2, 4]",0.25,1e2\n')
    read = read_designs(path, objectives=("x", "y"))
    assert read.designs == ((1.0, (2.0, 4.0, 8.0)), (2.5, (2.0, 4.0)))
    assert read.objectives == ((0.5, 9.0), (0.25, 100.0))


def test_words_are_choices_too_and_labels_are_not(tmp_path: Path) -> None:
    path = table(tmp_path, "id,bias,x,y\n7,True,0.5,9\n8,False,0.25,8\n")
    read = read_designs(path, objectives=("x", "y"))
    assert read.columns == ("bias",)
    assert read.designs == ((1.0,), (0.0,))


def test_of_equal_designs_the_first_counts(tmp_path: Path) -> None:
    path = table(tmp_path, "a,x,y\n1,5,5\n2,6,6\n1,1,1\n")
    assert read_designs(path, objectives=("x", "y")).objectives == ((5.0, 5.0), (6.0, 6.0))


def test_design_columns_may_be_named(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b,x,y\n1,1,5,5\n2,1,6,6\n")
    assert read_designs(path, objectives=("x", "y"), columns=("b", "a")).designs == ((1.0, 1.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("text", "objectives", "message"),
    [
        ("a,x,y\n1,2,3\n2,3,4\n", ("x", "z"), "has no column z; it has: a, x, y"),
        ("a,x,y\n1,2,3\n2,3,4\n", ("x",), "two objectives or more"),
        ("a,x,y\n1,2,3\n2,3,4\n", ("x", "x"), "two objectives or more"),
        ("a,x,y\n1,2,3\n2,3\n", ("x", "y"), "line 3 has 2 values for 3 columns"),
        ("a,x,y\n1,2,3\n2,nan,4\n", ("x", "y"), "objective x holds 'nan'"),
        ("a,x,y\n1,2,3\n", ("x", "y"), "at least two rows"),
        ("latency_a,x,y\n1,2,3\n2,3,4\n", ("x", "y"), "with --columns"),
        ("a,x,y\n1,2,3\nbig,3,4\n", ("x", "y"), "column a holds 'big'"),
        ("a,x,y\n1,2,3\n,3,4\n", ("x", "y"), "column a has an empty cell"),
    ],
    ids=["column", "one", "twice", "uneven", "nan", "empty", "no design", "mixed", "blank"],
)
def test_a_bad_table_is_one_clear_line(text: str, objectives: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=message) as raised:
        read_designs(table(tmp_path, text), objectives=objectives)
    assert "\n" not in str(raised.value)


def test_a_missing_table_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="does not exist"):
        read_designs(tmp_path / "none.csv", objectives=("x", "y"))
