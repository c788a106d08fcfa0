"""A target: a kind of node to measure and serve on, as `targets.yaml` names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how to measure.

    label_selector: Ray node labels that the node must have. local: run on the driver's node instead.
    resources: Ray resources that a measurement takes, which gives exclusivity on a node.
    threads: torch's intra-op threads. sequence_length: tokens of the measured prefill. batch_size: its rows.
    """

    name: str
    label_selector: Mapping[str, str] = field(default_factory=dict)
    local: bool = False
    resources: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    sequence_length: int = 192
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise LtsRayError("every target needs a name, which appears in its results")
        where = f"target {self.name!r}"
        if self.local == bool(self.label_selector):
            raise LtsRayError(f"{where} needs either a label_selector or `local: true`")
        for name in ("threads", "sequence_length", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise LtsRayError(f"{where}: {name} must be a whole number of at least 1; got {value!r}")
        if self.device not in ("cpu", "cuda"):
            raise LtsRayError(f"{where}: device must be cpu or cuda; got {self.device!r}")
        if self.dtype not in DTYPES:
            raise LtsRayError(f"{where}: dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if any(not isinstance(value, int | float) or value < 0 for value in self.resources.values()):
            raise LtsRayError(f"{where}: resources must be non-negative numbers; got {dict(self.resources)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Target:
        if not isinstance(value, Mapping):
            raise LtsRayError(f"a target is a mapping with a name; got {value!r}")
        known = {each.name for each in fields(cls)}
        unknown = sorted(str(key) for key in value.keys() - known)
        if unknown:
            raise LtsRayError(
                f"target {value.get('name')!r} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        if "name" not in value:
            raise LtsRayError("every target needs a name, which appears in its results")
        for key in ("label_selector", "resources"):
            if not isinstance(value.get(key, {}), Mapping):
                raise LtsRayError(f"target {value['name']!r}: {key} must be a mapping; got {value[key]!r}")
        return cls(**value)


def load_targets(path: Path) -> tuple[Target, ...]:
    """Read `targets.yaml`. Raises LtsRayError for a file that is missing, empty, malformed or names a target twice."""
    raw = read_yaml(path, what="targets file")
    entries = raw.get("targets") if isinstance(raw, dict) else None
    if not isinstance(entries, list) or not entries:
        raise LtsRayError(f"targets file {path} needs a list `targets:` with at least one entry")
    targets = tuple(Target.from_json(entry) for entry in entries)
    names = [target.name for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LtsRayError(f"targets file {path} names {', '.join(twice)} more than once")
    return targets
