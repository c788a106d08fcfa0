"""A model folder in this process: loaded once, when first needed, and a fresh engine for each use.

With it how much that engine takes at once, and how long the requests of a load are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from lts_ray.checkpoints.universal import load_universal, read_universal, universal_fingerprint
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import evaluate
from lts_ray.frontier import read_frontier
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.record import record
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.blocks import blocks_for_batch
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Observer
from serve.policies.capacity import Capacity, Count
from serve.policies.menu import Menu, menu_of_frontier, menu_of_granularities
from serve.policies.policy import Policy
from serve.simulate.saturation import saturation_rate
from serve.simulate.simulate import SimulatedReplica
from serve.traffic.budget_classes import Need

LOSS_BLOCKS = 16
"""Sequences that losses are measured on where no file tells them."""


@record(what="capacity")
class LoadCapacity(Capacity):
    context_length: Count
    """Of the load's requests, which may be less than the model's."""

    @property
    def n_blocks(self) -> int:
        """Of the KV cache: enough for a batch of the longest requests."""
        return blocks_for_batch(self.slots, self.context_length)


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def _measured_losses(folder: Path, config: DecoderConfig, precisions: Sequence[str]) -> dict[str, float]:
    """By the names of a menu: one at the stored precision has none."""
    names = {
        name if precision == STORED else f"{name}@{precision}": f"{name}@{precision}"
        for precision in dict.fromkeys((STORED, *precisions))
        for name in config.trained
    }
    found = evaluate(folder, list(names.values()), text=None, blocks=LOSS_BLOCKS)
    return {name: quality.loss for name, quality in zip(names, found, strict=True)}


class LocalModel:
    """`menu` is what the endpoint would offer of the folder; `capacity` has the model's context, if that is less.

    `widths` is the menu of the stored precision alone: what loads and budgets go by, whatever else is offered.
    """

    def __init__(
        self,
        folder: Path,
        *,
        capacity: LoadCapacity,
        threads: int | None,
        frontier: Path | None = None,
        target: str | None = None,
        precisions: Sequence[str] = (STORED,),
    ) -> None:
        """Loads no weights, but to measure losses at `precisions` that no frontier tells.

        threads: None: all cores but one, which the client and the event loop need.
        Raises LtsRayError for files that do not fit.
        """
        self.config, validation_loss = read_universal(folder)
        if frontier is not None:
            points = read_frontier(frontier)
            points.check_model(universal_fingerprint(folder), self.config.check)
            self.menu, self.widths = (
                menu_of_frontier(self.config, points, target, precisions=each) for each in (precisions, (STORED,))
            )
        elif target is not None:
            raise LtsRayError(f"--target {target} needs --frontier: the frontier says what a target is")
        else:
            known = tuple(precisions) == (STORED,)
            losses = validation_loss if known else _measured_losses(folder, self.config, precisions)
            self.menu, self.widths = (
                menu_of_granularities(self.config, losses, precisions=each) for each in (precisions, (STORED,))
            )
        self.capacity = replace(capacity, context_length=min(capacity.context_length, self.config.context_length))
        self.threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self.folder, self.precisions = folder, precisions

    @cached_property
    def fingerprint(self) -> str:
        return universal_fingerprint(self.folder)

    @cached_property
    def runtime(self) -> Runtime:
        """For one engine at a time."""
        checkpoint = load_universal(self.folder)
        return build_runtime(
            checkpoint.model,
            n_blocks=self.capacity.n_blocks,
            threads=self.threads,
            precisions=tuple(dict.fromkeys((STORED, *self.precisions))),
            quantised=checkpoint.quantised,
        )

    def calibrate(self, seconds: float) -> StepCosts:
        """Measures for about so long. For when no engine runs: it writes over what blocks hold."""
        return measure_step_costs(self.runtime, seconds=seconds)

    def need(self, costs: StepCosts) -> Need:
        """What budgets are multiples of."""
        return Need(costs=costs, option=self.widths.universal, chunk_tokens=self.capacity.chunk_tokens)

    def saturation(self, costs: StepCosts, *, lengths: NDArray[np.int64] | None = None) -> float:
        """Requests per second at load 1. lengths: as `saturation_rate` has them."""
        capacity = self.capacity
        context = capacity.context_length
        return saturation_rate(self.widths, costs, capacity=capacity, context_length=context, lengths=lengths)

    def replica(self, costs: StepCosts) -> SimulatedReplica:
        """The same engine for the simulator."""
        return SimulatedReplica(menu=self.menu, costs=costs, capacity=self.capacity, n_blocks=self.capacity.n_blocks)

    def engine(
        self,
        *,
        costs: StepCosts | LearnedTimes,
        policy: Policy,
        menu: Menu | None = None,
        observer: Observer | None = None,
    ) -> Engine:
        """Not started. costs: with those alone its clock starts at 0, which an oracle goes by. menu: another one than
        the model's.
        """
        origin_s = monotonic()
        return Engine(
            self.runtime,
            menu=self.menu if menu is None else menu,
            times=LearnedTimes(costs, clock=lambda: monotonic() - origin_s) if isinstance(costs, StepCosts) else costs,
            policy=policy,
            eos_ids=frozenset(),
            capacity=self.capacity,
            observers=() if observer is None else (observer,),
        )
