"""How many requests a second a replica bears while it keeps the wanted share of budgets, at no less than a quality.

By its own step costs and the requests of late, without a simulation: a replica with n requests is in a state, and how
long it stays in each is a birth and death process. In each state the width is what the deadline policy would take: the
widest with which about as many budgets hold as with any. So narrowing counts, and what it costs in quality, too.

What a life with n - 1 others takes: its response's steps with all rows, and the reading of all their n prompts. Those
that wait are served by what they have to spare. Bursts are those of the arrivals' gaps (CV², the squared coefficient of
variation): they widen the spread of the number of requests that are there at once, its variance by the
(1 + CV²) / 2 of an infinite group of servers, as a diffusion would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import KINDS, Budget
from serve.policies.capacity import Capacity
from serve.policies.deviation import Deviation
from serve.policies.menu import Menu, Option

Array = NDArray[np.float64]
STATES, WIDTHS, SAMPLE = 20, 5, 48
"""The most numbers of requests, submodels and requests that are looked at; between them it is linear."""
QUEUE = 4
"""With more requests waiting for each that runs it bears too much: those without a budget pile up behind the others."""
WORTH = 0.01
"""What share of the budgets a narrower width must save, as the deadline policy's."""
MEMORY = 0.7
"""How far a request's life is as its beginning: else there are as many others as there are on average."""
LEAST_PEAKED = 0.25
PRECISE = 0.01
"""The rate is found to this share of it."""


@dataclass(frozen=True, slots=True)
class RecentRequest:
    prompt_tokens: int
    output_tokens: int
    budget: Budget


def sustained_rate(
    recent: Sequence[RecentRequest],
    *,
    menu: Menu,
    costs: StepCosts,
    deviation: Deviation,
    capacity: Capacity,
    worst_loss: float | None,
    attainment: float,
    cv2: float = 1.0,
) -> float:
    """Requests a second; 0: not one is borne, or none is known. Takes a millisecond or two.

    recent: the last SAMPLE are taken. worst_loss: of the mean over all tokens; None: any. cv2: of the gaps.
    """
    if not recent:
        return 0.0
    replica = LoadedReplica.of(list(recent)[-SAMPLE:], menu, costs, deviation, capacity)
    most = float(replica.leaves.max())
    low, high = 0.0, most
    while high - low > PRECISE * high and high > PRECISE * most:  # so little counts as none
        rate = (low + high) / 2
        kept, loss = replica.under(rate, cv2)
        if kept >= attainment and (worst_loss is None or loss <= worst_loss):
            low = rate
        else:
            high = rate
    return 1e3 * low


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedReplica:
    """With 1, 2, … requests, up to as many as it may have: all are [states]."""

    leaves: Array
    """Requests that end, a millisecond."""
    kept: Array
    """Share of the budgets of those that come, which are that many with them."""
    loss: Array
    """Of a token, in the mean."""
    tokens: Array
    """A millisecond."""

    @classmethod
    def of(
        cls, recent: Sequence[RecentRequest], menu: Menu, costs: StepCosts, deviation: Deviation, capacity: Capacity
    ) -> LoadedReplica:
        """recent: at least one."""
        prompt, output = np.array([(each.prompt_tokens, each.output_tokens) for each in recent], dtype=np.float64).T
        limits = [[getattr(each.budget, f"{kind}_ms") or np.inf for kind in KINDS] for each in recent]
        bounds = np.array(limits).T * [np.ones(len(output)), np.maximum(output - 1, 1), np.ones(len(output))]
        mean_output, bounded = output.mean(), np.isfinite(bounds).any(axis=0)
        elastic = float(output[bounded].sum() / output.sum())  # of all tokens, those whose width may be chosen
        attended = float((output * (prompt + output / 2)).sum() / output.sum())
        most = capacity.slots + min(capacity.max_queue, QUEUE * capacity.slots)
        jobs = np.unique(np.rint(np.geomspace(1, most, STATES)))
        rows = np.minimum(jobs, capacity.slots)
        options = [menu.elastic[int(place)] for place in _spread(len(menu.elastic), WIDTHS)]
        step_ms, read_ms = np.empty((len(options), len(jobs))), np.empty((len(options), len(recent)))
        for place, option in enumerate(options):
            read_ms[place] = _read_ms(costs, option, prompt, capacity.chunk_tokens)
            decode = {n: _decode_ms(costs, menu, option, int(n), elastic, attended) for n in set(rows.tolist())}
            step_ms[place] = [decode[n] for n in rows.tolist()]
            step_ms[place] += rows * read_ms[place].mean() / mean_output
        # By [options, states, requests]: a first token waits for half a step, for its prompt, and for those that wait
        # and have less to spare.
        spare = (bounds - np.array([read_ms[0], output * step_ms[0, 0], read_ms[0] + output * step_ms[0, 0]])).min(
            axis=0
        )
        ahead = (spare[:, None] > spare).mean(axis=1) ** 2
        turn_ms = np.maximum(jobs - capacity.slots, 0) * mean_output * step_ms / rows
        first_ms = 1.5 * step_ms[..., None] + read_ms[:, None] + turn_ms[..., None] * ahead
        rest_ms = step_ms[..., None] * (output - 1)
        chances = np.ones(first_ms.shape)
        for kind, bound in zip(KINDS, bounds, strict=True):
            has = np.isfinite(bound)
            needed = {"ttft": first_ms, "tpot": rest_ms, "e2e": first_ms + rest_ms}[kind][..., has]
            likely, safe = deviation.at(kind, needed)
            chance = np.clip(0.5 + 0.5 * (bound[has] / np.maximum(needed, 1e-9) - likely) / (safe - likely), 0, 1)
            chances[..., has] = np.minimum(chances[..., has], chance)
        held = chances[..., bounded].mean(axis=2) if bounded.any() else np.ones(step_ms.shape)
        chosen = np.argmax(held >= (1 - WORTH) * held.max(axis=0), axis=0), np.arange(len(jobs))  # the widest such
        wider = (
            np.maximum(chosen[0] - 1, 0),
            chosen[1],
        )  # it narrows as far as it must: about half of the steps are so wide
        losses = np.array([option.shortfall for option in options])
        elastic_loss = (losses[chosen[0]] + losses[wider[0]]) / 2
        lasts_ms = (step_ms[chosen] + step_ms[wider]) / 2
        every = np.arange(1, most + 1)
        return cls(
            leaves=np.interp(every, jobs, rows / (mean_output * lasts_ms)),
            kept=np.interp(every, jobs, held[chosen]),
            loss=np.interp(every, jobs, elastic * elastic_loss + (1 - elastic) * menu.universal.shortfall),
            tokens=np.interp(every, jobs, rows / lasts_ms),
        )

    def under(self, rate: float, cv2: float) -> tuple[float, float]:
        """Share of budgets kept, and the mean loss of a token, with so many requests a millisecond."""
        jobs = np.arange(len(self.leaves) + 1)
        grown = np.concatenate([[0.0], np.cumsum(np.log(rate / self.leaves))]) / max((1 + cv2) / 2, LEAST_PEAKED)
        chances = np.exp(grown - grown.max())
        chances /= chances.sum()
        mean = float(chances @ jobs)
        lived = np.maximum(MEMORY * jobs[1:] + (1 - MEMORY) * (mean + 1), 1.0)
        kept = float(chances[:-1] @ np.interp(lived, jobs[1:], self.kept))  # more than that: missed
        made = chances[1:] * self.tokens
        return kept, float(made @ self.loss / made.sum())


def _spread(count: int, most: int) -> NDArray[np.float64]:
    """Places of at most so many of them, the first and the last among them."""
    return np.unique(np.rint(np.linspace(0, count - 1, min(count, most))))


def _decode_ms(costs: StepCosts, menu: Menu, option: Option, rows: int, elastic: float, attended: float) -> float:
    """Of a step of rows that have this width, but for those whose width is not chosen, as likely as there are such."""
    narrow = costs.step_ms([option.group(rows, int(rows * attended), rows)])
    if elastic == 1 or option.shape == menu.universal.shape:
        return narrow
    some = 1 - elastic**rows
    wide = max(1, round(rows * (1 - elastic) / some))
    parts = [(menu.universal, wide), (option, rows - wide)]
    mixed = costs.step_ms([each.group(count, int(count * attended), count) for each, count in parts if count])
    return (1 - some) * narrow + some * mixed


def _read_ms(costs: StepCosts, option: Option, prompt: Array, chunk_tokens: int) -> Array:
    """[requests]: what reading each prompt adds to the steps that do it."""
    sizes = sorted({1, 8, 32, chunk_tokens // 2 or 1, chunk_tokens})
    row_ms = costs.step_ms([option.group(1, 1, 1)])
    chunks = [costs.step_ms([option.group(n, n * n // 2, int(n == 1))]) - row_ms for n in sizes]
    whole, left = np.divmod(prompt, chunk_tokens)
    return np.asarray(whole * chunks[-1] + np.interp(left, [0, *sizes], [0.0, *chunks]))
