from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.replay.design_table import DesignTable, read_designs
from lts_ray.replay.table_replay import replay
from tests.replay.tables import OBJECTIVES, write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> DesignTable:
    return read_designs(write_table(tmp_path_factory.mktemp("t") / "t.csv"), objectives=OBJECTIVES)


@pytest.mark.parametrize("algorithm", ["lts", "steady", "surrogate", "nsga2", "nsga3", "random"])
def test_a_whole_table_has_all_of_its_hypervolume(algorithm: str, tmp_path: Path) -> None:
    small = read_designs(write_table(tmp_path / "small.csv", rows=60), objectives=OBJECTIVES)
    found = replay(small, algorithm=algorithm, evaluations=60, seed=0)  # type: ignore[arg-type]
    assert list(found.hypervolume) == [50, 60]
    assert 0 < found.hypervolume[50] <= found.hypervolume[60] == pytest.approx(1.0)


def test_the_same_seed_finds_the_same_and_json_has_the_marks(table: DesignTable) -> None:
    first, again = (replay(table, algorithm="surrogate", evaluations=55, seed=3) for _ in range(2))
    assert first == again
    assert first.to_json()["hypervolume"].keys() == {"50", "55"}
    assert first.to_json()["algorithm"] == "surrogate"
    assert replay(table, algorithm="surrogate", evaluations=55, seed=4) != first


def test_the_surrogate_needs_fewer_evaluations_than_evolution(table: DesignTable) -> None:
    def share(algorithm: str) -> float:
        runs = (replay(table, algorithm=algorithm, evaluations=50, seed=seed) for seed in range(4))  # type: ignore[arg-type]
        return fmean(each.hypervolume[50] for each in runs)

    assert share("surrogate") > max(share("lts"), share("random"))


def test_progress_is_told(table: DesignTable) -> None:
    seen: list[int] = []
    replay(table, algorithm="random", evaluations=12, seed=0, show=seen.append)
    assert seen == list(range(1, 13))


def test_more_evaluations_than_rows_are_refused(table: DesignTable) -> None:
    with pytest.raises(LtsRayError, match="between 1 and the table's 300 rows; got 301"):
        replay(table, algorithm="lts", evaluations=301, seed=0)
