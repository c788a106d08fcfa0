"""The policies that a benchmark compares, by the names that its tables use, each under one load."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.load.clients import engine_client, replay_load
from benchmarks.load.local_model import LocalModel, running
from benchmarks.load.step_log import StepLog
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import Menu
from serve.policies.named_policies import policy_named
from serve.policies.policy import Policy
from serve.simulate.oracle import find_oracle
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival
from serve.traffic.load import make_prompts

FIXED = "fixed-"
UNIVERSAL, NARROWEST = "fixed-universal", "fixed-narrowest"
ORACLE = "oracle"
WIDTHS = "widths-"
"""Before a policy: that it chooses among widths alone, where the menu has precisions too."""
NOISE, SEARCH = 4, 5
"""The streams of random numbers of simulated steps and the oracle's search; see serve.traffic.load for the others."""
DEFAULT = ("deadline", "slackfit", "idle-feasible", "smallest", NARROWEST, UNIVERSAL, ORACLE)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    policy: Policy
    menu: Menu
    """What its server offers: all submodels, but for the fixed ones."""

    def on_engine(
        self, arrivals: Sequence[Arrival], model: LocalModel, costs: StepCosts, *, seed: int
    ) -> tuple[Sequence[Outcome], float | None]:
        """In real time, by an engine of its own. Also returns the median error of its steps' predicted times."""
        log = StepLog()
        prompts = list(make_prompts(arrivals, seed=seed, vocab_size=model.config.vocab_size))
        gc.collect()  # what other loads left is not this one's to clear away
        outcomes: dict[int, Outcome] = {}
        with running(model.engine(costs=costs, policy=self.policy, menu=self.menu, observer=log)) as engine:
            ask = engine_client(engine)
            asyncio.run(replay_load(ask, arrivals, prompts, clock=engine.clock, ended=outcomes.__setitem__))
        return [outcomes[number] for number in range(len(arrivals))], log.median_error

    def simulated(self, arrivals: Sequence[Arrival], node: SimulatedReplica, *, seed: int) -> Sequence[Outcome]:
        rng = np.random.default_rng([seed, NOISE])
        return simulate(arrivals, node=replace(node, menu=self.menu), policy=self.policy, rng=rng)


def check_name(name: str, menu: Menu) -> None:
    known = (*DEFAULT, *(f"{FIXED}{option}" for option in menu.named))
    if name.removeprefix(WIDTHS) not in known:
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
