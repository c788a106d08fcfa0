"""What is done to a process of a cluster: drawn from a seed, so that it can be had again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lts_ray.errors import LtsRayError

FAULTS = ("replica", "ingress", "driver", "trial", "actor", "node", "stop", "slow")
"""Killed: a replica, the ingress, a search's driver, a trial, an actor that measures, a node's raylet. The last two: a
replica that is stopped for seconds, or runs at half speed."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    name: str
    pick: float
    """Which of the processes of that role it strikes: from 0, the first, to 1."""
    quiet_s: float
    """How long all is whole before it."""
    lasts_s: float
    """Of a stop or a slow-down, which end by themselves; what is killed is dead."""

    @property
    def kills(self) -> bool:
        return self.name not in ("stop", "slow")

    @property
    def role(self) -> str:
        """Of the process that it strikes."""
        return self.name if self.kills else "replica"


def draw_faults(count: int, *, seed: int, names: Sequence[str] = FAULTS) -> tuple[Fault, ...]:
    """Each name as often as the others, in random order. The n-th is the same whatever the count."""
    if unknown := sorted(set(names) - set(FAULTS)) or ([] if names else ["none is named"]):
        raise LtsRayError(f"unknown kinds of fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    rng, faults = np.random.default_rng(seed), list[Fault]()
    while len(faults) < count:
        for name in rng.permutation(list(names)).tolist():
            pick, quiet, lasts = rng.uniform(size=3).tolist()
            faults.append(Fault(name=name, pick=pick, quiet_s=3 + 5 * quiet, lasts_s=2 + 6 * lasts))
    return tuple(faults[:count])
