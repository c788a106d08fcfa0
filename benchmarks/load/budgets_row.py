"""A variant under one kind of load, as a row: how many of the budgets that can be kept were, and at which quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.load.budgets_folder import BudgetsTurn
from benchmarks.load.policy_rows import Mean, mean_of, mean_text
from benchmarks.load.served_outcome import ServedOutcome
from serve.policies.menu import Menu
from serve.simulate.attainment_score import mean_loss
from serve.traffic.budget_classes import Need

QUICKSTART, ALONE, TOGETHER = "quickstart", "asked alone", "eight at once"
"""The load of the quickstart's requests, and its groups: classes, and rows, of their own."""
Outcomes = Sequence[ServedOutcome]
Groups = Mapping[tuple[str, str], Mapping[int, Outcomes]]
"""By load and variant, then by round."""


@dataclass(frozen=True, kw_only=True)
class BudgetsRow:
    """Means over the rounds; None where no request could count for one."""

    load: str
    variant: str
    budgets: int
    """Those that the narrowest submodel would have kept, started at once; only they count."""
    by_client: Mean | None
    """The share of them that was kept by the client's clock, from the moment at which the request was due."""
    by_endpoint: Mean | None
    """The share by the endpoint's own clock."""
    loss: Mean | None
    """In nats per token that was asked for; None where the submodels' losses are not known."""
    inside: Mean | None
    """The share of the responses that took as long as was predicted."""
    added_ttft_ms: Mean | None
    """The median time by which a stream's first token came later at the client than the endpoint says."""
    simulated: Mean | None
    """The share that the simulator keeps on the same arrivals."""

    def text_columns(self) -> dict[str, str]:
        off = None
        if self.simulated is not None and self.by_endpoint is not None:
            off = self.simulated.mean - self.by_endpoint.mean
        return {
            "load": self.load,
            "policy": self.variant,
            "budgets": str(self.budgets),
            "client %": "–" if self.by_client is None else self.by_client.text(scale=100),
            "ours %": mean_text(self.by_endpoint, 1, scale=100),
            "loss": mean_text(self.loss, 3),
            "inside %": mean_text(self.inside, 1, scale=100),
            "TTFT +ms": mean_text(self.added_ttft_ms, 1),
            "simul. %": mean_text(self.simulated, 1, scale=100),
            "off by": "–" if off is None else f"{100 * off:+.1f}",
        }


def rows_of_turns(
    turns: Iterable[BudgetsTurn], *, need: Need, menu: Menu, simulated: Iterable[BudgetsTurn] = ()
) -> list[BudgetsRow]:
    """need: of the narrowest submodel. The quickstart's groups are rows of their own."""
    played, virtual = _groups(turns), _groups(simulated)
    losses = {name: option.loss for name, option in menu.named.items() if option.loss is not None}

    def counted(outcomes: Outcomes) -> Outcomes:
        return [
            each
            for each in outcomes
            if each.budget and each.budget.holds(need.alone(each.arrival.prompt_tokens, each.arrival.output_tokens))
        ]

    def loss(outcomes: Outcomes) -> float | None:
        return mean_loss(outcomes, losses=losses, narrowest=menu.narrowest.name) if losses else None

    return [
        BudgetsRow(
            load=load,
            variant=variant,
            budgets=sum(len(counted(outcomes)) for outcomes in rounds.values()),
            by_client=_mean(rounds, lambda outcomes: _share([each.met for each in counted(outcomes)])),
            by_endpoint=_mean(rounds, lambda outcomes: _share([each.kept for each in counted(outcomes)])),
            loss=_mean(rounds, loss),
            inside=_mean(rounds, lambda outcomes: _share([each.inside for each in outcomes])),
            added_ttft_ms=_mean(rounds, _added_ttft_ms),
            simulated=_mean(
                virtual.get((load, variant), {}), lambda them: _share([each.met for each in counted(them)])
            ),
        )
        for (load, variant), rounds in sorted(played.items())
    ]


def _groups(turns: Iterable[BudgetsTurn]) -> Groups:
    groups: dict[tuple[str, str], dict[int, list[ServedOutcome]]] = {}
    for turn in turns:
        for each in turn.outcomes:
            load = each.arrival.klass if turn.task == QUICKSTART else turn.task
            groups.setdefault((load, turn.variant), {}).setdefault(turn.round, []).append(each)
    return groups


def _mean(rounds: Mapping[int, Outcomes], value: Callable[[Outcomes], float | None]) -> Mean | None:
    return mean_of([number for outcomes in rounds.values() if (number := value(outcomes)) is not None])


def _share(held: Sequence[bool | None]) -> float | None:
    known = [each for each in held if each is not None]
    return fmean(known) if known else None


def _added_ttft_ms(outcomes: Outcomes) -> float | None:
    added = [each.added_ttft_ms for each in outcomes if each.added_ttft_ms is not None]
    return median(added) if added else None
