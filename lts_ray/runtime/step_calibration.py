"""Measures steps of a runtime for a few seconds and fits what they cost, at start-up and on the very node that serves.

Steps are run in rounds, each at most once a round: a slow moment of the machine then spoils one run of some steps and
not all runs of one, and weights are read as serving reads them, not from a cache that the same step has just filled.
A step that takes long is run less often than a short one, and twice at least unless the node is busy.

The fit is a non-negative least squares of the relative error, reweighted so that outliers have little say. Its
unknowns are the columns' values for one row and their slopes between the points of the grid, so that more work is never
predicted to cost less. How far off it is, steps say that it was not fitted to: of mixed widths, of prompts beside
decoding, and between the grid's points.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, count, pairwise
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import Group, StepCosts
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock, waiter

GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DECODE_ROWS = (1, 2, 4, 8, 16)
PIECES = (2, 4, 8, 16, 32, 64, 128, 256)
"""Of prompts. The short ones have as many rows as decoding and no logits: they tell the head's cost from the rest."""
NEAR, FAR = 8, 256
"""Tokens before the newest one."""
ESSENTIAL_ROWS = 32
LONGEST = 1 / 12
"""A step of more than ESSENTIAL_ROWS is left out where one run of it takes longer than this share of the given time."""
SECOND_ROUND_LIMIT = 2
"""The second round is left out once so many times the given time have passed: a busy node starts after one of them."""
MAX_ROUNDS = 100
OUTLYING, REWEIGHTINGS = 0.03, 8
"""An error above the first counts by its size, not by its square: a step may have been slow in all runs. The fit is
reweighted as often as the second says."""


@dataclass(frozen=True, kw_only=True)
class CalibrationPiece:
    """A segment of a step to time."""

    submodel: Submodel
    neurons: int
    """Of the submodel."""
    tokens: int
    before: int = 0
    """Tokens of the sequence before the segment's."""
    logits: bool = False

    @property
    def group(self) -> Group:
        attended = self.tokens * self.before + self.tokens * (self.tokens + 1) // 2
        return Group(self.neurons, self.tokens, attended, int(self.logits))

    @property
    def blocks(self) -> int:
        return -(-(self.before + self.tokens) // BLOCK_TOKENS)


@dataclass(kw_only=True)
class CalibrationStep:
    """One kind of step and what it took so far."""

    pieces: tuple[CalibrationPiece, ...]
    fitted: bool
    """Whether costs are fitted to it; else it is held out, to be predicted."""
    times_ms: list[float] = field(default_factory=list)

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(piece.group for piece in self.pieces)

    @property
    def blocks(self) -> int:
        return sum(piece.blocks for piece in self.pieces)

    @property
    def rows(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def took_ms(self) -> float:
        """The first octile: other programs only ever slow a step down. Of up to eight runs the fastest."""
        return sorted(self.times_ms)[(len(self.times_ms) - 1) // 8]


def measure_step_costs(runtime: Runtime, *, seconds: float = 3.0, clock: Clock = time.perf_counter) -> StepCosts:
    """Measure for about `seconds`, up to twice as long where two runs of each step take longer. Writes to blocks."""
    possible = list(_steps_of(runtime.config, runtime.n_blocks))
    if not possible:
        raise LtsRayError(f"a KV cache of {runtime.n_blocks} blocks is too small to measure a step in")
    with torch.inference_mode():
        steps = _measure(possible, runtime, seconds=seconds, clock=clock)
    costs = fit_step_costs([(step.groups, step.took_ms) for step in steps if step.fitted])
    held_out = [step for step in steps if not step.fitted] or steps
    errors = [abs(costs.step_ms(step.groups) / step.took_ms - 1) for step in held_out if step.took_ms > 0]
    return replace(costs, relative_error=round(median(errors), 4) if errors else 0.0)


def _steps_of(config: DecoderConfig, n_blocks: int) -> Iterator[CalibrationStep]:
    """Those that the model and the cache have room for. Pieces of prompts come first, from short to long."""
    trained = list(config.trained.values())
    narrow, middle, full = trained[0], trained[len(trained) // 2], trained[-1]
    far = min(FAR, config.context_length - 1)

    def piece(submodel: Submodel, tokens: int, before: int, *, logits: bool) -> CalibrationPiece:
        neurons = config.equivalent_neurons(submodel)
        return CalibrationPiece(submodel=submodel, neurons=neurons, tokens=tokens, before=before, logits=logits)

    def decoding(submodel: Submodel, rows: int = 1, before: int = NEAR) -> list[CalibrationPiece]:
        return [piece(submodel, 1, before, logits=True)] * rows

    def prompt(submodel: Submodel, tokens: int, before: int = 0, *, logits: bool = False) -> list[CalibrationPiece]:
        return [piece(submodel, tokens, before, logits=logits)]

    fitted = [prompt(submodel, tokens) for tokens in PIECES for submodel in (narrow, full)]
    fitted += [prompt(narrow, tokens, far - tokens) for tokens in (16, 64) if tokens < far]
    fitted += [decoding(submodel, rows) for rows in DECODE_ROWS for submodel in (narrow, middle, full)]
    fitted += [decoding(narrow, 32), decoding(narrow, 2, far), decoding(full, 4, far), decoding(narrow, 8, far)]
    held_out = [
        decoding(full) + decoding(narrow),
        decoding(full) + decoding(middle) + decoding(narrow, 2, far // 2),
        decoding(full, 2) + decoding(middle, 2) + decoding(narrow, 4),
        decoding(full, 3, far // 2),
        decoding(narrow, 6, far // 2),
        decoding(middle, 12),
        prompt(middle, 24, logits=True),
        decoding(narrow, 4) + prompt(full, 20),
        decoding(full, 7, far // 2) + prompt(narrow, 24, logits=True),
        prompt(narrow, 20, logits=True) + prompt(full, 12, logits=True),
    ]
    for pieces, is_fitted in [(pieces, True) for pieces in fitted] + [(pieces, False) for pieces in held_out]:
        step = CalibrationStep(pieces=tuple(pieces), fitted=is_fitted)
        if all(piece.before + piece.tokens <= config.context_length for piece in pieces) and step.blocks <= n_blocks:
            yield step


def fit_step_costs(samples: Sequence[tuple[Sequence[Group], float]]) -> StepCosts:
    """samples: the groups of a step, and the milliseconds it took."""
    samples = [(groups, took_ms) for groups, took_ms in samples if took_ms > 0]
    if not samples:
        return StepCosts(grid=(1,), base=(0.0,), neuron=(0.0,), head=(0.0,), attended=0.0)
    most = max(sum(group.rows for group in groups) for groups, _ in samples)
    grid = GRID[: max(2, bisect_left(GRID, most) + 1)]
    terms = np.array([_terms(groups, grid) for groups, _ in samples])
    relative = terms / np.array([took_ms for _, took_ms in samples])[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)  # columns differ by many orders of magnitude
    relative, weights = relative / scale, np.ones(len(samples))
    for _ in range(REWEIGHTINGS):
        solution, _ = nnls(relative * weights[:, None], weights)
        weights = np.sqrt(np.minimum(1, OUTLYING / np.maximum(np.abs(relative @ solution - 1), 1e-12)))
    values = solution / scale
    n = len(grid)
    seen = terms.max(axis=0) > 0
    attended = [float(values[place] if seen[place] else values[other]) for place, other in ((-2, -1), (-1, -2))]
    base, neuron, head = (_column(values[start : start + n], seen[start : start + n], grid) for start in (0, n, 2 * n))
    return StepCosts(grid=grid, base=base, neuron=neuron, head=head, attended=attended[0], prompt_attended=attended[1])


def _terms(groups: Sequence[Group], grid: Sequence[int]) -> NDArray[np.float64]:
    """What multiplies the unknowns: base's first value and slopes, neuron's, head's, and the costs of attending."""
    base = _hinges(sum(group.rows for group in groups), grid)
    neuron, head = np.zeros(len(grid)), np.zeros(len(grid))
    if logits := sum(group.logits for group in groups):
        head = _hinges(logits, grid)
    ordered = sorted(groups, key=lambda group: group.neurons)
    below = 0
    for place, group in enumerate(ordered):
        neuron += (group.neurons - below) * _hinges(sum(wider.rows for wider in ordered[place:]), grid)
        below = group.neurons
    decoded = sum(group.decoded for group in groups)
    return np.concatenate([base, neuron, head, [decoded, sum(group.attended for group in groups) - decoded]])


def _hinges(rows: int, grid: Sequence[int]) -> NDArray[np.float64]:
    """[points of the grid]: 1, then how many of the rows lie between each two points; past the last, the last two."""
    parts = [min(max(rows - low, 0), high - low) for low, high in pairwise(grid)]
    parts[-1] += max(rows - grid[-1], 0)
    return np.array([1.0, *parts])


def _column(solved: NDArray[np.float64], seen: NDArray[np.bool_], grid: Sequence[int]) -> tuple[float, ...]:
    """A column's values from its first one and its slopes. Where no step had so many rows, it goes on as before."""
    slopes = [float(slope) for slope in solved[1:]]
    for place in range(1, len(slopes)):
        if not seen[place + 1]:
            slopes[place] = slopes[place - 1]
    steps = (slope * (high - low) for slope, (low, high) in zip(slopes, pairwise(grid), strict=True))
    return tuple(accumulate(steps, initial=float(solved[0])))


def _measure(
    steps: Sequence[CalibrationStep], runtime: Runtime, *, seconds: float, clock: Clock
) -> list[CalibrationStep]:
    """Those that are not too dear, with their times: a round that only warms up, then rounds until time is over."""
    pool = max(step.blocks for step in steps)
    dealt = count()
    vocab_size = runtime.config.vocab_size
    wait = waiter(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def run(pieces: Sequence[CalibrationPiece]) -> float:
        """Blocks are dealt in turns, so that rows of a step have their own, and none is always in a cache."""
        segments = [
            Segment(
                tokens=[(7 * number) % vocab_size for number in range(piece.tokens)],
                start=piece.before,
                blocks=[next(dealt) % pool for _ in range(piece.blocks)],
                submodel=piece.submodel,
                wants_logits=piece.logits,
            )
            for piece in pieces
        ]
        begin = clock()
        runtime.run(segments)
        wait()
        return (clock() - begin) * 1e3

    started = clock()
    # A token in every block: memory that nothing has written may be read for nothing.
    token = replace(steps[0].pieces[0], tokens=1, before=0, logits=True)
    for begin in range(0, pool, ESSENTIAL_ROWS):
        run([token] * min(ESSENTIAL_ROWS, pool - begin))
    longest_ms, most_rows = 1e3 * seconds * LONGEST, runtime.config.context_length
    for step in steps:
        if step.rows <= most_rows and run(step.pieces) > longest_ms and step.rows > ESSENTIAL_ROWS:
            most_rows = step.rows - 1
    kept = [step for step in steps if step.rows <= most_rows]
    share_ms = 1e3 * max(seconds - (clock() - started), 0.0) / len(kept)
    for number in range(MAX_ROUNDS):
        # After two rounds, those that have not had their share of the time.
        due = kept if number < 2 else [step for step in kept if sum(step.times_ms) + step.took_ms <= share_ms]
        if not due or (number > 0 and clock() - started > (SECOND_ROUND_LIMIT if number < 2 else 1) * seconds):
            break
        for step in due:
            step.times_ms.append(run(step.pieces))
    return kept
