"""The replicas of a simulated fleet, by kind of node: asked for, up, slow, draining, killed; and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

from lts_ray.errors import LtsRayError
from serve.autoscaling.autoscaler import Autoscaler
from serve.autoscaling.fleet_state import FleetState, KindState
from serve.routing.shortlist import Shortlist
from serve.simulate.agenda import Agenda
from serve.simulate.fleet_run import FleetDecision, FleetSample, KindSample
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.served_request import ServedRequest
from serve.simulate.simulated_kind import SimulatedKind
from serve.simulate.simulated_life import SimulatedLife

HOUR_MS = 3_600_000.0


@dataclass(slots=True, eq=False)
class _Fleet:
    """The replicas of one kind."""

    kind: SimulatedKind
    target: int
    lives: list[SimulatedLife]
    """In the order in which they were asked for; without those that are gone."""
    ever: int = 0
    hours: float = 0.0
    """Of those that are gone."""
    factors: list[float] = field(default_factory=list)
    """By which all of them are slow now."""

    def serving(self) -> list[SimulatedLife]:
        return [life for life in self.lives if life.up]

    def sample(self) -> KindSample:
        serving = self.serving()
        counts = [life.counts() for life in serving]
        return KindSample(
            up=len(serving),
            coming=len(self.lives) - len(serving),
            running=sum(running for running, _ in counts),
            waiting=sum(waiting for _, waiting in counts),
        )

    def staying(self) -> list[SimulatedLife]:
        """Those that serve or come, and are not to leave."""
        return [life for life in self.lives if not life.drains]


class SimulatedReplicas:
    def __init__(
        self,
        kinds: Sequence[SimulatedKind],
        agenda: Agenda,
        shortlist: Shortlist,
        *,
        start: Callable[[SimulatedKind, int], SimulatedLife],
        lost: Callable[[Sequence[ServedRequest]], None],
        changed: Callable[[SimulatedLife], None],
    ) -> None:
        """start: makes the so-many-th replica of a kind, asked for now. lost: gets the requests of one that is gone.

        changed: told of one whose steps end at other times than they would have.
        """
        self.usable: dict[str, SimulatedLife] = {}
        """By id, those that a request may go to."""
        self.shortlist = shortlist
        """Of these."""
        self.samples: list[FleetSample] = []
        self.decisions: list[FleetDecision] = []
        self._agenda, self._start, self._lost, self._changed = agenda, start, lost, changed
        self._fleets = {kind.name: _Fleet(kind, kind.replicas, []) for kind in kinds}
        for fleet in self._fleets.values():
            for _ in range(fleet.target):
                self._serve(fleet, self._ask(fleet))

    @property
    def hours(self) -> Mapping[str, float]:
        """Until now, by kind."""
        return {
            name: fleet.hours + sum((self._agenda.now_ms - life.asked_ms) / HOUR_MS for life in fleet.lives)
            for name, fleet in self._fleets.items()
        }

    @property
    def cost(self) -> float:
        """Of these hours."""
        return sum(hours * self._fleets[name].kind.cost_per_hour for name, hours in self.hours.items())

    def expect(self, fault: InjectedFault) -> None:
        """Raises LtsRayError where there is no such kind."""
        if fault.kind not in self._fleets:
            raise LtsRayError(f"a fault is of the kind {fault.kind!r}, but there are: {', '.join(self._fleets)}")
        what = self._kill if fault.what == "kill" else self._slow
        self._agenda.at(fault.at_s * 1e3, partial(what, self._fleets[fault.kind], fault))

    def scale(self, autoscaler: Autoscaler) -> None:
        scaling = autoscaler.decide(self._state())
        targets = {
            name: min(max(scaling.targets.get(name, fleet.target), fleet.kind.min_replicas), fleet.kind.max_replicas)
            for name, fleet in self._fleets.items()
        }
        if any(targets[name] != fleet.target for name, fleet in self._fleets.items()):
            self.decisions.append(FleetDecision(at_s=self._agenda.now_ms / 1e3, targets=targets, reason=scaling.reason))
        for name, fleet in self._fleets.items():
            fleet.target = targets[name]
            self._keep_target(fleet)

    def sample(self) -> None:
        self.samples.append(
            FleetSample(
                at_s=self._agenda.now_ms / 1e3,
                kinds={name: fleet.sample() for name, fleet in self._fleets.items()},
                cost=self.cost,
            )
        )

    def _state(self) -> FleetState:
        def state(fleet: _Fleet) -> KindState:
            kind = fleet.kind
            return KindState(
                name=kind.name,
                min_replicas=kind.min_replicas,
                max_replicas=kind.max_replicas,
                cost_per_hour=kind.cost_per_hour,
                start_s=kind.start_s,
                target=fleet.target,
                replicas={life.id: life.report(self._agenda.now_ms) for life in fleet.serving() if not life.drains},
            )

        return FleetState(
            now_s=self._agenda.now_ms / 1e3, kinds=tuple([state(fleet) for fleet in self._fleets.values()])
        )

    def _keep_target(self, fleet: _Fleet) -> None:
        """Ask for replicas, or let some leave: those that do not serve yet first, and the newest first."""
        staying = fleet.staying()
        for _ in range(fleet.target - len(staying)):
            life = self._ask(fleet)
            self._agenda.at(self._agenda.now_ms + fleet.kind.start_s * 1e3, partial(self._serve, fleet, life))
        newest = staying[::-1]
        leaving = [*(life for life in newest if not life.up), *(life for life in newest if life.up)]
        for life in leaving[: max(0, len(staying) - fleet.target)]:
            life.drains = True
            self.let_go(life)
        self._count_usable()

    def _ask(self, fleet: _Fleet) -> SimulatedLife:
        life = self._start(fleet.kind, fleet.ever)
        fleet.ever += 1
        fleet.lives.append(life)
        return life

    def _serve(self, fleet: _Fleet, life: SimulatedLife) -> None:
        if not life.gone:
            life.serve(self._agenda.now_ms)
            life.slow(prod(fleet.factors), self._agenda.now_ms)
            self._count_usable()

    def let_go(self, life: SimulatedLife) -> None:
        """One that is to leave may, once it has no request."""
        if life.drains and not life.has_work:
            self._lose(life)

    def _lose(self, life: SimulatedLife) -> None:
        fleet = self._fleets[life.kind.name]
        fleet.lives.remove(life)
        fleet.hours += (self._agenda.now_ms - life.asked_ms) / HOUR_MS
        lost = life.end(self._agenda.now_ms)
        self._count_usable()
        self._lost(lost)

    def _count_usable(self) -> None:
        """As an ingress has it: those that are to leave only where there is no other."""
        serving = [life for fleet in self._fleets.values() for life in fleet.serving()]
        usable = [life for life in serving if not life.drains] or serving
        before, self.usable = self.usable, {life.id: life for life in usable}
        for id in before:
            if id not in self.usable:
                self.shortlist.leave(id)
        for life in usable:
            self.shortlist.join(life.id, life.kind.name)

    def _kill(self, fleet: _Fleet, fault: InjectedFault) -> None:
        for life in _meant(fleet, fault):
            self._lose(life)
        self._keep_target(fleet)

    def _slow(self, fleet: _Fleet, fault: InjectedFault) -> None:
        lists = [fleet.factors] if fault.replica is None else [life.factors for life in _meant(fleet, fault)]

        def set_all() -> None:
            for life in fleet.serving():
                life.slow(prod([*fleet.factors, *life.factors]), self._agenda.now_ms)
                self._changed(life)

        def pass_by() -> None:
            for factors in lists:
                factors.remove(fault.factor)
            set_all()

        for factors in lists:
            factors.append(fault.factor)
        set_all()
        if fault.for_s is not None:
            self._agenda.at(self._agenda.now_ms + fault.for_s * 1e3, pass_by)


def _meant(fleet: _Fleet, fault: InjectedFault) -> list[SimulatedLife]:
    serving = fleet.serving()
    return serving if fault.replica is None else serving[fault.replica : fault.replica + 1]
