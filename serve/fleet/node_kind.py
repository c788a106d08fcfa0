"""A kind of node that a fleet serves on, as `fleet.yaml` names it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.record import Positive, Text, Whole, read_record, record
from serve.fleet.node_simulation import NodeSimulation

KEYS = ("kinds", "faults")
"""Of a fleet file; `lts-ray simulate` alone reads the faults."""
INGRESS = "elastic"
"""The deployment that has the routes, beside those that are called as their kinds."""


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ValueError("letters, digits, dots, dashes")
    if name == INGRESS:
        raise ValueError(f"another word than {INGRESS}, the deployment in front of all kinds")
    return name


def _checked_share(share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError("above 0 and at most 1, for an engine runs on one GPU")
    return share


GpuShare = Annotated[float, AfterValidator(_checked_share)]
"""Of one GPU."""


@record(what="kind")
class NodeKind:
    name: Annotated[str, AfterValidator(_checked)]
    """Stands in answers, metrics and Ray's status: letters, digits, dots, dashes."""
    target: Text | None = None
    """The frontier's, which places the replicas; None: the one of the kind's name."""
    min_replicas: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    """That always run; 0: none while there is nothing to do."""
    max_replicas: Whole | None = None
    """That run where there is work for them; None: min_replicas, at least 1."""
    cost_per_hour: Positive = 1.0
    """Of one replica, in any unit: among replicas that do equally well the cheapest serves."""
    threads: Whole | None = None
    """Of a replica's steps; None: the target's."""
    num_gpus: GpuShare | None = None
    """A replica's part of a GPU, where the target is on one; None: all of one."""
    simulated: NodeSimulation = field(default_factory=NodeSimulation)
    """How `lts-ray simulate` has it."""

    def __post_init__(self) -> None:
        if self.most < self.min_replicas:
            raise LtsRayError(
                f"kind {self.name!r}: min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            )

    @property
    def target_name(self) -> str:
        return self.target or self.name

    @property
    def most(self) -> int:
        """Replicas."""
        return self.max_replicas or max(1, self.min_replicas)


def named_kinds(names: tuple[str, ...]) -> tuple[NodeKind, ...]:
    """One replica on each of these targets. Raises LtsRayError for a name that is none or comes twice."""
    return _distinct(tuple(read_record(NodeKind, {"name": name}, what=f"kind {name!r}") for name in names), "kinds")


def load_kinds(path: Path) -> tuple[NodeKind, ...]:
    """Read `fleet.yaml`. Raises LtsRayError for a file that is missing, empty, malformed or names a kind twice."""
    what = f"fleet file {path}"
    raw = read_yaml(path, what="fleet file")
    entries = raw.get("kinds") if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or not isinstance(entries, list) or not entries:
        raise LtsRayError(f"{what} needs a list `kinds:` with at least one entry")
    if unknown := sorted(str(key) for key in raw if key not in KEYS):
        raise LtsRayError(f"{what} has unknown keys {', '.join(unknown)}; known: {', '.join(KEYS)}")
    return _distinct(tuple(_read_kind(entry, what) for entry in entries), what)


def _read_kind(entry: object, where: str) -> NodeKind:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return read_record(NodeKind, entry, what=f"{where}: " + (f"kind {name!r}" if name else "a kind"))


def _distinct(kinds: tuple[NodeKind, ...], where: str) -> tuple[NodeKind, ...]:
    names = [kind.name for kind in kinds]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LtsRayError(f"{where}: {', '.join(twice)} more than once")
    return kinds
