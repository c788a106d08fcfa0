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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common.command import run_benchmark
from benchmarks.common.network_hosts import NetworkHost, network_hosts
from lts_ray import console
from lts_ray.cli.options import Model
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines, write_text
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.ray_session import NICENESS
from lts_ray.search.search_log import LOG

SCHEMA = 1
NAMES = ("a", "b", "c")
"""Of the hosts. The driver and the ingress are on the first, which nothing happens to."""
CUT_S = 10.0
HANG_S = 300.0
"""From which on something is taken to hang."""
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", NICENESS: "0"}
MEMORY = 100_000_000
"""Bytes of each host's object store."""


@dataclass(frozen=True, kw_only=True)
class Check:
    scenario: str
    what: str
    found: float
    at_most: float
    unit: str = "s"

    @property
    def is_kept(self) -> bool:
        return self.found <= self.at_most

    def row(self) -> dict[str, object]:
        return {**asdict(self), "ok": self.is_kept}


class RayHosts:
    """Hosts with a Ray node each, which are one cluster. folder: where logs and results go."""

    def __init__(self, hosts: Mapping[str, NetworkHost], model: Path, folder: Path) -> None:
        self.hosts, self.model, self.folder = hosts, model, folder
        self.head = hosts[NAMES[0]]
        for name in NAMES:
            self.join(name)

    def join(self, name: str) -> None:
        """Start the host's node. The first one is the head."""
        host, address = self.hosts[name], f"{self.head.address}:6379"
        options = ["--node-ip-address", host.address, "--temp-dir", str(host.folder), "--labels", f"role={name}"]
        options += ["--num-cpus", "1", "--object-store-memory", str(MEMORY)]
        options += ["--head", "--include-dashboard", "false"] if host is self.head else ["--address", address]
        process = self.python("-m", "ray.scripts.scripts", "start", *options, on=host, log="ray")
        if process.wait(HANG_S):
            raise LtsRayError(f"Ray does not start on host {name}: see {self.folder / 'ray.log'}")

    def python(self, *words: str, on: NetworkHost, log: str) -> subprocess.Popen[bytes]:
        known = {**ENVIRONMENT, "RAY_ADDRESS": f"{self.head.address}:6379"} if log != "ray" else ENVIRONMENT
        return on.start(sys.executable, *words, log=self.folder / f"{log}.log", environment=known)


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


SCENARIOS: dict[str, Callable[[RayHosts], Iterator[Check]]] = {
    "search-killed": search_killed,
    "search-cut": search_cut,
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
    print(json.dumps({"schema": SCHEMA, "checks": rows, "seconds": taken}))
    if not all(check.is_kept for check in checks):
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    run_benchmark(hosts)
