"""Faults under load: what is lost when replicas, drivers, trials, actors and nodes die, stand still or slow down.

A simulated cluster of three kinds of node serves requests whose answers are known, and searches beside. Faults come one
after the other, each once all is whole again. Every answer is then judged, and every log of a search.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import httpx
import numpy as np
import typer
import yaml
from ray import serve
from ray.cluster_utils import Cluster

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.turns import Progress
from benchmarks.load.chaos_answer import ChaosAnswer, ask_stream, draw_requests
from benchmarks.load.chaos_result import ChaosResult, Strike, judge_answer
from benchmarks.load.cluster_process import ClusterProcess, children_of, slowed, stopped
from benchmarks.load.fault import FAULTS, Fault, draw_faults
from benchmarks.load.search_loop import SearchLoop
from lts_ray.checkpoints.universal import read_universal
from lts_ray.cli.options import OutputFile, Seed
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json, write_text
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.ray_session import SimulatedNode, connected, growing_cluster, join, nodes_for
from lts_ray.target import load_targets
from serve.app import application
from serve.serve_args import ServeArgs

KINDS = ("cpu-small", "cpu-large", "gpu")
"""Alike but for their labels: what is looked at is which of them dies."""
NODE_CPUS = 3
"""A replica takes one, a measurement none."""
FIRST_EVALUATIONS, EVALUATIONS = 4, 20
"""Of the search that gives the frontier to serve, and of each that runs beside."""
REQUESTS, ROUNDS, CONTEXT = 24, 3, 512
"""Different ones, and how often each is in the backlog that says what saturation is."""
SLACK = 4.0
"""A budget, over the time that the answer takes alone."""
HANG_S, FIND_S, WHOLE_S, END_S = 60.0, 90.0, 180.0, 900.0
"""How long a client waits for a byte, a fault for a process of its role, what follows for all to be whole again, and
the end for the last search."""
LOOK_S, REJOIN_S = 0.2, 2.0


class ChaosCluster:
    def __init__(self, cluster: Cluster, places: dict[Any, SimulatedNode], search: SearchLoop) -> None:
        """places: how each of its nodes was started."""
        self._cluster, self._places, self._search = cluster, places, search

    def found(self) -> dict[str, list[ClusterProcess]]:
        """The processes of each role."""
        raylets = {_raylet(node): place.name for node, place in self._places.items()}
        found = defaultdict(list, node=[ClusterProcess(pid, name) for pid, name in raylets.items()])
        for each in children_of({*raylets, _raylet(self._cluster.head_node)}):
            found[each.role or ""].append(each)
        if self._search.driver is not None:
            found["driver"] = [ClusterProcess(self._search.driver, "lts-ray search")]
        return found

    async def strike(self, fault: Fault) -> Strike:
        """Do it, and wait until all is whole again. Raises LtsRayError where that never comes."""
        if not await _until(lambda: bool(self.found()[fault.role]), FIND_S):
            raise LtsRayError(f"the fault {fault.name} found no process in {FIND_S:.0f} s")
        self._search.note()
        found = self.found()
        victim = found[fault.role][int(fault.pick * len(found[fault.role]))]
        gone = {victim.pid, *(each.pid for each in children_of({victim.pid}))} if fault.kills else set()
        at_s = monotonic()
        with suppress(ProcessLookupError):  # it may have ended just now
            if fault.kills:
                os.kill(victim.pid, signal.SIGKILL)
            elif fault.name == "slow":
                await slowed(victim.pid, fault.lasts_s)
            else:
                with stopped(victim.pid):
                    await asyncio.sleep(fault.lasts_s)
        if fault.role == "node":
            await asyncio.sleep(REJOIN_S)
            await asyncio.to_thread(self._rejoin, victim.pid)
        if not await _until(lambda: self._is_whole(fault.role, gone), WHOLE_S):
            raise LtsRayError(f"not whole again {WHOLE_S:.0f} s after the fault {fault.name} of {victim.title}")
        broke = any(each.pid in gone for each in found["ingress"])
        return Strike(name=fault.name, at_s=at_s, whole_s=monotonic(), process=victim.title, took_ingress=broke)

    def _rejoin(self, raylet: int) -> None:
        node = next(node for node in self._places if _raylet(node) == raylet)
        place = self._places.pop(node)
        self._cluster.remove_node(node, allow_graceful=False)
        self._places[join(self._cluster, place)] = place

    def _is_whole(self, role: str, gone: set[int]) -> bool:
        found = self.found()
        left = {name: [each for each in found[name] if each.pid not in gone] for name in ("replica", "ingress", role)}
        if len(left["replica"]) < len(KINDS) or not left["ingress"] or not left[role]:
            return False
        states = [each.status for each in serve.status().applications["default"].deployments.values()]
        return all(state == "HEALTHY" for state in states)


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


async def _until(is_so: Callable[[], bool], seconds: float) -> bool:
    """is_so: asked in a thread of its own, for it may wait for Ray."""
    end_s = monotonic() + seconds
    while not (so := await asyncio.to_thread(is_so)) and monotonic() < end_s:
        await asyncio.sleep(LOOK_S)
    return so


class ChaosLoad:
    """Requests of which the answers are known from before the first fault."""

    def __init__(self, client: httpx.AsyncClient, *, load: float, seed: int) -> None:
        self._client, self._rng, self.answers = client, np.random.default_rng(seed), list[ChaosAnswer]()
        self.result = ChaosResult(seed=seed, rate=0.0, load=load)

    async def learn(self) -> None:
        """What each answer is and takes alone, and how fast a backlog of all is worked off."""
        models = [each["id"] for each in (await self._client.get("/v1/models")).json()["data"]]
        size = read_universal(DEFAULT_MODEL)[0].vocab_size
        requests = draw_requests(REQUESTS, seed=self.result.seed, models=models, vocab_size=size, context=CONTEXT)
        alone = [await ask_stream(self._client, request) for request in requests]
        self._asked = [(each.request, SLACK * 1e3 * (each.ended_s - each.sent_s)) for each in alone]
        self.wanted = {each.request.number: each.text for each in alone}
        begin_s = monotonic()
        together = await asyncio.gather(*(ask_stream(self._client, request) for request in requests * ROUNDS))
        self.result.rate = self.result.load * len(together) / (monotonic() - begin_s)
        for answer in (*alone, *together):
            if judge_answer(answer, (), self.wanted) != "whole":
                what = answer.error or answer.broken or repr(answer.text)
                raise LtsRayError(f"without any fault, request {answer.request.number} gets {what}")

    async def replay(self, stop: asyncio.Event) -> None:
        """A request is sent when it is due, whichever others still wait."""

        async def send(number: int) -> None:
            self.answers.append(await ask_stream(self._client, *self._asked[number]))

        due_s = monotonic()
        async with asyncio.TaskGroup() as open_requests:
            while not stop.is_set():
                due_s += self._rng.exponential(1 / self.result.rate)
                await asyncio.sleep(max(0.0, due_s - monotonic()))
                open_requests.create_task(send(int(self._rng.integers(REQUESTS))))


async def measure_chaos(
    cluster: ChaosCluster, search: SearchLoop, load: ChaosLoad, faults: Sequence[Fault], progress: Progress
) -> ChaosResult:
    result, over, stop = load.result, asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        searching = tasks.create_task(search.run(stop))
        await _until(lambda: bool(search.lines()), END_S)
        await load.learn()
        begin_s, replaying = monotonic(), tasks.create_task(load.replay(over))
        for number, fault in enumerate(faults):
            progress(number, len(faults))
            await asyncio.sleep(fault.quiet_s)
            try:
                result.strikes.append(await cluster.strike(fault))
            except LtsRayError as error:
                result.violations.append(str(error))
        await asyncio.sleep(faults[-1].quiet_s)
        over.set()
        await replaying
        result.seconds = monotonic() - begin_s
        stop.set()
        await asyncio.wait([searching], timeout=END_S)
        if not searching.done():
            result.violations.append(f"the last search is not at its count after {END_S:.0f} s")
            searching.cancel()
    for answer in load.answers:
        result.add(answer, load.wanted)
    result.searches, result.evaluations = search.reached, search.evaluations
    result.violations += search.violations
    return result


@contextmanager
def fleet_endpoint(frontier: Path) -> Iterator[str]:
    """Its URL, on the cluster that this process is connected to. Its proxy is on the head, which no fault strikes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
    try:
        serve.run(application(ServeArgs(model=DEFAULT_MODEL, frontier=frontier, kinds=KINDS)))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


def run_chaos(folder: Path, faults: Sequence[Fault], *, load: float, seed: int, progress: Progress) -> ChaosResult:
    """folder: an empty one for the searches."""
    targets = folder / "targets.yaml"
    entries = [{"name": name, "label_selector": {"role": name}, "resources": {name: 1}} for name in KINDS]
    write_text(targets, yaml.safe_dump({"targets": entries}))
    nodes = [replace(node, num_cpus=NODE_CPUS) for node in nodes_for(load_targets(targets))]
    with growing_cluster([], head_cpus=NODE_CPUS) as cluster:
        places = {join(cluster, node): node for node in nodes}
        cluster._shutdown_at_exit = False  # by a signal's handler: those that join later do so in another thread
        command = ["--targets", targets, "--blocks", "4", "--address", cluster.address]
        first = SearchLoop(command, folder / "first", evaluations=FIRST_EVALUATIONS)
        frontier = first.folder / "frontier.json"
        asyncio.run(first.run())
        search = SearchLoop(command, folder / "beside", evaluations=EVALUATIONS)

        async def main(url: str) -> ChaosResult:
            limits, timeout = httpx.Limits(max_connections=None), httpx.Timeout(HANG_S)
            async with httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False) as client:
                load_here = ChaosLoad(client, load=load, seed=seed)
                return await measure_chaos(ChaosCluster(cluster, places, search), search, load_here, faults, progress)

        with connected(cluster.address), fleet_endpoint(frontier) as url:
            try:
                return asyncio.run(main(url))
            except BaseExceptionGroup as errors:  # an LtsRayError is for the user, who has no use for a group of them
                raise errors.exceptions[0] from None


def chaos(
    faults: Annotated[int, typer.Option("--faults", "-n", min=1, help="How many, one after the other.")] = 50,
    kinds: Annotated[str, typer.Option(help="Of fault, each as often as the others.")] = ",".join(FAULTS),
    load: Annotated[float, typer.Option(min=0.01, help="Of what the endpoint works off of a backlog.")] = 0.7,
    seed: Seed = 0,
    output: OutputFile = None,
) -> None:
    """Kill, stop and slow what serves and what searches. Exit code 1 when tokens, answers or evaluations are lost."""
    drawn = draw_faults(faults, seed=seed, names=names_of(kinds))
    with tempfile.TemporaryDirectory(prefix="lts-chaos-") as folder, shown_progress("faults") as progress:
        result = run_chaos(Path(folder), drawn, load=load, seed=seed, progress=progress)
    if output is not None:
        write_json(output, result.to_json())
    print_rows(result.rows(), as_json=False)
    print("\n".join([*result.violations, *result.lines]))
    print(json.dumps(result.to_json()))
    if result.violations:
        raise SystemExit(1)


if __name__ == "__main__":
    run_benchmark(chaos)
