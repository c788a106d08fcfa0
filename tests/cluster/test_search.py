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
import ray
import torch

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, read_json_lines
from lts_ray.frontier import Frontier, read_frontier
from lts_ray.measurement.outcome import Evaluation
from lts_ray.ray_session import connected
from lts_ray.report.search_page import REPORT, write_report
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.backbone_search import backbone_job
from lts_ray.search.on_ray.search_run import run_search
from lts_ray.search.read_search import read_search
from lts_ray.search.search_job import SearchJob
from lts_ray.search.search_log import LOG
from lts_ray.search.search_session import SearchSession
from lts_ray.search.submodel_search import SubmodelResults, submodel_job
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces.limits import Limits
from lts_ray.training.found_architecture import found_architecture
from tests.cluster.actors import ArchitectureActor, HaltingActor, HeldArchitectureActor
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
    search(Path(model), Path(output), address, resume=True, most=4)
except LtsRayError as error:
    sys.exit(str(error))
"""
JOB = """
import sys
from pathlib import Path
from tests.cluster.test_search import search_architectures
search_architectures(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def search_architectures(go: Path, output: Path, address: str) -> None:
    """What a job runs, however often it is tried: it begins, or goes on."""
    job = held_job(go)
    session = run_search(job, output, resume=True, address=address, progress=False)
    job.results.write(session, output)


def held_job(go: Path) -> SearchJob[Architecture]:
    settings = SearchSettings(evaluations=12, in_flight=2, quality="decoder_params")
    job = backbone_job(space=gpt2.SPACE, targets=TARGETS, settings=settings)
    return replace(job, workload=replace(job.workload, payload=str(go), actor_class=HeldArchitectureActor))


def search(model_dir: Path, output: Path, address: str, *, resume: bool = False, most: int | None = None) -> Frontier:
    """most: candidates that are measured; then it stands still."""
    blocks = torch.randint(300, (4, 33), generator=torch.Generator().manual_seed(0))
    job = submodel_job(
        model_dir=model_dir, space="mix-n-match", targets=TARGETS, settings=SETTINGS, validation_blocks=blocks
    )
    actor = BriefActor if most is None else type("SoManyActor", (HaltingActor,), {"most": most})
    job = replace(job, workload=replace(job.workload, actor_class=actor))
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
    return stop([DRIVER, str(model_dir), str(output), address], output, after=after, how=how)


def stop(script: list[str], output: Path, *, after: int, how: int) -> str:
    driver = subprocess.Popen(
        [sys.executable, "-c", *script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while driver.poll() is None and len(read_json_lines(output / LOG, what="log")) <= after:
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


@ray.remote(num_cpus=0, label_selector={"role": "server"})  # type: ignore[untyped-decorator]
def try_again_on_the_server(go: Path, output: Path, address: str) -> str:
    search_architectures(go, output, address)
    return str(ray.get_runtime_context().get_node_labels()["role"])


def test_a_search_whose_driver_is_killed_is_ended_by_the_same_job_on_another_node(cluster: str, tmp_path: Path) -> None:
    """The folder is the nodes' in common. The result is that of a search which nothing disturbed."""
    go, output = tmp_path / "go", tmp_path / "shared"
    assert "Traceback" not in stop([JOB, str(go), str(output), cluster], output, after=1, how=signal.SIGKILL)
    done = read_json_lines(output / LOG, what="log")[1:]
    assert 1 <= len(done) <= 2
    go.touch()
    with connected(cluster):
        assert ray.get(try_again_on_the_server.remote(go, output, cluster)) == "server"
    records = read_json_lines(output / LOG, what="log")[1:]
    assert records[: len(done)] == done
    assert len({str(record["candidate"]) for record in records}) == len(records) == 12

    job = held_job(go)
    whole = SearchSession(job.plan, tmp_path / "whole", resume=False)
    actors = {target.name: ArchitectureActor(target, None, None) for target in TARGETS}
    while (candidate := whole.ask()) is not None:
        measurements = {name: actor.measure(candidate) for name, actor in actors.items()}
        assert job.plan.exact_quality is not None
        whole.record(candidate, Evaluation(loss=job.plan.exact_quality(candidate), measurements=measurements))  # type: ignore[arg-type]
    job.results.write(whole, tmp_path / "whole")
    assert read_json(output / "architectures.json", what="") == read_json(
        tmp_path / "whole/architectures.json", what=""
    )
