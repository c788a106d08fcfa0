"""Runs a search on Ray: Tune schedules trials, a trial is one candidate, and the measurement pool evaluates it.

Ray keeps no state of ours: after a kill, the session's log is enough. Tune's own files go to a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import tune

from lts_ray.errors import StoppedError
from lts_ray.lock import exclusive, nothing_left
from lts_ray.measurement.on_ray.pool import start_pool
from lts_ray.ray_session import connected
from lts_ray.search.on_ray.repeated_interrupt import repeated_interrupt
from lts_ray.search.on_ray.search_progress import SearchProgress, search_progress, watched
from lts_ray.search.on_ray.searcher import LtsSearcher, Offer
from lts_ray.search.on_ray.trial import CandidateTrial
from lts_ray.search.search_job import SearchJob
from lts_ray.search.search_log import has_evaluations
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate


def run_search(
    job: SearchJob[Candidate], output: Path, *, resume: bool = False, address: str | None = None, progress: bool = True
) -> SearchSession[Candidate]:
    """Search, with the log in `output`, and return the finished session.

    address: of a Ray cluster; None starts one on this machine, unless this process is connected to one already.
    Raises LtsRayError for bad input, targets without a node, or an interruption; `resume` then goes on.
    """
    with exclusive(output, "search", what="search"), nothing_left(output, began=lambda: has_evaluations(output)):
        session = SearchSession(job.plan, output, resume=resume)
        if not session.is_finished:
            try:
                with search_progress(session, visible=progress) as shown, connected(address):
                    _search(job, session, shown)
            except KeyboardInterrupt:
                raise StoppedError(
                    f"interrupted after {len(session.outcomes)} of {job.plan.settings.evaluations} evaluations, all of "
                    f"them in {session.log}; go on with the same command and --resume"
                ) from None
        return session


def _search(job: SearchJob[Candidate], session: SearchSession[Candidate], shown: SearchProgress) -> None:
    shown.say("starting measurement actors")
    pool = start_pool(job.workload, job.plan.targets)
    try:
        shown.say("evaluating")
        with watched(lambda: ray.get(pool.status.remote()), shown.show_nodes), repeated_interrupt():
            _tune(LtsSearcher(session, offer=_offering(job.plan, pool), show=shown.show), job.plan, pool)
    finally:
        ray.kill(pool)  # and with it the actors it owns


def _offering(plan: SearchPlan[Candidate], pool: Any) -> Offer:
    def offer(ticket: str, candidate: Any) -> None:
        exact = None if candidate is None or plan.exact_quality is None else plan.exact_quality(candidate)
        pool.offer.remote(ticket, candidate, exact)

    return offer


def _tune(searcher: LtsSearcher, plan: SearchPlan[Any], pool: Any) -> None:
    trial = tune.with_parameters(CandidateTrial, pool=pool)
    here = ray.util.get_node_ip_address()
    trial = tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 0, f"node:{here}": 0.001}]))
    concurrent = plan.settings.in_flight  # nodes that join later are used too
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
        raise StoppedError(f"the search stopped: {searcher.failure}; go on with the same command and --resume")
