"""What a pool of measuring actors evaluates candidates with. Plain data, no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lts_ray.measurement.subjects.subject import SubjectSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Within a pool, payload and blocks are Ray's references to them: they cross the network once a node."""

    source: SubjectSource[Any]
    """How to build what is measured, on the node where it is; small enough to be sent to every actor."""
    payload: Any = None
    """What the source needs and is too large for it, such as weights."""
    blocks: Any = None
    """[N, T + 1], int64: text for the validation loss of a universal model; None where candidates come with a loss."""
    actor_class: type | None = None
    """Made as actor_class(target, source, payload); None is the usual one, which measures for real."""
