"""A target: a kind of node to measure and serve on, as `targets.yaml` names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.record import read_record, record

MOST_THREADS, MOST_TOKENS = 4_096, 1 << 24
"""More is a slip of the pen: torch takes such numbers, and fails, or fills the memory, with no word of them."""


@record(what="target")
class Target:
    """Where and how to measure."""

    name: Annotated[str, MinLen(1)]
    """Stands in every result."""
    label_selector: Mapping[str, str] = field(default_factory=dict)
    """Ray node labels that the node must have."""
    local: bool = False
    """Run on the driver's node instead."""
    resources: Mapping[str, Annotated[int | float, Ge(0)]] = field(default_factory=dict)
    """Ray resources that a measurement takes, so that nothing else runs on the node meanwhile."""
    threads: Annotated[int, Ge(1), Le(MOST_THREADS)] = 1
    """Torch's intra-op threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What its weights and activations are."""
    sequence_length: Annotated[int, Ge(1), Le(MOST_TOKENS)] = 192
    """Tokens of the measured prefill."""
    batch_size: Annotated[int, Ge(1), Le(MOST_TOKENS)] = 1
    """Rows of the measured steps."""

    def __post_init__(self) -> None:
        if self.local == bool(self.label_selector):
            raise LtsRayError(f"target {self.name!r} needs either a label_selector or `local: true`")


def read_target(value: object) -> Target:
    """A target out of a file, where `device: auto` is what this machine has. Raises LtsRayError with its name."""
    name = value.get("name") if isinstance(value, Mapping) else None
    what = f"target {name!r}" if name else "a target"
    if isinstance(value, Mapping) and value.get("device") == "auto":
        if value.get("local") is not True:
            raise LtsRayError(f"{what}: device auto is for `local: true`; of other nodes say whether it is cpu or cuda")
        from lts_ray.device import device_here, dtype_here  # torch takes seconds to import

        device = device_here("auto")
        value = {"dtype": dtype_here(device), **value, "device": device}
    return read_record(Target, value, what=what)


def load_targets(path: Path) -> tuple[Target, ...]:
    """Read `targets.yaml`. Raises LtsRayError for a file that is missing, empty, malformed or names a target twice."""
    raw = read_yaml(path, what="targets file")
    entries = raw.get("targets") if isinstance(raw, dict) else None
    if not isinstance(entries, list) or not entries:
        raise LtsRayError(f"targets file {path} needs a list `targets:` with at least one entry")
    targets = tuple(read_target(entry) for entry in entries)
    names = [target.name for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LtsRayError(f"targets file {path} names {', '.join(twice)} more than once")
    return targets
