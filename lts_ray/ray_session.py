"""A connection to Ray: to a cluster that exists, or to several nodes simulated on this machine.

Simulated nodes have their own labels and resources, for tests, `search --simulate` and the quickstart. They share the
machine's cores: measurements notice that they share one host and take turns.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.cluster_utils import Cluster
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from lts_ray.errors import LtsRayError
from lts_ray.target import Target

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
"""How long a cluster may take to say that it is there. Ray itself tries for two minutes, then ends the process."""
IMPORTED_BY_WORKERS = ("lts_ray", "serve", "ray", "torch", "numpy", "fastapi", "pydantic", "tokenizers", "safetensors")
NICENESS = "RAY_worker_niceness"
"""Of all that a Ray started here runs. Ray's own default, 15, lets anything else on the machine go first, and a budget,
or a measurement, cannot be kept by a process that waits for a core."""
QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: 10 ms a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours to report
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connected to Ray, quietly; what this connects, it disconnects.

    address: HOST:PORT of a cluster's head, `auto` for the cluster that this machine is a node of, or `local` for one of
    its own. None or empty: RAY_ADDRESS, else `local`. Raises LtsRayError within 30 s when there is no such cluster.
    """
    changed: dict[str, str | None] = {NICENESS: os.environ.get(NICENESS, "0"), **QUIET_TUNE}
    if not _exported():
        changed["RAY_ADDRESS"] = None  # Ray would read it for `auto`, too
    if not address and _is_of_jobs(os.environ.get("RAY_ADDRESS", "")):
        logger.warning(
            "RAY_ADDRESS=%s is where jobs are submitted, not where this connects: this runs on a Ray of its own, here; "
            "--address HOST:6379 or --address auto names a cluster",
            os.environ["RAY_ADDRESS"],
        )
    levels = {name: logging.getLogger(name).level for name in ("ray", "ray.tune")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    mine = not ray.is_initialized()
    try:
        with environment(changed):
            if mine:
                check_folder()
                _connect(address or _exported() or "local")
            yield
    finally:
        if mine:
            ray.shutdown()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def check_cluster(address: str | None) -> None:
    """Raise LtsRayError where `connected` would for want of a cluster: before work is done that needs one."""
    asked = address or _exported()
    if asked and asked != "local" and not ray.is_initialized():
        _check_alive(_found(asked))


def check_folder() -> None:
    """Raise LtsRayError for a file here that Ray's workers would import in a package's place.

    Ray puts the current folder of the process that connects on the path of all its workers.
    """
    here = Path.cwd()
    if here == Path(__file__).parents[1]:
        return
    for name in IMPORTED_BY_WORKERS:
        for path in (here / f"{name}.py", here / name / "__init__.py"):
            if path.is_file():
                raise LtsRayError(
                    f"{path} is in the way: Ray's workers import it as {name}; rename it or run elsewhere"
                )


def starts_here(address: str | None) -> bool:
    """Whether `connected` starts a Ray of its own, of this machine alone."""
    return (address or _exported()) in (None, "local") and not ray.is_initialized()


def _exported() -> str | None:
    """The cluster that RAY_ADDRESS names; its address for jobs names none."""
    exported = os.environ.get("RAY_ADDRESS")
    return None if not exported or _is_of_jobs(exported) else exported


def _is_of_jobs(address: str) -> bool:
    return address.startswith(("http://", "https://"))


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """With these variables; None: without."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _connect(address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False}
    else:
        address = _found(address)
        _check_alive(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **options)
    except SystemExit:  # what Ray makes of SIGTERM
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray has no common type for what goes wrong here
        raise LtsRayError(f"Ray at {address} cannot be used: {' '.join(str(error).split())}") from None
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process without a word


def _found(address: str) -> str:
    """HOST:PORT. Raises LtsRayError for what cannot be the address of a cluster."""
    if address == "auto":
        try:
            found: str | None = canonicalize_bootstrap_address("auto")
        except (ConnectionError, ValueError) as error:
            raise LtsRayError(f"no Ray cluster for address auto: {' '.join(str(error).split())}") from None
        if found is None:
            raise LtsRayError("no Ray cluster for address auto: this machine is a node of none; give HOST:6379")
        return found
    if address.startswith("ray://"):
        raise LtsRayError(
            f"{address} is for Ray's client, which cannot place actors on nodes: give HOST:6379 on one of the "
            "cluster's nodes, or submit this command with `ray job submit`"
        )
    if _is_of_jobs(address):
        raise LtsRayError(
            f"{address} is where jobs are submitted: give HOST:6379, or `auto` on one of the cluster's nodes, or "
            "submit this command with `ray job submit`"
        )
    try:
        parts = urlsplit(f"//{address}")
        is_right = bool(parts.hostname and parts.port) and parts.netloc == address and "@" not in address
    except ValueError:
        is_right = False
    if not is_right:
        raise LtsRayError(f"{address!r} is not the address of a Ray cluster: give HOST:6379, `auto` or `local`")
    return address


def _check_alive(address: str) -> None:
    """Raise LtsRayError unless a cluster answers at HOST:PORT, lets this process in and runs the same Ray."""
    try:
        with init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            answer = head.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=ANSWER_S)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise LtsRayError(
                f"the Ray cluster at {address} asks for a token that it did not get: `export RAY_AUTH_MODE=token`, "
                "with the head's ~/.ray/auth_token on this machine"
            ) from None
        late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        why = f"no answer within {ANSWER_S:.0f} s" if late else " ".join(str(error.details()).split())
        raise LtsRayError(
            f"no Ray cluster at {address}: {why}; is its head up, and this the port of `ray start`?"
        ) from None
    except Exception as error:  # such as a token that is asked for and not there
        raise LtsRayError(f"Ray at {address} cannot be asked: {' '.join(str(error).split())}") from None
    if answer.ray_version != ray.__version__:
        raise LtsRayError(
            f"the Ray cluster at {address} runs Ray {answer.ray_version}, and this is Ray {ray.__version__}: install "
            "the same on both"
        )


def check_room(
    count: int, needed: Mapping[str, float], *, what: str, fits: Callable[[Mapping[str, str]], bool] = lambda _: True
) -> str | None:
    """Raise LtsRayError where Ray would wait for ever: the nodes, were they idle, have no room for `count` of these.

    needed: resources of each. fits: whether a node with these labels will do. Where an autoscaler may add nodes, the
    problem is returned, as one line.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    able = [node["Resources"] for node in nodes if fits(node["Labels"])]  # three thirds of a GPU are one, below
    if (room := sum(min(int(own.get(name, 0) / n + 1e-9) for name, n in needed.items()) for own in able)) >= count:
        return None
    shown = []
    for node in nodes:
        labels = {key: value for key, value in node["Labels"].items() if not key.startswith("ray.io/")}
        own = {name: node["Resources"].get(name, 0) for name in needed}
        shown.append(f"{labels} with {own}" if labels else str(own))
    problem = (
        f"{what}: {count} of {dict(needed)} each are asked for, and {room} have room on the cluster's {len(nodes)} "
        f"nodes: {'; '.join(shown)}"
    )
    if not has_autoscaler():
        raise LtsRayError(problem)
    return problem


def has_autoscaler() -> bool:
    """Whether the cluster may grow for what waits: Ray's autoscaler of version 2, which scales for labels, runs."""
    return bool(is_autoscaler_v2(fetch_from_server=True))


@dataclass(frozen=True, kw_only=True)
class SimulatedNode:
    name: str
    num_cpus: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


def nodes_for(targets: Sequence[Target]) -> tuple[SimulatedNode, ...]:
    """One node for each target that is not local, which the target's selector and resources fit.

    A selector that only excludes values (`!a`) is met by a node without the label.
    """
    return tuple(
        SimulatedNode(
            name=target.name,
            num_cpus=target.threads,
            labels={key: _first_value(text) for key, text in target.label_selector.items() if text[:1] != "!"},
            resources={name: amount for name, amount in target.resources.items() if name not in ("CPU", "GPU")},
        )
        for target in targets
        if not target.local
    )


@contextmanager
def simulated_cluster(nodes: Sequence[SimulatedNode], *, head_cpus: int = 2) -> Iterator[str]:
    """Start a head and the nodes; yield the cluster's address. Ends every process, and this one's connection to it."""
    with growing_cluster(nodes, head_cpus=head_cpus) as cluster:
        yield cluster.address


@contextmanager
def growing_cluster(nodes: Sequence[SimulatedNode], *, head_cpus: int = 2) -> Iterator[Cluster]:
    """As `simulated_cluster`, where nodes may `join` and leave (`Cluster.remove_node`) while it runs."""
    with environment({NICENESS: os.environ.get(NICENESS, "0")}):
        cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=True,
            head_node_args={"num_cpus": head_cpus, "include_dashboard": False},
        )
        try:
            for node in nodes:
                join(cluster, node)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def join(cluster: Cluster, node: SimulatedNode) -> Any:
    """Start one more node; Ray's object for it, which `Cluster.remove_node` takes."""
    return cluster.add_node(num_cpus=node.num_cpus, labels=dict(node.labels), resources=dict(node.resources))


def _first_value(constraint: str) -> str:
    text = constraint.strip()
    return text[3:-1].split(",")[0].strip() if text.startswith("in(") else text
