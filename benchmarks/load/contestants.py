"""The policies that a benchmark compares, by the names that its tables use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lts_ray.errors import LtsRayError
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import Menu
from serve.policies.named_policies import policy_named
from serve.policies.policy import Policy
from serve.simulate.arrival import Arrival
from serve.simulate.oracle import find_oracle
from serve.simulate.simulate import SimulatedReplica

FIXED = "fixed-"
UNIVERSAL, NARROWEST = "fixed-universal", "fixed-narrowest"
ORACLE = "oracle"
SEARCH = 5
"""The stream of random numbers of the oracle's search; see benchmarks.load.load for the others."""
DEFAULT = ("deadline", "slackfit", "idle-feasible", "smallest", NARROWEST, UNIVERSAL, ORACLE)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    policy: Policy
    menu: Menu
    """What its server offers: all submodels, but for the fixed ones."""


def check_name(name: str, menu: Menu) -> None:
    known = (*DEFAULT, *(f"{FIXED}{option}" for option in menu.named))
    if name not in known:
        raise LtsRayError(f"unknown policy {name!r}; known: {', '.join(known)}")


def contestant(
    name: str,
    menu: Menu,
    *,
    arrivals: Sequence[Arrival] = (),
    node: SimulatedReplica | None = None,
    rollouts: int = 60,
    seed: int = 0,
) -> Contestant:
    """arrivals, node: the load that it is about to get and what it will run on, for the oracle only.

    A fixed one is a server that has this one submodel, and answers requests without a budget with it as well.
    rollouts: replays of the load by which the oracle finds what it does.
    """
    check_name(name, menu)
    if name.startswith(FIXED):
        only = {UNIVERSAL: menu.universal, NARROWEST: menu.narrowest}.get(name) or menu.named[name.removeprefix(FIXED)]
        return Contestant(policy=FixedPolicy(), menu=replace(menu, universal=only, elastic=(only,)))
    if name == ORACLE:
        assert node is not None
        rng = np.random.default_rng([seed, SEARCH])
        return Contestant(policy=find_oracle(arrivals, node=node, rng=rng, rollouts=rollouts), menu=menu)
    return Contestant(policy=policy_named(name), menu=menu)
