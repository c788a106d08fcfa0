"""Runs a search on Ray: Tune schedules trials, a trial is one candidate, and the measurement pool evaluates it.

Ray keeps no state of ours: after a kill, the session's log is enough. Tune's own files go to a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, write_frontier
from lts_ray.measurement.evaluation import outcome_to_json
from lts_ray.measurement.measure import Failed
from lts_ray.measurement.pool import Workload, start_pool
from lts_ray.measurement.steps import check_length
from lts_ray.measurement.target import Target
from lts_ray.models.checkpoint import load_checkpoint
from lts_ray.models.matformer import MatFormer
from lts_ray.report.html import write_report
from lts_ray.search.plan import SearchPlan
from lts_ray.search.progress import SearchProgress, search_progress
from lts_ray.search.searcher import CANDIDATE, OUTCOME, LtsSearcher
from lts_ray.search.session import SearchSession
from lts_ray.search.settings import SearchSettings
from lts_ray.spaces.registry import space_named

CALIBRATION_S = 5.0
"""Seconds spent per target on its step-cost model."""
FRONTIER, REPORT = "frontier.json", "report.html"
QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: 10 ms a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours to report
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def run_search(
    *,
    model_dir: Path,
    space: str,
    targets: tuple[Target, ...],
    settings: SearchSettings,
    validation_blocks: torch.Tensor | None,
    output: Path,
    resume: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> Frontier:
    """Search, write `output`/frontier.json and report.html, and return the frontier.

    validation_blocks: [N, T + 1], int64; needed for the quality "validation_loss". address: of a Ray cluster; None
    starts one on this machine, unless this process is connected to one already.
    Raises LtsRayError for bad input, targets without a node, or an interruption; `resume` then goes on.
    """
    checkpoint = load_checkpoint(model_dir)
    model = checkpoint.model
    for target in targets:
        check_length(model, target.sequence_length)
    if settings.quality == "validation_loss" and (validation_blocks is None or not len(validation_blocks)):
        raise LtsRayError("the quality validation_loss needs text: name some, or search with quality decoder_params")
    blocks = validation_blocks if settings.quality == "validation_loss" else None
    plan = SearchPlan(
        model_fingerprint=checkpoint.fingerprint,
        config=model.config,
        space=space_named(space, model.config),
        targets=targets,
        settings=settings,
        validation_fingerprint=None if blocks is None else _fingerprint(blocks),
    )
    session = SearchSession(plan, output, resume=resume)
    if not session.is_finished or session.missing_step_costs:
        try:
            with search_progress(session, visible=progress) as shown, connected(address):
                _search(session, model, blocks, shown)
        except KeyboardInterrupt:
            raise LtsRayError(
                f"interrupted after {len(session.outcomes)} of {settings.evaluations} evaluations, all of them in "
                f"{session.log}; go on with the same command and --resume"
            ) from None
    frontier = session.frontier()
    write_frontier(frontier, output / FRONTIER)
    write_report(session, output / REPORT)
    return frontier


class CandidateTrial(tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """A trial: hands its candidate to the pool and reports the outcome. Reused, because a new actor takes seconds."""

    def setup(self, config: dict[str, Any], pool: Any = None) -> None:
        self._pool, self._candidate = pool, config[CANDIDATE]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._candidate = new_config[CANDIDATE]
        return True

    def step(self) -> dict[str, Any]:
        outcome = ray.get(self._pool.evaluate.remote(Submodel.from_json(self._candidate)))
        return {OUTCOME: json.dumps(outcome_to_json(outcome)), "done": True}  # Tune would flatten a dict


def _search(session: SearchSession, model: MatFormer, blocks: torch.Tensor | None, shown: SearchProgress) -> None:
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    shown.say("starting a measurement actor on each target")
    workload = Workload(
        config=model.config,
        weights=ray.put(weights),
        blocks=None if blocks is None else ray.put(blocks.numpy()),
        targets=session.plan.targets,
    )
    pool = start_pool(workload)
    try:
        if session.missing_step_costs:
            shown.say("calibrating")
            for target, step_cost in ray.get(pool.calibrate.remote(CALIBRATION_S)).items():
                if isinstance(step_cost, Failed):
                    raise LtsRayError(f"target {target!r} could not be calibrated: {step_cost.reason}")
                session.record_step_cost(target, step_cost)
        shown.say("evaluating")
        concurrent = ray.get(pool.hosts.remote()) + 1  # one more than can run, so that a host never waits for Tune
        _tune(LtsSearcher(session, show=shown.show), pool, concurrent=concurrent)
    finally:
        ray.kill(pool)  # and with it the actors it owns


def _tune(searcher: LtsSearcher, pool: Any, *, concurrent: int) -> None:
    trial = tune.with_parameters(CandidateTrial, pool=pool)
    here = ray.util.get_node_ip_address()
    trial = tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 0, f"node:{here}": 0.001}]))
    with tempfile.TemporaryDirectory(prefix="lts-ray-tune-") as storage:
        tune.Tuner(
            trial,
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=concurrent, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=storage, verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
            ),
        ).fit()
    if searcher.failure is not None:
        raise LtsRayError(f"the search stopped: {searcher.failure}; go on with the same command and --resume")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connected to Ray, quietly; what this connects, it disconnects."""
    before = {name: os.environ.get(name) for name in QUIET_TUNE}
    os.environ.update(QUIET_TUNE)
    levels = {name: logging.getLogger(name).level for name in ("ray", "ray.tune")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    mine = not ray.is_initialized()
    try:
        if mine:
            _connect(address)
        yield
    finally:
        if mine:
            ray.shutdown()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _connect(address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    where = address or os.environ.get("RAY_ADDRESS")
    if where is None:  # ray.init without an address would join any cluster that it finds on this machine
        where = "local"
        options |= {"include_dashboard": False}
    try:
        ray.init(address=where, **options)
    except ConnectionError as error:
        raise LtsRayError(f"no Ray cluster at {address!r}: {' '.join(str(error).split())}") from None


def _fingerprint(blocks: torch.Tensor) -> str:
    return hashlib.sha256(str(tuple(blocks.shape)).encode() + blocks.to(torch.int64).numpy().tobytes()).hexdigest()
