"""Measures steps of a runtime for a few seconds and fits what they cost, at start-up and on the very node that serves.

Steps are run in rounds, each at most once a round: a slow moment of the machine then spoils one run of some steps and
not all runs of one, and weights are read as serving reads them, not from a cache that the same step has just filled.
A step that takes long is run less often than a short one, and twice at least unless the node is busy.

On a GPU steps are larger, and the runtime pads their rows: what a step costs rises in stairs.

How far off the fit is, steps say that it was not fitted to: of mixed widths, of prompts beside decoding, and between
the points of its grid.

Where a runtime has several precisions, each further one is measured with fewer steps, and steps that mix two of them
tell what these share.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from statistics import median

import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.precision import READS
from lts_ray.runtime.cuda.bucket import USUAL_SINGLES
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime, run_as_served
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_cost_fit import fit_step_costs
from lts_ray.runtime.step_costs import Group, StepCosts
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock, waiter

FURTHER = 1 / 3
"""Of the time for one precision, for each further one."""
NEAR = 8
"""Tokens before the newest one, or `StepSizes.far`."""
ESSENTIAL_ROWS = 32
LONGEST = 1 / 12
"""A step of more than ESSENTIAL_ROWS is left out where one run of it takes longer than this share of the given time."""
SECOND_ROUND_LIMIT = 2
"""The second round is left out once so many times the given time have passed: a busy node starts after one of them."""
MAX_ROUNDS = 100


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Of the steps that are measured."""

    rows: tuple[int, ...]
    """That decode; of the narrowest, twice the most, too."""
    pieces: tuple[int, ...]
    """Tokens of prompts. The short ones have as many rows as decoding and no logits: they tell the head's cost from the
    rest."""
    far: int
    """Tokens before the newest one, where there are many."""
    padded: tuple[int, ...] = ()
    """Numbers of rows, growing from 1, that fewer are padded to."""


ON_CPU = StepSizes(rows=(1, 2, 4, 8, 16), pieces=(2, 4, 8, 16, 32, 64, 128, 256), far=256)
ON_GPU = StepSizes(
    rows=(*ON_CPU.rows, 32, 64, 128),
    pieces=(*ON_CPU.pieces, 384, 512, 768, 1024),
    far=2048,
    padded=(*USUAL_SINGLES, 384, 512),  # from 256 rows on products are made of tiles of 128
)


@dataclass(frozen=True, kw_only=True)
class CalibrationPiece:
    """A segment of a step to time."""

    submodel: Submodel
    neurons: int
    """Of the submodel; so are the planes."""
    planes: int
    tokens: int
    before: int = 0
    """Tokens of the sequence before the segment's."""
    logits: bool = False

    @property
    def group(self) -> Group:
        attended = self.tokens * self.before + self.tokens * (self.tokens + 1) // 2
        return Group(self.neurons, self.tokens, attended, int(self.logits), self.planes)

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
    """Measure for about `seconds`, up to twice as long where two runs of each step take longer. Writes to blocks.

    seconds: where there is one precision; see FURTHER.
    """
    seconds *= 1 + FURTHER * (len(runtime.precisions) - 1)
    sizes = ON_CPU if runtime.device.type == "cpu" else ON_GPU
    possible = list(_steps_of(runtime.config, runtime.n_blocks, runtime.precisions, sizes))
    if not possible:
        raise LtsRayError(f"a KV cache of {runtime.n_blocks} blocks is too small to measure a step in")
    with torch.inference_mode():
        steps = _measure(possible, runtime, seconds=seconds, clock=clock)
    costs = fit_step_costs([(step.groups, step.took_ms) for step in steps if step.fitted], padded=sizes.padded)
    held_out = [step for step in steps if not step.fitted] or steps
    errors = [abs(costs.step_ms(step.groups) / step.took_ms - 1) for step in held_out if step.took_ms > 0]
    return replace(costs, relative_error=round(median(errors), 4) if errors else 0.0)


def _steps_of(
    config: DecoderConfig, n_blocks: int, precisions: Sequence[str], sizes: StepSizes
) -> Iterator[CalibrationStep]:
    """Those that the model and the cache have room for. Pieces of prompts come first, from short to long."""
    trained = list(config.trained.values())
    at = {
        precision: [config.check(replace(trained[place], precision=precision)) for place in (0, len(trained) // 2, -1)]
        for precision in precisions
    }
    narrow, middle, full = at[precisions[0]]
    further = [at[precision] for precision in precisions[1:]]
    far = min(sizes.far, config.context_length - 1)

    def piece(submodel: Submodel, tokens: int, before: int, *, logits: bool) -> CalibrationPiece:
        neurons = config.equivalent_neurons(submodel)
        planes = READS[config.precision_of(submodel)]
        return CalibrationPiece(
            submodel=submodel, neurons=neurons, planes=planes, tokens=tokens, before=before, logits=logits
        )

    def decoding(submodel: Submodel, rows: int = 1, before: int = NEAR) -> list[CalibrationPiece]:
        return [piece(submodel, 1, before, logits=True)] * rows

    def prompt(submodel: Submodel, tokens: int, before: int = 0, *, logits: bool = False) -> list[CalibrationPiece]:
        return [piece(submodel, tokens, before, logits=logits)]

    fitted = []
    for tokens in sizes.pieces:
        fitted += [prompt(submodel, tokens) for submodel in (narrow, full)]
        if tokens < sizes.pieces[-1]:
            fitted += [prompt(submodel, tokens) for small, _, wide in further for submodel in (small, wide)]
    fitted += [prompt(narrow, tokens, far - tokens) for tokens in (16, 64, 512) if tokens < far]
    fitted += [decoding(submodel, rows) for rows in sizes.rows for submodel in (narrow, middle, full)]
    fitted += [decoding(narrow, 2, far), decoding(full, 4, far), decoding(narrow, 8, far)]
    # What few rows look at may cost nothing on a GPU, where the kernel's launch takes longer.
    fitted += [decoding(submodel, rows, far // 2) for rows in sizes.rows if rows > 16 for submodel in (narrow, full)]
    fitted.append(decoding(narrow, 2 * sizes.rows[-1]))
    held_out = [
        decoding(full) + decoding(narrow),
        decoding(full) + decoding(middle) + decoding(narrow, 2, far // 2),
        decoding(full, 2) + decoding(middle, 2) + decoding(narrow, 4),
        decoding(full, 3, far // 2),
        decoding(narrow, 6, far // 2),
        decoding(middle, 3 * sizes.rows[-1] // 4),
        prompt(middle, 24, logits=True),
        decoding(narrow, 4) + prompt(full, 20),
        decoding(full, 7, far // 2) + prompt(narrow, 24, logits=True),
        prompt(narrow, 20, logits=True) + prompt(full, 12, logits=True),
    ]
    for small, between, wide in further:
        fitted += [decoding(wide, rows) for rows in sizes.rows] + [decoding(small, rows) for rows in (1, 4, 32)]
        held_out += [decoding(wide, 3, far // 2), prompt(between, 24, logits=True)]
    for (one, _, one_wide), (other, _, other_wide) in combinations(at.values(), 2):
        fitted += [decoding(one_wide) + decoding(other_wide), decoding(one_wide, 2) + decoding(other, 6)]
        held_out += [decoding(one) + decoding(other_wide, 3), decoding(other, 4) + prompt(one_wide, 20)]
    for pieces, is_fitted in [(pieces, True) for pieces in fitted] + [(pieces, False) for pieces in held_out]:
        step = CalibrationStep(pieces=tuple(pieces), fitted=is_fitted)
        if all(piece.before + piece.tokens <= config.context_length for piece in pieces) and step.blocks <= n_blocks:
            yield step


def _measure(
    steps: Sequence[CalibrationStep], runtime: Runtime, *, seconds: float, clock: Clock
) -> list[CalibrationStep]:
    """Those that are not too dear, with their times: a round that only warms up, then rounds until time is over."""
    pool = max(step.blocks for step in steps)
    dealt = count()
    vocab_size = runtime.config.vocab_size
    wait = waiter(runtime.device)

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
        run_as_served(runtime, segments)
        wait()
        return (clock() - begin) * 1e3

    started = clock()
    # A token in every block: memory that nothing has written may be read for nothing.
    token = replace(steps[0].pieces[0], tokens=1, before=0, logits=True)
    for begin in range(0, pool, ESSENTIAL_ROWS):
        run([token] * min(ESSENTIAL_ROWS, pool - begin))
    if runtime.device.type != "cpu":  # what compiling takes, and capturing graphs, is no step's time
        for step in steps:
            run(step.pieces)
        started = clock()
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
