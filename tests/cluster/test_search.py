from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.frontier import Frontier, read_frontier
from lts_ray.search.log import LOG
from lts_ray.search.reopen import read_session
from lts_ray.search.run import run_search
from lts_ray.search.settings import SearchSettings
from tests.cluster.conftest import TARGETS

SETTINGS = SearchSettings(evaluations=10, seed=3)
DRIVER = """
import sys
from pathlib import Path
import lts_ray.search.run
from lts_ray.errors import LtsRayError
from tests.cluster.test_search import search
lts_ray.search.run.CALIBRATION_S = 0.5
model, output, address = sys.argv[1:]
try:
    search(Path(model), Path(output), address, resume=True)
except LtsRayError as error:
    sys.exit(str(error))
"""


def search(model_dir: Path, output: Path, address: str, *, resume: bool = False) -> Frontier:
    blocks = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    return run_search(
        model_dir=model_dir,
        space="mix-n-match",
        targets=TARGETS,
        settings=SETTINGS,
        validation_blocks=blocks,
        output=output,
        resume=resume,
        address=address,
        progress=False,
    )


def evaluated(output: Path) -> Counter[tuple[int, ...]]:
    records = read_json_lines(output / LOG, what="log")
    return Counter(tuple(each["candidate"]) for each in records if each["kind"] == "evaluation")


def stop_driver(model_dir: Path, output: Path, address: str, *, after: int, how: int) -> str:
    """Run the search in another process, stop it with a signal after some evaluations; what it said."""
    root = Path(__file__).parents[2]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(model_dir), str(output), address],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while driver.poll() is None and sum(evaluated(output).values()) < after:
        time.sleep(0.02)
    driver.send_signal(how)
    return driver.communicate()[1]


def test_a_search_finds_a_frontier_and_goes_on_after_ctrl_c_and_a_kill(
    cluster: str, model_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "search"
    said = stop_driver(model_dir, output, cluster, after=2, how=signal.SIGINT)
    assert f"all of them in {output / LOG}; go on with the same command and --resume" in said
    assert "Traceback" not in said
    stop_driver(model_dir, output, cluster, after=5, how=signal.SIGKILL)
    assert 5 <= sum(evaluated(output).values()) < 10
    with pytest.raises(LtsRayError, match="is not empty"):
        search(model_dir, output, cluster)
    frontier = search(model_dir, output, cluster, resume=True)
    counts = evaluated(output)
    assert len(counts) == 10
    assert set(counts.values()) == {1}, "an evaluation was done twice"
    assert read_frontier(output / "frontier.json") == frontier
    assert {"S", "M", "L", "XL"} <= {point.name for point in frontier.points}
    assert all(frontier.front(target.name) for target in TARGETS)
    assert (output / "report.html").stat().st_size > 1_000_000
    record = next(each for each in read_json_lines(output / LOG, what="log") if each["kind"] == "evaluation")
    assert {name: each["prefill"]["threads"] for name, each in record["measurements"].items()} == {
        "edge": 1,
        "server": 2,
    }
    again = search(model_dir, output, "nowhere:1", resume=True)  # complete: needs no cluster
    assert again == frontier
    assert sum(evaluated(output).values()) == 10
    assert read_session(output, model_dir=model_dir).frontier() == frontier
