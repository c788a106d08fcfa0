"""One page of metrics for all replicas of an application, whichever of them answers the scrape.

Each replica keeps a copy of what it has counted in Ray's key-value store, which outlives it: what a replica that has
left had counted stays in the sums, and no counter goes backwards. A scrape writes the answering replica's copy before
it reads all: a later scrape, at another replica, sees no less.
In a fleet its ingress answers, and what its replicas have counted is at most a second old.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from time import time
from typing import Any, Protocol
from urllib.parse import quote

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.serve import get_replica_context

from serve.engine.observer import Load
from serve.metrics.prometheus_metrics import PrometheusMetrics

logger = logging.getLogger(__name__)

FRESH_S = 15.0
"""A copy that is older is of a replica that has left: its counters count, its gauges do not."""
DEAD_S = 600.0
"""A replica that starts takes over copies that are older, so that their number stays that of the replicas."""


class Store(Protocol):
    def put(self, key: str, value: bytes, *, overwrite: bool = True) -> bool:
        """Whether the key is new."""

    def read(self, prefix: str) -> Mapping[str, bytes]: ...

    def delete(self, key: str) -> None: ...


class RayStore:
    """Ray's key-value store, which the head node keeps."""

    NAMESPACE = b"lts_ray"
    TIMEOUT_S = 10

    def __init__(self) -> None:
        self._client = GcsClient(address=ray.get_runtime_context().gcs_address)
        self._where = {"namespace": self.NAMESPACE, "timeout": self.TIMEOUT_S}

    def put(self, key: str, value: bytes, *, overwrite: bool = True) -> bool:
        return bool(self._client.internal_kv_put(key.encode(), value, overwrite, **self._where))

    def read(self, prefix: str) -> Mapping[str, bytes]:
        keys = self._client.internal_kv_keys(prefix.encode(), **self._where)
        found = self._client.internal_kv_multi_get(keys, **self._where) if keys else {}
        return {key.decode(): value for key, value in found.items()}

    def delete(self, key: str) -> None:
        self._client.internal_kv_del(key.encode(), False, **self._where)


class RaySharedMetrics:
    """load: of this replica's engine, now. place: of the replicas that belong together. replica: this one's name.

    node: its kind of node in a fleet.
    """

    def __init__(
        self,
        metrics: PrometheusMetrics,
        load: Callable[[], Load],
        store: Store,
        *,
        place: str,
        replica: str,
        node: str = "",
        clock: Callable[[], float] = time,
    ) -> None:
        self._metrics, self._load, self._store, self._clock = metrics, load, store, clock
        self._copies, self._claims = f"{place}/copies/", f"{place}/claims/"
        self._key, self._node = self._copies + replica, node
        self._taken_over: list[str] = []
        self._stopped = threading.Event()

    @classmethod
    def of_this_replica(
        cls, metrics: PrometheusMetrics, load: Callable[[], Load], model: str, *, node: str = ""
    ) -> RaySharedMetrics:
        """Within one of Ray Serve's."""
        context = get_replica_context()
        place = "/".join(quote(name, safe="") for name in (context.app_name, model))
        return cls(metrics, load, RayStore(), place=f"metrics/{place}", replica=context.replica_tag, node=node)

    def start(self, every_s: float = 1.0) -> None:
        try:
            self.take_over()
        except Exception as error:  # it serves all the same
            logger.warning("what other replicas have counted is not known: %s", error)
        threading.Thread(target=self._keep_publishing, args=(every_s,), name="metrics", daemon=True).start()

    def stop(self) -> None:
        """With a last copy."""
        self._stopped.set()
        self._try_to_publish()

    def take_over(self) -> None:
        """What replicas of this kind had counted that left long ago becomes this one's, at once and once only."""
        for key, copy in self._read().items():
            is_dead = copy["at_s"] < self._clock() - DEAD_S
            if (is_dead and copy.get("node", "") == self._node) and self._store.put(
                self._claims + key.removeprefix(self._copies), self._key.encode(), overwrite=False
            ):
                self._metrics.add(copy["counted"], gauges=False)
                self._taken_over += [key, *copy["taken_over"]]
        self.publish()
        for key in self._taken_over:
            self._store.delete(key)

    def publish(self) -> None:
        copy = {
            "at_s": self._clock(),
            "node": self._node,
            "counted": self._metrics.counted(self._load()),
            "taken_over": self._taken_over,
        }
        self._store.put(self._key, json.dumps(copy).encode())

    def exposition(self) -> tuple[bytes, str]:
        """What GET /metrics answers, and its content type. It waits for the store: not for an event loop."""
        self.publish()
        joined = self._metrics.joined()
        for copy in self._read().values():
            is_fresh = copy["at_s"] >= self._clock() - FRESH_S
            joined.add(copy["counted"], gauges=is_fresh, node=copy.get("node", ""))
        return joined.exposition()

    def _read(self) -> dict[str, dict[str, Any]]:
        """By their keys, without those that others have taken over."""
        copies = {key: json.loads(value) for key, value in self._store.read(self._copies).items()}
        gone = {key for copy in copies.values() for key in copy["taken_over"]}
        return {key: copy for key, copy in copies.items() if key not in gone}

    def _keep_publishing(self, every_s: float) -> None:
        while not self._stopped.wait(every_s):
            self._try_to_publish()

    def _try_to_publish(self) -> None:
        try:
            self.publish()
        except Exception as error:
            logger.warning("this replica's metrics could not be shared: %s", error)
