"""What one training step of the universal model costs, beside the steps of plain models of each granularity's size.

Regimes: the joint step as one mixed-width pass and as a pass for each granularity, a step of one sampled granularity,
and the steps of four plain models; forward, backward, clipping and AdamW, on the same batch. They take turns, round by
round, so that whatever else the machine does meanwhile falls on all of them alike. A step on a GPU lasts until the GPU
is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.independent import member_config
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.timing import Clock, torch_threads
from lts_ray.training.flops import objective_flops
from lts_ray.training.learners.learner import Learner
from lts_ray.training.learners.universal_learner import UniversalLearner
from lts_ray.training.loop import chosen, make_optimizer, optimize, when_done
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

Progress = Callable[[int, int], None]
MIXED, SEPARATE, SAMPLED, BASELINE = "joint, one mixed pass", "joint, separate passes", "sampled", "plain"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of those that take turns. flops: of a step."""

    name: str
    learner: Learner
    optimizer: torch.optim.AdamW
    options: TrainingSettings
    flops: float


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """times_ms: by contender, round by round. sampled: how likely each of `sampled`'s granularities is."""

    config: MatFormerConfig
    options: TrainingSettings
    precision: str
    threads: int
    times_ms: Mapping[str, tuple[float, ...]]
    flops: Mapping[str, float]
    sampled: Mapping[str, float]

    def median_ms(self, name: str) -> float:
        return median(self.times_ms[name])

    @property
    def sampled_ms(self) -> float:
        """The mean step of the sampled objective."""
        return sum(chance * self.median_ms(f"{SAMPLED} {name}") for name, chance in self.sampled.items())

    def ratio(self, name: str) -> tuple[float, float, float]:
        """The step's time over the plain models' together: first quartile, median and third quartile of the rounds."""
        together = [sum(each) for each in zip(*(self.times_ms[other] for other in self.plain), strict=True)]
        ratios = [mine / all_ms for mine, all_ms in zip(self.times_ms[name], together, strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        return low, middle, high

    @property
    def joint(self) -> list[str]:
        return [MIXED, SEPARATE]

    @property
    def plain(self) -> list[str]:
        return [f"{BASELINE} {name}" for name in self.config.trained]

    def to_json(self) -> dict[str, Any]:
        ratios = {"mixed": self.ratio(MIXED), "separate": self.ratio(SEPARATE)}
        return {
            "vocab_size": self.config.vocab_size,
            "d_model": self.config.d_model,
            "n_head": self.config.n_head,
            "n_kv_head": self.config.n_kv_head,
            "widths": list(self.config.widths),
            "batch_size": self.options.batch_size,
            "sequence_length": self.options.sequence_length,
            "device": self.options.device,
            "precision": self.precision,
            "threads": self.threads,
            "seed": self.options.seed,
            "rounds": len(self.times_ms[MIXED]),
            "median_ms": {name: round(self.median_ms(name), 3) for name in self.times_ms},
            "flops": dict(self.flops),
            "plain_together_ms": round(sum(self.median_ms(name) for name in self.plain), 3),
            "sampled_mean_ms": round(self.sampled_ms, 3),
            "ratio_to_plain": {name: round(each[1], 4) for name, each in ratios.items()},
            "ratio_quartiles": {name: [round(each[0], 4), round(each[2], 4)] for name, each in ratios.items()},
            "torch": torch.__version__,
        }


def run(
    model: ModelSettings,
    options: TrainingSettings,
    *,
    rounds: int = 15,
    threads: int = 1,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> StepTimes:
    """options: batch, device, precision, seed and probabilities.

    Raises LtsRayError for fewer than two rounds, and for a GPU where there is none.
    """
    if rounds < 2:
        raise LtsRayError(f"training steps are compared over at least 2 rounds; got {rounds}")
    config = model.config(model.vocab_size)
    options = chosen(options)
    device = torch.device(options.device)
    entries = contenders(config, options, device)
    generator = torch.Generator().manual_seed(options.seed)
    shape = (options.batch_size, options.sequence_length + 1)
    times: dict[str, list[float]] = {each.name: [] for each in entries}
    with torch_threads(threads):
        for turn in range(warmup + rounds):
            blocks = torch.randint(config.vocab_size, shape, generator=generator).to(device)
            for each in entries:
                started = when_done(device, clock)
                optimize(each.learner, each.optimizer, blocks, turn, each.options, options.precision)
                took_s = when_done(device, clock) - started
                if turn >= warmup:
                    times[each.name].append(1000 * took_s)
            progress(turn + 1, warmup + rounds)
    return StepTimes(
        config=config,
        options=options,
        precision=options.precision,
        threads=threads,
        times_ms={name: tuple(values) for name, values in times.items()},
        flops={each.name: each.flops for each in entries},
        sampled=options.objective_of(config.granularities).probabilities,
    )


def contenders(config: MatFormerConfig, options: TrainingSettings, device: torch.device) -> list[Contender]:
    """All those compared, each with a fresh model from the same seed."""
    joint = replace(options, objective="joint")
    entries = [
        _contender(MIXED, config, replace(joint, passes="mixed"), device),
        _contender(SEPARATE, config, replace(joint, passes="separate"), device),
    ]
    for name in config.trained:
        always = replace(options, objective="sampled", probabilities={name: 1.0})
        entries.append(_contender(f"{SAMPLED} {name}", config, always, device))
    plain = replace(joint, weights="equal", probabilities="uniform")
    entries += [_contender(f"{BASELINE} {name}", member_config(config, name), plain, device) for name in config.trained]
    return entries


def _contender(name: str, config: MatFormerConfig, options: TrainingSettings, device: torch.device) -> Contender:
    model = MatFormer(config)
    model.initialize(torch.Generator().manual_seed(options.seed))
    model.to(device)
    objective = options.objective_of(config.granularities)
    tokens = options.batch_size * options.sequence_length
    return Contender(
        name=name,
        learner=UniversalLearner(model=model.train(), objective=objective, passes=options.passes),
        optimizer=make_optimizer(model, options),
        options=options,
        flops=objective_flops(config, objective, tokens, options.sequence_length),
    )
