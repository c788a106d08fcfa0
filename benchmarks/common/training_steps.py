"""What a training step takes: forward, backward, clipping and AdamW, of runs that take turns on the same batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import quantiles

import torch

from benchmarks.common.turns import Progress, timed_turns
from lts_ray.device import free_bytes
from lts_ray.errors import LtsRayError
from lts_ray.timing import Clock, torch_threads, waiter
from lts_ray.training.learners.universal_learner import UniversalLearner
from lts_ray.training.loop import chosen, make_optimizer, optimize
from lts_ray.training.new_learner import new_learner
from lts_ray.training.run_memory import sequences_a_pass
from lts_ray.training.run_settings import RunSettings

Quartiles = tuple[float, float, float]


def time_training_steps(
    runs: Mapping[str, RunSettings],
    *,
    vocab_size: int,
    rounds: int,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> dict[str, tuple[float, ...]]:
    """Milliseconds of a step of each run, round by round, on random tokens.

    A step on a GPU lasts until the GPU is done. The runs have the first one's batch, device, precision, seed and
    threads. Raises LtsRayError for fewer than two rounds, and for a GPU where there is none.
    """
    if rounds < 2:
        raise LtsRayError(f"training steps are compared over at least 2 rounds; got {rounds}")
    options = chosen(next(iter(runs.values())).training)
    device = torch.device(options.device)
    shape = (warmup + rounds, options.batch_size, options.sequence_length + 1)
    batches = torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(options.seed)).to(device)
    wait = waiter(device)

    runs = {name: replace(run, training=chosen(run.training)) for name, run in runs.items()}
    learners = {name: new_learner(run, vocab_size=vocab_size, device=device) for name, run in runs.items()}
    parameters = sum(each.numel() for learner in learners.values() for each in learner.model.parameters())

    def steps_of(name: str) -> Callable[[int], None]:
        learner = learners[name]
        if isinstance(learner, UniversalLearner):  # beside the others it has less room than alone
            free, config = free_bytes(device), learner.model.config
            size = sequences_a_pass(runs[name].training, config, free, parameters=parameters)
            learner = replace(learner, sequences=size)
        optimizer = make_optimizer(learner.model, options)

        def step(number: int) -> None:
            """number: the round's, which is negative while the steps warm up."""
            place = warmup + number
            optimize(learner, optimizer, batches[place], place, options, options.precision)
            wait()

        return step

    steps = {name: steps_of(name) for name in runs}
    with torch_threads(options.threads):
        return timed_turns(steps, rounds=rounds, warmup=warmup, clock=clock, progress=progress)


def quartiles_of_ratio(mine: Sequence[float], others: Sequence[float]) -> Quartiles:
    """Of one over the other, round by round: first quartile, median and third quartile."""
    ratios = [one / other for one, other in zip(mine, others, strict=True)]
    low, middle, high = (round(value, 4) for value in quantiles(ratios, n=4, method="inclusive"))
    return low, middle, high
