from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, TargetEntry, write_frontier
from lts_ray.measurement.target import Target
from lts_ray.models.checkpoint import fingerprint
from serve.app import application, build
from serve.replica import build_service
from serve.settings import ServeArgs
from tests.serve.models import STEP_COST


def frontier_file(folder: Path, model_fingerprint: str) -> Path:
    entry = TargetEntry(target=Target(name="small", label_selector={"role": "small"}, threads=1), step_cost=STEP_COST)
    frontier = Frontier(
        model_fingerprint=model_fingerprint, quality="validation_loss", targets={"small": entry}, points=()
    )
    write_frontier(frontier, folder / "frontier.json")
    return folder / "frontier.json"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"modle": "x"}, "unknown argument modle; known: model, frontier"),
        ({"num_replicas": "0"}, "argument num_replicas"),
        ({"threads": "many"}, "argument threads"),
        ({"name": "a:b"}, "argument name"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(raw: dict[str, str], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        ServeArgs.parse(raw)


def test_files_that_cannot_be_served_are_refused_before_anything_starts(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="is not a folder"):
        ServeArgs.parse({"model": tmp_path / "nope"}).check()
    with pytest.raises(LtsRayError, match="needs frontier"):
        ServeArgs.parse({"model": model_dir, "target": "small"}).check()
    with pytest.raises(LtsRayError, match="does not exist"):
        ServeArgs.parse({"model": model_dir, "frontier": tmp_path / "none.json"}).check()
    with pytest.raises(LtsRayError, match="another model"):
        ServeArgs.parse({"model": model_dir, "frontier": frontier_file(tmp_path, "0" * 64)}).check()
    cut = tmp_path / "cut"
    shutil.copytree(model_dir, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(LtsRayError, match="missing or corrupt"):
        ServeArgs.parse({"model": cut}).check()


def test_a_named_target_places_the_replicas_and_an_unknown_one_is_refused(model_dir: Path, tmp_path: Path) -> None:
    path = frontier_file(tmp_path, fingerprint(model_dir))
    args = ServeArgs.parse({"model": model_dir, "frontier": path, "target": "small", "num_replicas": "2"})
    assert application(args) is not None
    target = args.check()
    assert target is not None
    assert target.label_selector == {"role": "small"}
    with pytest.raises(LtsRayError, match="it has: small"):
        ServeArgs.parse({"model": model_dir, "frontier": path, "target": "large"}).check()


def test_build_prints_one_line_and_exits_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        build({"model": str(tmp_path / "nope")})
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_replica_takes_the_matching_targets_step_cost_and_measures_without_one(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_cost = replace(STEP_COST, relative_error=0.5)
    monkeypatch.setattr("serve.replica.calibrate", lambda model, *, threads, seconds: measured_cost)
    path = frontier_file(tmp_path, fingerprint(model_dir))
    args = ServeArgs.parse({"model": model_dir, "frontier": path, "name": "tiny"})
    other_threads = args.model_copy(update={"threads": 2})
    services = [
        build_service(args, {"role": "small"}),
        build_service(args, {}),
        build_service(other_threads, {"role": "small"}),
    ]
    costs = [service.engine.step_cost for service in services]
    for service in services:
        service.engine.stop()
    assert costs == [STEP_COST, measured_cost, measured_cost]
    assert list(services[0].models()) == ["tiny", "tiny:XL"]
