"""Search and serving over three hosts, of which one is killed, cut off or slowed: what is lost, and how long it takes.

The hosts are network namespaces on this machine, each with a Ray node of its own and a label, `role`, of its name.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.common.command import run_benchmark
from benchmarks.common.network_hosts import NetworkHost, network_hosts
from benchmarks.load.steady_clients import SteadyAnswer, SteadyClients, missed
from lts_ray import console
from lts_ray.cli.options import Model
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines, without_infinities, write_text
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.ray_session import NICENESS
from lts_ray.search.search_log import LOG

SCHEMA = 1
NAMES = ("a", "b", "c")
"""Of the hosts. The driver and the ingress are on the first, which nothing happens to."""
KINDS = NAMES[1:]
"""Of node, in the fleet: one for each other host."""
PORT = 8000
CUT_S = 10.0
STEADY_S = 3.0
"""Before anything happens."""
HANG_S = 300.0
"""From which on something is taken to hang."""
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", NICENESS: "0"}
STARTS = 3
"""Tries: Ray gives up after 30 s, which a busy machine may take."""


@dataclass(frozen=True, kw_only=True)
class Check:
    scenario: str
    what: str
    found: float
    at_least: float = 0.0
    at_most: float = inf
    unit: str = "s"

    @property
    def is_kept(self) -> bool:
        return self.at_least <= self.found <= self.at_most

    def row(self) -> dict[str, object]:
        return {**asdict(self), "ok": self.is_kept}


class RayHosts:
    """Hosts with a Ray node each, which are one cluster. folder: where logs and results go."""

    def __init__(self, hosts: Mapping[str, NetworkHost], model: Path, folder: Path) -> None:
        self.hosts, self.model, self.folder = hosts, model, folder
        self.head = hosts[NAMES[0]]
        for name in NAMES:
            self.join(name)

    @cached_property
    def endpoint(self) -> HostEndpoint:
        """Started when first needed."""
        return HostEndpoint(self)

    def join(self, name: str) -> None:
        """Start the host's node. The first one is the head."""
        host, address = self.hosts[name], f"{self.head.address}:6379"
        options = ["--node-ip-address", host.address, "--temp-dir", str(host.folder), "--labels", f"role={name}"]
        options += ["--num-cpus", "1", "--object-store-memory", "100000000"]
        options += ["--head", "--include-dashboard", "false"] if host is self.head else ["--address", address]
        for _ in range(STARTS):
            if self.python("-m", "ray.scripts.scripts", "start", *options, on=host, log="ray").wait(HANG_S) == 0:
                return
            host.kill()
            host.boot()
        raise LtsRayError(f"Ray does not start on host {name}: see {self.folder / 'ray.log'}")

    def python(self, *words: str, on: NetworkHost, log: str) -> subprocess.Popen[bytes]:
        known = {**ENVIRONMENT, "RAY_ADDRESS": f"{self.head.address}:6379"} if log != "ray" else ENVIRONMENT
        return on.start(sys.executable, *words, log=self.folder / f"{log}.log", environment=known)


class HostEndpoint(SteadyClients):
    """Of the kinds of node `b` and `c`, which are hosts; proxy and ingress are on the first host."""

    def __init__(self, cluster: RayHosts) -> None:
        frontier = cluster.folder / "frontier" / "frontier.json"
        if HostSearch(cluster, frontier.parent.name, evaluations=4).lost():
            raise LtsRayError(f"no frontier to serve: see {cluster.folder / 'frontier.log'}")
        arguments = {"model": str(cluster.model), "frontier": str(frontier), "kinds": ",".join(KINDS), "name": "lts"}
        application = {"name": "lts", "route_prefix": "/", "import_path": "serve.app:build", "args": arguments}
        http = {"http_options": {"host": "0.0.0.0", "port": PORT}, "proxy_location": "HeadOnly"}
        config = cluster.folder / "serve.yaml"
        write_text(config, json.dumps({**http, "applications": [application]}))  # which is YAML
        process = cluster.python("-m", "lts_ray.cli.main", "serve", str(config), on=cluster.head, log="serve")
        super().__init__(f"http://{cluster.head.address}:{PORT}", "lts")
        until(lambda: bool(self.ask(tokens=1).report), ended=process.poll, what="the endpoint: see serve.log")
        self.wait_for(KINDS)
        self.learn()

    def wait_for(self, kinds: Sequence[str]) -> None:
        """Until each of these kinds has answered, under some load."""
        with self.asking() as answers:
            until(lambda: set(kinds) <= {each.report.get("kind") for each in answers}, what=f"answers of {kinds}")


class HostSearch:
    """A search over all hosts, with a target on each, that runs on the first."""

    def __init__(self, cluster: RayHosts, name: str, *, evaluations: int) -> None:
        targets = cluster.folder / "targets.yaml"
        kinds = "".join(
            f"- {{name: {each}, label_selector: {{role: {each}}}, sequence_length: 64}}\n" for each in NAMES
        )
        write_text(targets, f"targets:\n{kinds}")
        self._output, self._log = cluster.folder / name, cluster.folder / f"{name}.log"
        words = ["search", "--targets", str(targets), "--output", str(self._output), "--model", str(cluster.model)]
        words += ["--evaluations", str(evaluations)]
        self._process = cluster.python("-m", "lts_ray.cli.main", *words, on=cluster.head, log=name)
        self._evaluations = evaluations

    def reach(self, count: int) -> float:
        """Seconds until so many evaluations are done."""
        return until(lambda: self.count >= count, ended=self._process.poll, what=f"evaluation {count}: see {self._log}")

    def says(self, words: str) -> float:
        """Seconds until it has said them."""
        return until(lambda: words in self.said, ended=self._process.poll, what=f"'{words}' in {self._log}")

    @property
    def said(self) -> str:
        return " ".join(self._log.read_text(encoding="utf-8").split())

    @property
    def count(self) -> int:
        return sum(self._evaluated().values())

    def lost(self) -> int:
        """Evaluations that are missing, failed or done twice once it has ended."""
        code = self._process.wait(HANG_S)
        counts = self._evaluated()
        return abs(code) + abs(self._evaluations - len(counts)) + sum(counts.values()) - len(counts)

    def _evaluated(self) -> Counter[str]:
        records = read_json_lines(self._output / LOG, what="search log")
        return Counter(str(each["candidate"]) for each in records if each["kind"] == "evaluation")


def search_killed(cluster: RayHosts) -> Iterator[Check]:
    """A host goes in the middle of a search, and comes back when the search has said that it waits for it."""
    check, host = partial(Check, scenario="search-killed"), cluster.hosts["c"]
    search = HostSearch(cluster, "search-killed", evaluations=10)
    search.reach(2)
    host.kill()
    yield check(what="it says that it waits", found=search.says("target 'c' has no node now"), at_most=90)
    before = search.count
    host.boot()
    began_s = time.monotonic()
    cluster.join("c")
    search.reach(before + 1)
    yield check(what="boot to the next evaluation", found=time.monotonic() - began_s, at_most=60)
    yield check(what="evaluations lost", found=search.lost(), at_most=0, unit="")


def search_cut(cluster: RayHosts) -> Iterator[Check]:
    """A host is cut off for a while in the middle of a search, which keeps its measuring actor."""
    check, host = partial(Check, scenario="search-cut"), cluster.hosts["b"]
    search = HostSearch(cluster, "search-cut", evaluations=8)
    search.reach(2)
    host.cut()
    time.sleep(CUT_S)
    before = search.count
    host.mend()
    yield check(what="back to the next evaluation", found=search.reach(before + 1), at_most=30)
    yield check(what="evaluations lost", found=search.lost(), at_most=0, unit="")
    yield check(what="actors lost", found=search.said.count("is started again"), at_most=0, unit="")


def streams_lost(cluster: RayHosts, *, dies: bool) -> Iterator[Check]:
    """A host is lost in the middle of streams, and comes back. dies: else it is only cut off."""
    check, endpoint = partial(Check, scenario="streams-killed" if dies else "streams-cut"), cluster.endpoint
    with endpoint.asking() as answers:
        time.sleep(STEADY_S)
        host = busiest(cluster, answers)
        lost_s = time.monotonic()
        host.kill() if dies else host.cut()
        time.sleep(CUT_S)
        back_s = time.monotonic()
        host.boot() if dies else host.mend()
        if dies:
            cluster.join(host.name)
        used_s = until(
            lambda: any(each.began_s > back_s and each.report.get("kind") == host.name for each in answers),
            what=f"an answer of host {host.name}",
        )
    moved = [answer for answer in answers if answer.report.get("migrations")]
    late = [answer.began_s - lost_s for answer in moved if lost_s < answer.began_s < back_s]
    yield check(what="wrong or cut streams", found=len(endpoint.wrong(answers)), at_most=0, unit=f"of {len(answers)}")
    yield check(what="streams that moved", found=len(moved), at_least=1, unit="")
    yield check(
        what="pause of streams that moved, median", found=median([each.pause_s for each in moved] or [inf]), at_most=4
    )
    yield check(what="until no new stream goes there", found=max(late, default=0), at_most=2)
    yield check(what="until it answers again", found=used_s, at_most=120 if dies else 5)


def slowed(cluster: RayHosts) -> Iterator[Check]:
    """A host runs at half speed: budgets are kept elsewhere."""
    check, endpoint = partial(Check, scenario="slowed"), cluster.endpoint
    with endpoint.asking() as answers:
        time.sleep(STEADY_S)
    budget_ms = 1.5e3 * median(answer.ended_s - answer.began_s for answer in answers)
    with endpoint.asking(budget_ms=budget_ms) as before:
        time.sleep(STEADY_S)
    host = busiest(cluster, before)
    with host.slowed(0.5):
        slow_s = time.monotonic()
        with endpoint.asking(budget_ms=budget_ms) as answers:
            time.sleep(CUT_S)
    later = [answer for answer in answers if answer.began_s > slow_s + 2]
    yield check(what="budgets missed before", found=missed(before), at_most=5, unit="%")
    yield check(what="budgets missed from 2 s on", found=missed(later), at_most=5, unit="%")
    there = 100 * sum(answer.report.get("kind") == host.name for answer in later) / len(later)
    yield check(what="answers of the slow host from 2 s on", found=there, at_most=50, unit="%")


def busiest(cluster: RayHosts, answers: Sequence[SteadyAnswer]) -> NetworkHost:
    """The host that most of these came from."""
    return cluster.hosts[Counter(str(answer.report["kind"]) for answer in answers).most_common(1)[0][0]]


SCENARIOS: dict[str, Callable[[RayHosts], Iterator[Check]]] = {
    "search-killed": search_killed,
    "search-cut": search_cut,
    "streams-killed": partial(streams_lost, dies=True),
    "streams-cut": partial(streams_lost, dies=False),
    "slowed": slowed,
}


def until(is_so: Callable[[], bool], *, what: str, ended: Callable[[], int | None] = lambda: None) -> float:
    """Seconds that it took. ended: gives the exit code of what it waits for, once there is one."""
    began_s = time.monotonic()
    while not is_so():
        if (ended() is not None and not is_so()) or time.monotonic() - began_s > HANG_S:
            raise LtsRayError(f"waited in vain for {what}")
        time.sleep(0.02)
    return time.monotonic() - began_s


def hosts(
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SCENARIOS)}; more than one may be given. Default: all.")
    ] = None,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Three hosts by network namespaces, which takes root; one is killed, cut off, slowed. Exit code 1 if it shows."""
    chosen = scenario or list(SCENARIOS)
    if unknown := [each for each in chosen if each not in SCENARIOS]:
        raise LtsRayError(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    checks, taken = [], {}
    with network_hosts(NAMES) as made:
        folder = Path(tempfile.mkdtemp(prefix="lts-ray-hosts-"))
        print(f"logs are in {folder}", file=sys.stderr)
        cluster = RayHosts(made, model.absolute(), folder)
        for name in chosen:
            began_s = time.monotonic()
            for check in SCENARIOS[name](cluster):
                print(f"{check.scenario}: {check.what}: {check.found:.4g} {check.unit}", file=sys.stderr)
                checks.append(check)
            taken[name] = time.monotonic() - began_s
    rows = [check.row() for check in checks]
    console.print_rows(rows, as_json=False)
    print(json.dumps(without_infinities({"schema": SCHEMA, "checks": rows, "seconds": taken})))
    if not all(check.is_kept for check in checks):
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    run_benchmark(hosts)
