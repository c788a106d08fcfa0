"""Budgets kept on the real endpoint: policies side by side on Ray Serve, each load sent to one after the other.

Every variant is an application of its own on one cluster, with its own replica; they take turns in random order, and
those whose turn it is not idle. The clients are this process. A load is the quickstart's requests, or Poisson arrivals.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median_low
from time import monotonic
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.turns import Progress
from benchmarks.load import load_options as options
from benchmarks.load.budgets_folder import BudgetsFolder, BudgetsSettings, BudgetsSetup, BudgetsTurn, TurnKey
from benchmarks.load.budgets_row import ALONE, QUICKSTART, TOGETHER, BudgetsRow, rows_of_turns
from benchmarks.load.clients import Ask, replay_load, server_client
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.ray_endpoint import Endpoint, own_endpoints
from benchmarks.load.served_outcome import ServedOutcome
from lts_ray.cli.options import Model, Output, Seed
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.quickstart import ask
from lts_ray.record import read_record, record_json
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import Budget
from serve.policies.named_policies import policy_named
from serve.serve_args import ServeArgs
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import simulate
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses
from serve.traffic.load import make_load, make_prompts
from serve.traffic.traces import poisson

PROMPT_TOKENS = 8
"""Of the quickstart's requests, about."""
WARM_UP = 0.9
"""The load of the round that does not count, in which endpoints learn what their steps take."""
COMPUTE = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100_000))"
TURNS, NOISE = 10, 11
"""Streams of random numbers; see serve.traffic.load for the others."""


def variant_args(name: str, **common: Any) -> ServeArgs:
    """Of a policy, or of one that is told which share of the budgets to keep: `deadline@0.95`. Raises LtsRayError."""
    policy, _, share = name.partition("@")
    policy_named(policy)
    return read_record(ServeArgs, common | {"policy": policy, "attainment": share or ServeArgs.attainment}, what=name)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many that compute all the time, as nice as this process is; until it has gone, however it went."""
    with ExitStack() as processes:
        for _ in range(count):
            command = [sys.executable, "-S", "-c", COMPUTE, str(os.getpid())]
            processes.callback(processes.enter_context(subprocess.Popen(command)).kill)
        yield


@dataclass(frozen=True, kw_only=True)
class BudgetsBench:
    settings: BudgetsSettings
    model: LocalModel
    """What all endpoints serve; its weights are not loaded here."""
    folder: BudgetsFolder

    @property
    def setup(self) -> BudgetsSetup | None:
        """None where nothing is measured yet."""
        return self.folder.read_setup(self.settings, self.model.fingerprint)

    def turns(self, variants: Sequence[str], rounds: int) -> Iterable[TurnKey]:
        """In each round every load in random order, and at each the variants in random order."""
        tasks = (QUICKSTART, *(f"load {load:g}" for load in self.settings.loads))
        for number in range(rounds):
            rng = np.random.default_rng([self.settings.seed, number, TURNS])
            for task in rng.permutation(tasks):
                for variant in rng.permutation(variants):
                    yield number, str(task), str(variant)

    async def run(self, endpoints: Mapping[str, Endpoint], rounds: int, progress: Progress) -> None:
        """Play the turns that the folder does not hold yet; each is kept as soon as it is over."""
        done, turns = self.folder.read_turns(), list(self.turns(list(endpoints), rounds))
        missing = [key for key in turns if key not in done]
        async with AsyncExitStack() as clients:
            asks = {
                name: await clients.enter_async_context(server_client(each.url)) for name, each in endpoints.items()
            }
            setup = await self._warm_up(endpoints, asks)
            for number, (round, task, variant) in enumerate(missing, start=len(turns) - len(missing)):
                progress(number, len(turns))
                endpoints[variant].step_ratios(setup.costs)
                load: Sequence[Arrival] = quickstart_load(setup.needs)
                if task != QUICKSTART:
                    load = self._poisson(float(task.split()[1]), round, setup.costs)
                outcomes = await self._play(asks[variant], load, round)
                ratios = tuple(endpoints[variant].step_ratios(setup.costs))
                self.folder.add(BudgetsTurn(round, task, variant, outcomes, ratios))

    async def _warm_up(self, endpoints: Mapping[str, Endpoint], asks: Mapping[str, Ask]) -> BudgetsSetup:
        """Each endpoint gets a load that does not count. Then what budgets are made of, if that is not known yet."""
        old = self.setup
        for name, ask_one in asks.items():
            await self._play(ask_one, self._poisson(WARM_UP, -1, old.costs if old else endpoints[name].costs()), 0)
        if old is not None:
            return old
        found = {self._rate(costs): costs for costs in (each.costs() for each in endpoints.values())}
        setup = BudgetsSetup(
            settings=self.settings,
            model=self.model.fingerprint,
            costs=found[median_low(found)],
            rate=median_low(found),
            needs=await ask.endpoint_needs(next(iter(endpoints.values())).url),
            machine=Machine.here(),
        )
        self.folder.write_setup(setup)
        return setup

    async def _play(self, ask_one: Ask, arrivals: Sequence[Arrival], round: int) -> tuple[ServedOutcome, ...]:
        outcomes: dict[int, Outcome] = {}
        prompts = make_prompts(arrivals, seed=self.settings.seed + round, vocab_size=self.model.config.vocab_size)
        await replay_load(ask_one, arrivals, list(prompts), clock=monotonic, ended=outcomes.__setitem__)
        return tuple(ServedOutcome.of(outcomes[number]) for number in range(len(arrivals)))

    def _rate(self, costs: StepCosts) -> float:
        return self.model.saturation(costs)

    def _poisson(self, load: float, round: int, costs: StepCosts) -> Sequence[Arrival]:
        return make_load(
            poisson,
            rate=load * self._rate(costs),
            seconds=self.settings.seconds,
            seed=self.settings.seed + round + 1,
            need=self.model.need(costs),
            context_length=self.model.capacity.context_length,
            classes=BudgetClasses(),
        )

    def rows(self, *, simulated: bool) -> list[BudgetsRow]:
        """Of the turns that the folder holds."""
        setup, turns = self.setup, list(self.folder.read_turns().values())
        if setup is None:
            return []
        narrowest = replace(self.model.need(setup.costs), option=self.model.menu.narrowest)
        virtual = self._simulated(turns, setup.costs) if simulated else ()
        return rows_of_turns(turns, need=narrowest, menu=self.model.menu, simulated=virtual)

    def _simulated(self, turns: Sequence[BudgetsTurn], costs: StepCosts) -> Iterable[BudgetsTurn]:
        """All rounds of a task one after the other, as the endpoint had them, after one that is not counted."""
        for task, variant in dict.fromkeys((turn.task, turn.variant) for turn in turns):
            played = [turn for turn in turns if (turn.task, turn.variant) == (task, variant)]
            apart_ms = 2 * max([1e3 * self.settings.seconds, *(each.arrival.at_ms for each in played[0].outcomes)])
            arrivals = [
                replace(outcome.arrival, at_ms=outcome.arrival.at_ms + apart_ms * number)
                for number, turn in enumerate([played[0], *played])
                for outcome in turn.outcomes
            ]
            ratios = tuple(ratio for turn in played for ratio in turn.step_ratios)
            known = variant_args(variant)
            node = replace(self.model.replica(costs), recorded=ratios, attainment=known.attainment)
            rng = np.random.default_rng([self.settings.seed, NOISE])
            outcomes = iter(simulate(arrivals, node=node, policy=policy_named(known.policy), rng=rng))
            made = [
                replace(turn, outcomes=tuple(map(ServedOutcome.of, islice(outcomes, len(turn.outcomes)))))
                for turn in [played[0], *played]
            ]
            yield from made[1:]


def quickstart_load(needs: ask.Needs) -> tuple[Arrival, ...]:
    """Each budget alone, then those that leave room for it with eight at once; the next comes when one has ended."""
    budgets = {name: ms for name, (ms, _) in needs.budgets().items() if name != ask.TOO_TIGHT}
    groups = [(ms, ALONE, 1, needs.universal_alone) for ms in budgets.values()]
    groups += [(budgets[name], TOGETHER, ask.AT_ONCE, needs.universal_together) for name in ask.TOGETHER]
    arrivals: list[Arrival] = []
    at_ms, lengths = 0.0, {"prompt_tokens": PROMPT_TOKENS, "output_tokens": ask.MAX_TOKENS}
    for budget_ms, klass, count, longest_ms in groups:
        arrivals += [Arrival(at_ms=at_ms, budget=Budget(e2e_ms=budget_ms), klass=klass, **lengths)] * count
        at_ms += 1.5 * longest_ms
    return tuple(arrivals)


def budgets(
    model: Model = DEFAULT_MODEL,
    output: Output = Path("runs/budgets"),
    variants: Annotated[str, typer.Option(help="Policies, or deadline@0.95.")] = "deadline,slackfit,smallest",
    loads: Annotated[str, typer.Option(help="Of Poisson arrivals, in multiples of saturation.")] = "0.5,0.9,1.3",
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each load lasts.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every variant gets every load once.")] = 6,
    busy: Annotated[int, typer.Option(min=0, help="Processes that compute beside the endpoint.")] = 0,
    simulated: Annotated[bool, typer.Option("--simulate", help="The same loads, with these steps' noise.")] = False,
    frontier: options.Frontier = None,
    target: options.TargetName = None,
    threads: options.Threads = None,
    seed: Seed = 0,
) -> None:
    """Budgets kept on Ray Serve, by the client's clock and the endpoint's; only those count that can be kept at all.

    Run again, or with more --rounds, it goes on where it stopped. deadline@0.95 is told to keep 95 % of the budgets.
    """
    capacity = LoadCapacity(context_length=options.CONTEXT)
    local = LocalModel(model, capacity=capacity, threads=threads, frontier=frontier, target=target)
    given = {"loads": names_of(loads), "seconds": seconds, "busy": busy, "seed": seed}
    settings = read_record(BudgetsSettings, given, what="settings")
    bench = BudgetsBench(settings=settings, model=local, folder=BudgetsFolder(output))
    common = {"model": model, "frontier": frontier, "target": target, "threads": local.threads, "anywhere": True}
    args = {name: variant_args(name, **common) for name in names_of(variants)}
    try:
        if bench.setup is None or set(bench.turns(list(args), rounds)) - bench.folder.read_turns().keys():
            with shown_progress("turns") as progress, own_endpoints(args) as endpoints, busy_processes(busy):
                asyncio.run(bench.run(endpoints, rounds, progress))
    except KeyboardInterrupt:
        show(bench, simulated=False)
        raise LtsRayError(f"interrupted; {output} has what is done, and the same command goes on from there") from None
    show(bench, simulated=simulated)


def show(bench: BudgetsBench, *, simulated: bool) -> None:
    setup, rows = bench.setup, bench.rows(simulated=simulated)
    if setup is not None:
        print_rows([row.text_columns() for row in rows], as_json=False, title=f"load 1: {setup.rate:.2f} requests/s")
        write_json(bench.folder.path / "budgets.json", record_json(setup) | {"rows": list(map(asdict, rows))})


if __name__ == "__main__":
    run_benchmark(budgets)
