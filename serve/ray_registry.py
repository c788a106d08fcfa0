"""Where the replicas of a fleet are to be found, in Ray's key-value store, which the head node keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from time import time
from urllib.parse import quote

from lts_ray.errors import LtsRayError
from lts_ray.record import read_record, record_json
from serve.fleet.replica_registry import ReplicaAddress
from serve.metrics.ray_shared_metrics import RayStore, Store

FORGOTTEN_S = 600.0
"""What was said longer ago is cleared away: a replica that was killed could not do so itself."""


class RayRegistry:
    """application: its replicas alone are in it."""

    def __init__(self, application: str, store: Store | None = None) -> None:
        self._store = RayStore() if store is None else store
        self._place = f"fleet/{quote(application, safe='')}/"

    def put(self, address: ReplicaAddress) -> None:
        self._store.put(self._place + address.id, json.dumps(record_json(address)).encode())

    def remove(self, id: str) -> None:
        self._store.delete(self._place + id)

    def read(self) -> Sequence[ReplicaAddress]:
        found = []
        for value in self._store.read(self._place).values():
            try:
                address = read_record(ReplicaAddress, json.loads(value))
            except (ValueError, LtsRayError):
                continue  # of another version
            if address.at_s < time() - FORGOTTEN_S:
                self.remove(address.id)
            else:
                found.append(address)
        return found
