from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, read_json_lines
from lts_ray.frontier import Frontier, read_frontier
from lts_ray.report.search_page import REPORT, write_report
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.backbone_search import backbone_job
from lts_ray.search.on_ray.search_run import run_search
from lts_ray.search.read_search import read_search
from lts_ray.search.search_log import LOG
from lts_ray.search.submodel_search import SubmodelResults, submodel_job
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces.limits import Limits
from lts_ray.training.found_architecture import found_architecture
from tests.cluster.actors import ArchitectureActor
from tests.cluster.conftest import TARGETS
from tests.conftest import ROOT
from tests.measurement.brief import BriefActor

SETTINGS = SearchSettings(evaluations=10, seed=3, in_flight=2)
DRIVER = """
import sys
from pathlib import Path
from lts_ray.errors import LtsRayError
from tests.cluster.test_search import search
model, output, address = sys.argv[1:]
try:
    search(Path(model), Path(output), address, resume=Path(output).exists())
except LtsRayError as error:
    sys.exit(str(error))
"""


def search(model_dir: Path, output: Path, address: str, *, resume: bool = False) -> Frontier:
    blocks = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    job = submodel_job(
        model_dir=model_dir, space="mix-n-match", targets=TARGETS, settings=SETTINGS, validation_blocks=blocks
    )
    job = replace(job, workload=replace(job.workload, actor_class=BriefActor))
    session = run_search(job, output, resume=resume, address=address, progress=False)
    assert isinstance(job.results, SubmodelResults)
    job.results.write(session, output)
    write_report(session, job.results, output / REPORT)
    return job.results.frontier(session)


def evaluated(output: Path) -> Counter[tuple[int, ...]]:
    records = read_json_lines(output / LOG, what="log")
    return Counter(tuple(each["candidate"]) for each in records if each["kind"] == "evaluation")


def stop_driver(model_dir: Path, output: Path, address: str, *, after: int, how: int) -> str:
    """Run the search in another process, stop it with a signal after some evaluations; what it said."""
    root = ROOT
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


@pytest.mark.timeout(900)  # real measurements, and three searches
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
    assert (output / REPORT).stat().st_size > 1_000_000
    record = next(each for each in read_json_lines(output / LOG, what="log") if each["kind"] == "evaluation")
    assert {name: each["prefill"]["threads"] for name, each in record["measurements"].items()} == {
        "edge": 1,
        "server": 2,
    }
    again = search(model_dir, output, "nowhere:1", resume=True)  # complete: needs no cluster
    assert again == frontier
    assert sum(evaluated(output).values()) == 10
    reopened, results = read_search(output, model_dir=model_dir)
    assert isinstance(results, SubmodelResults)
    assert results.frontier(reopened) == frontier


def test_architectures_are_searched_by_each_kind_of_algorithm(cluster: str, tmp_path: Path) -> None:
    """Through Ray Tune and the pool, with actors that compute costs; the results are read back and can be trained."""
    for algorithm, evaluations in (("surrogate", 16), ("predicted", 40)):
        settings = SearchSettings(
            evaluations=evaluations,
            in_flight=2,
            quality="decoder_params",
            algorithm=algorithm,  # type: ignore[arg-type]
            predicted=200,
            limits=Limits(max_decoder_params=60_000_000),
        )
        planned = backbone_job(space=gpt2.SPACE, targets=TARGETS, settings=settings)
        output = tmp_path / algorithm
        workload = replace(planned.workload, actor_class=ArchitectureActor)
        session = run_search(replace(planned, workload=workload), output, address=cluster, progress=False)
        assert len(session.evaluated) == evaluations
        planned.results.write(session, output)
        points = read_json(output / "architectures.json", what="architectures")["points"]
        assert {name for each in points for name in each["fronts"]} == {"edge", "server"}
        assert all(each["decoder_params"] <= 60_000_000 for each in points)
        reopened, _ = read_search(output, model_dir=output)
        assert reopened.outcomes == session.outcomes
        assert found_architecture(output, points[0]["name"], vocab_size=300, context_length=16).backbone == "gpt2"
