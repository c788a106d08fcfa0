"""What one request more would take on a replica at least: in microseconds, where its policy's forecast takes longer.

It is never more than that forecast, so that no replica is passed over that may be the best; only the time between
tokens may be, by little, where the first one does not come with the next step. The request
waits for none of those that wait; each that runs has a row in every step until it ends, and all rows whose width may be
chosen are as wide as the new one. In place of a curve over numbers of rows stands its lower convex hull: at a mean
number of rows it says what many steps take at least. All is linear in the width, so the widest that may do is at hand.

Where weights are kept in several planes, an outlook is of those that the new one reads, as if they were one. Rows that
may not read all of these are left out, but for what they look at and the places that they take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil, inf
from struct import pack

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import Timing
from serve.policies.capacity import Capacity
from serve.policies.fixed import own_option
from serve.policies.forecast import curves
from serve.policies.menu import Menu, Option
from serve.policies.policy import Situation
from serve.policies.request import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Least:
    """Milliseconds: at no width, and for each neuron of it."""

    ttft: tuple[float, float]
    tpot: tuple[float, float]
    e2e: tuple[float, float]

    def at(self, neurons: int) -> Timing:
        (first, first_each), (token, token_each), (end, end_each) = self.ttft, self.tpot, self.e2e
        return Timing(
            ttft_ms=first + first_each * neurons, tpot_ms=token + token_each * neurons, e2e_ms=end + end_each * neurons
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What depends on numbers of rows, in milliseconds on a quiet node: at each number from 0 on, and no more than at
    any larger one."""

    decode: list[float]
    """A step of rows that decode, at no width; a convex hull, as the next one."""
    decode_neuron: list[float]
    read: list[float]
    """A step with pieces of prompts, at no width and without logits."""
    read_neuron: list[float]
    head: list[float]
    packed: tuple[bytes, bytes, bytes, bytes, bytes]
    """The same, in this order."""

    @classmethod
    def at(cls, costs: StepCosts, capacity: Capacity) -> Prices:
        return cls.of(costs.grid, costs.base, costs.neuron, costs.head, capacity.slots, capacity.chunk_tokens)

    @classmethod
    @lru_cache(maxsize=64)
    def of(
        cls,
        grid: tuple[int, ...],
        base: tuple[float, ...],
        neuron: tuple[float, ...],
        head: tuple[float, ...],
        slots: int,
        chunk: int,
    ) -> Prices:
        bases, neurons, heads = (_growing(curve) for curve in curves(grid, base, neuron, head, most_rows=chunk))
        steps = [one + other for one, other in zip(bases, heads, strict=True)]
        decode, decode_neuron = _hull(steps[: slots + 1]), _hull(neurons[: slots + 1])
        return cls(
            decode=decode,
            decode_neuron=decode_neuron,
            read=bases,
            read_neuron=neurons,
            head=heads,
            packed=(_packed(decode), _packed(decode_neuron), _packed(bases), _packed(neurons), _packed(heads)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    prices: Prices
    costs: StepCosts
    capacity: Capacity
    narrowest: int
    """Neurons of the narrowest option."""
    rows: list[tuple[int, int, bool, bool]]
    """Of those that run: after how many steps it ends, its tokens until now, whether it is as wide as any option that
    the new one may get, or as wide as it gets, and whether it reads the planes that are priced."""
    reading: int
    """How many of them do."""
    decoding: int
    """How many of them decode."""
    ahead: int
    """Tokens of prompts that are being read."""
    fixed: int
    """The width of those that are as wide as any option whatever happens: the least."""
    fixed_end: int
    """When the last of these ends, in steps."""
    may_hold: bool
    """Whether the policy may let rows sit out steps for the sake of others."""
    bounded: int
    """Jobs with a budget, waiting ones included."""
    dues: list[tuple[float, int]]
    """Of the elastic ones that run: when the last token is due, if that is their next bound, and how many come yet."""

    @classmethod
    def of(cls, situation: Situation, menu: Menu, costs: StepCosts, *, planes: int = 0, apart: bool = False) -> Outlook:
        """costs: of one plane, or of `planes` as one (StepCosts.of_planes); 0: all rows read it. apart: whether rows
        whose width may be chosen may read others."""
        capacity, narrowest, widest = situation.capacity, menu.narrowest.neurons, menu.elastic[0].neurons
        rows, dues = [], []
        decoding = ahead = bounded = wide = fixed_end = fixed = 0
        for job in situation.running:  # without the properties of jobs: this is done for each job whenever one changes
            request, produced = job.request, job.produced
            length, end = len(request.prompt) + produced, request.max_tokens - produced
            if decodes := produced > 0 and length - job.cached == 1:
                decoding += 1
            else:
                ahead += length - job.cached
            counts = reads = request.elastic and not apart
            if not request.elastic:
                option = own_option(job, menu)
                neurons, reads = option.neurons, option.planes & planes == planes
                if counts := reads and neurons >= widest:
                    fixed = min(fixed, neurons) or neurons
                    fixed_end = max(fixed_end, end)
                wide += decodes and not request.bounded and (neurons > narrowest or not reads)
            elif (job.first_ms is not None or request.budget.ttft_ms is None) and (due_ms := job.due_ms) < inf:
                dues.append((due_ms, end))
            bounded += request.bounded
            rows.append((end, length, counts, reads))
        return cls(
            prices=Prices.at(costs, capacity),
            costs=costs,
            capacity=capacity,
            narrowest=narrowest,
            rows=rows,
            reading=sum([reads for *_, reads in rows]),
            decoding=decoding,
            ahead=ahead,
            fixed=fixed,
            fixed_end=fixed_end,
            may_hold=0 < wide < len(rows),
            bounded=bounded + sum([job.request.bounded for job in situation.waiting]),
            dues=dues,
        )

    def least(self, request: Request, *, shared: int = 0, option: Option | None = None, alone: bool = False) -> Least:
        """shared: tokens of its prompt that need not be read. option: what it runs, which then is no matter of a width;
        None: any. alone: as if no other had rows in the same steps.
        """
        prices, costs, chunk, slots = self.prices, self.costs, self.capacity.chunk_tokens, self.capacity.slots
        length, steps = len(request.prompt), request.max_tokens - 1
        pending = length - shared
        waits = 0 if alone or len(self.rows) < slots else min(self.rows)[0]
        decoding, ahead = (0, 0) if alone or waits else (self.decoding, self.ahead)
        rows = pending + ahead + decoding
        pieces = ceil(rows / chunk)
        last = rows - (pieces - 1) * chunk
        begin = waits + pieces
        until = begin + steps
        together, as_wide, attended, fixed = 0, 0, steps * (length + (steps + 1) / 2), 0
        if not alone:
            for end, context, counts, reads in self.rows:
                if end > begin:
                    stop = min(end, until)
                    together += (stop - begin) * reads
                    as_wide += (stop - begin) * counts
                    attended += (stop - begin) * (context + (begin + stop - 1) / 2)
            fixed = self.fixed * max(0, min(self.fixed_end, until) - begin)
        slow, over, slowed = costs.slowdown, costs.overhead_ms, costs.slowdown * costs.prompt_slowdown
        # Rows without logits make a step one that reads prompts: its last piece may have none.
        last_slow = slowed if min(pending, last - decoding) > 1 else min(slow, slowed)
        each = costs.attended if costs.prompt_attended is None else min(costs.attended, costs.prompt_attended)
        looked = each * pending * (length + shared) / 2
        full, end, asking = chunk, last, decoding + 1
        if self.reading < len(self.rows) and not alone and not waits:
            # How many of a piece's rows read what is priced is not known.
            full, end, asking = 0 if ahead else max(0, chunk - decoding), min(pending, last), 1
        read = slowed * (pieces - 1) * prices.read[full] + last_slow * (prices.read[end] + prices.head[asking])
        read += min(slow, slowed) * looked + over * pieces
        own_neuron = read_neuron = last_slow * prices.read_neuron[min(pending, last)]
        counting = sum([counts for _, _, counts, _ in self.rows])
        if counting == len(self.rows):
            read_neuron = slowed * (pieces - 1) * prices.read_neuron[chunk] + last_slow * prices.read_neuron[last]
        if waits:
            busy = self.reading if self.reading < min(slots, len(self.rows)) else slots
            read += waits * ((slow * _between(prices.decode, busy) if busy else 0.0) + over)
            if counting:
                read_neuron += waits * slow * _between(prices.decode_neuron, counting)
        count = max(1, steps)
        token = _between(prices.decode, min(1 + together / count, slots)) + costs.attended * attended / count
        token = slow * token + over
        token_neuron = slow * _between(prices.decode_neuron, min(1 + as_wide / count, slots))
        one = prices.decode_neuron[1]
        if option is not None:  # all others at the narrowest
            above = max(0, option.neurons - self.narrowest)
            read += read_neuron * self.narrowest + own_neuron * above
            token += token_neuron * self.narrowest + slow * above * one
            read_neuron = token_neuron = 0.0
        elif fixed:
            token += slow * one * fixed / count
            token_neuron -= slow * one * fixed / count / self.fixed
        return Least(
            ttft=(read, read_neuron),
            tpot=(token, token_neuron),
            e2e=(read + steps * token, read_neuron + steps * token_neuron),
        )


def _packed(values: Sequence[float]) -> bytes:
    return pack(f"{len(values)}d", *values)


def _between(curve: list[float], rows: float) -> float:
    low = min(int(rows), len(curve) - 2)
    part = rows - low
    return curve[low] * (1 - part) + curve[low + 1] * part


def _growing(curve: Sequence[float]) -> list[float]:
    """Nowhere more than further on."""
    values = list(curve)
    for place in range(len(values) - 2, -1, -1):
        values[place] = min(values[place], values[place + 1])
    return values


def _hull(curve: Sequence[float]) -> list[float]:
    """The lower convex hull of a curve from 1 on. Below stands what it is at 1."""
    corners: list[int] = []
    for right in range(1, len(curve)):
        while len(corners) > 1:
            left, middle = corners[-2:]
            if (curve[middle] - curve[left]) * (right - left) <= (curve[right] - curve[left]) * (middle - left):
                break
            corners.pop()
        corners.append(right)
    values = [curve[1]]
    for left, right in pairwise(corners):
        values += [curve[left] + (curve[right] - curve[left]) * step / (right - left) for step in range(right - left)]
    return [*values, curve[corners[-1]]]
