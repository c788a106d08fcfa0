"""One load on the real endpoint beside the same in the simulator, request by request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks.load.kept_steps import TakenStep
from lts_ray.errors import LtsRayError
from serve.policies.budget import Kind
from serve.policies.menu import Menu
from serve.simulate.attainment_score import mean_loss
from serve.simulate.request_outcome import Outcome

COMPARED: tuple[Kind, ...] = ("ttft", "e2e")
PERCENTS = (50, 99)
Cell = tuple[str, str, float, int]
"""A fleet, a trace, a load and the number of its round."""


@dataclass(frozen=True, kw_only=True)
class ComparedLoad:
    """Errors are shares of the real times, real and simulated values stand in this order. None: of nothing."""

    cell: Cell
    requests: int
    answered: int
    """On both sides: only these count for times."""
    error: Mapping[Kind, float]
    """The median over the requests, one's simulated time being the median of the replays'."""
    error_once: Mapping[Kind, float]
    """The same by a single replay, which has steps' noise of its own; the mean over replays."""
    bias: Mapping[Kind, float]
    """The median of the first one with its sign: above 0, simulated requests take too long."""
    error_own: Mapping[Kind, float]
    """As `error`, with the costs and the noise of the load's own steps: what is left where no node gets slower."""
    apart: Mapping[Kind, float] | None
    """As `error`, of a second real run of the same load: what noise alone makes. None: there was one run."""
    percentiles: Mapping[str, tuple[float, float]]
    """In milliseconds, by "ttft p50" and so on."""
    attainment: tuple[float, float] | None
    """The share of the budgets that were kept, all requests counting."""
    loss: tuple[float, float]
    slower: float
    """What the load's real steps took over what the calibration before it says of them, less 1."""
    step_error: float
    """The median error of the engines' own predictions of these steps."""
    pairs: tuple[tuple[float, ...], ...]
    """Of each answered request: the real TTFT and the simulated, the whole response's, all in milliseconds."""

    @property
    def points_off(self) -> float | None:
        return None if self.attainment is None else 100 * (self.attainment[1] - self.attainment[0])


LOAD = TypeAdapter(ComparedLoad)


def compare(
    cell: Cell,
    plays: Sequence[Sequence[Outcome]],
    replays: Sequence[Sequence[Outcome]],
    own_replays: Sequence[Sequence[Outcome]],
    *,
    menu: Menu,
    steps: Iterable[tuple[TakenStep, float]],
) -> ComparedLoad:
    """plays: real ones, of which the first is compared. own_replays: by the load's own steps.

    steps: the load's own, each with what it should have taken.
    Raises LtsRayError where not one request was answered on both sides.
    """
    real = plays[0]
    answered = [
        number
        for number, outcomes in enumerate(zip(*plays, *replays, *own_replays, strict=True))
        if all(outcome.timing is not None for outcome in outcomes)
    ]
    if not answered:
        raise LtsRayError(f"no request of {cell} was answered both by the endpoint and in the simulator")
    times = {kind: _times(real, answered, kind) for kind in COMPARED}
    each, own = (
        {kind: np.stack([_times(replay, answered, kind) for replay in some]) for kind in COMPARED}
        for some in (replays, own_replays)
    )
    middle = {kind: np.median(each[kind], axis=0) for kind in COMPARED}
    losses = {name: option.loss for name, option in menu.named.items() if option.loss is not None}

    def loss(outcomes: Sequence[Outcome]) -> float:
        return mean_loss(outcomes, losses=losses, narrowest=menu.narrowest.name)

    def kept(outcomes: Sequence[Outcome]) -> float:
        return fmean(outcome.met for outcome in outcomes if outcome.budget)

    took_ms, should_ms, predicted_ms = np.array(
        [(taken.took_ms, should_ms, taken.step.predicted_ms) for taken, should_ms in steps]
    ).T
    return ComparedLoad(
        cell=cell,
        requests=len(real),
        answered=len(answered),
        error={kind: _error(middle[kind], times[kind]) for kind in COMPARED},
        error_once={kind: fmean(_error(one, times[kind]) for one in each[kind]) for kind in COMPARED},
        bias={kind: float(np.median(middle[kind] / times[kind] - 1)) for kind in COMPARED},
        error_own={kind: _error(np.median(own[kind], axis=0), times[kind]) for kind in COMPARED},
        apart={kind: _error(_times(plays[1], answered, kind), times[kind]) for kind in COMPARED} if plays[1:] else None,
        percentiles={
            f"{kind} p{percent}": (
                float(np.percentile(times[kind], percent)),
                fmean(float(np.percentile(one, percent)) for one in each[kind]),
            )
            for kind in COMPARED
            for percent in PERCENTS
        },
        attainment=(kept(real), fmean(map(kept, replays))) if any(outcome.budget for outcome in real) else None,
        loss=(loss(real), fmean(map(loss, replays))),
        slower=float(took_ms.sum() / should_ms.sum()) - 1,
        step_error=float(np.median(np.abs(predicted_ms / took_ms - 1))),
        pairs=tuple(zip(*(row.tolist() for kind in COMPARED for row in (times[kind], middle[kind])), strict=True)),
    )


def _times(outcomes: Sequence[Outcome], numbers: Sequence[int], kind: Kind) -> NDArray[np.float64]:
    return np.array([getattr(outcomes[number].timing, f"{kind}_ms") for number in numbers])


def _error(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    return float(np.median(np.abs(found / true - 1)))
