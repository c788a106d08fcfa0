"""What a training step of fused architectures takes beside the steps of each of them alone.

Forward, backward, clipping and AdamW, on the same batch. They take turns, round by round, so that whatever else the
machine does meanwhile falls on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median, quantiles

import torch

from benchmarks.supernet_plan import JOINT, SAMPLED, SupernetPlan
from lts_ray.errors import LtsRayError
from lts_ray.timing import Clock, torch_threads
from lts_ray.training.loop import chosen, make_optimizer, optimize, when_done
from lts_ray.training.new_learner import new_learner
from lts_ray.training.run_settings import RunSettings

Progress = Callable[[int, int], None]
APART = "apart"
KINDS = (JOINT, SAMPLED, APART)


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Milliseconds, round by round: of a joint step; by member of a step that trains it fused, and of one alone."""

    joint: tuple[float, ...]
    sampled: Mapping[str, tuple[float, ...]]
    alone: Mapping[str, tuple[float, ...]]
    precision: str
    threads: int

    def rounds_ms(self, kind: str) -> list[float]:
        """One step for all members: joint, drawn (the mean of the draws), or apart (the sum of each alone)."""
        if kind == JOINT:
            return list(self.joint)
        together, of = (self.sampled, fmean) if kind == SAMPLED else (self.alone, sum)
        return [float(of(each)) for each in zip(*together.values(), strict=True)]

    def median_ms(self, kind: str) -> float:
        return median(self.rounds_ms(kind))

    def ratio(self, kind: str) -> tuple[float, float, float]:
        """Over the steps apart, round by round: first quartile, median and third quartile."""
        return _quartiles(self.rounds_ms(kind), self.rounds_ms(APART))

    def ratio_to_largest(self, kind: str) -> tuple[float, float, float]:
        """Over a step of the member that takes longest alone: what the paper expects fused training to take."""
        return _quartiles(self.rounds_ms(kind), list(max(self.alone.values(), key=median)))


def _quartiles(mine: list[float], others: list[float]) -> tuple[float, float, float]:
    low, middle, high = quantiles(
        [one / other for one, other in zip(mine, others, strict=True)], n=4, method="inclusive"
    )
    return low, middle, high


def run(
    plan: SupernetPlan,
    *,
    vocab_size: int,
    rounds: int = 15,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> StepTimes:
    """Steps on random tokens of `vocab_size` words, with the plan's threads. Raises LtsRayError for too few rounds."""
    if rounds < 2:
        raise LtsRayError(f"training steps are compared over at least 2 rounds; got {rounds}")
    options = chosen(plan.training)
    device = torch.device(options.device)
    members = list(plan.architecture.members)
    settings: dict[tuple[str, str], RunSettings] = {(JOINT, ""): plan.fused(JOINT)}
    settings |= {(SAMPLED, name): plan.one(name) for name in members}
    settings |= {(APART, name): plan.alone(name) for name in members}
    learners = {key: new_learner(each, vocab_size=vocab_size, device=device) for key, each in settings.items()}
    optimizers = {key: make_optimizer(learner.model, options) for key, learner in learners.items()}
    generator = torch.Generator().manual_seed(options.seed)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in learners}
    with torch_threads(options.threads) as threads:
        for turn in range(warmup + rounds):
            shape = (options.batch_size, options.sequence_length + 1)
            blocks = torch.randint(vocab_size, shape, generator=generator).to(device)
            for key, learner in learners.items():
                started = when_done(device, clock)
                optimize(learner, optimizers[key], blocks, turn, options, options.precision)
                took_s = when_done(device, clock) - started
                if turn >= warmup:
                    times[key].append(1000 * took_s)
            progress(turn + 1, warmup + rounds)
    return StepTimes(
        joint=tuple(times[JOINT, ""]),
        sampled={name: tuple(times[SAMPLED, name]) for name in members},
        alone={name: tuple(times[APART, name]) for name in members},
        precision=options.precision,
        threads=threads,
    )
