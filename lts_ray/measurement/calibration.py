"""Fits a target's step-cost model to a small grid of measured steps, in a few seconds and without Ray.

The grid is run in rounds, every step once a round, for two reasons: a slow moment of the machine then spoils one run
of each step and not all runs of one, and weights are read as serving reads them, not from a cache that the same step
has just filled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from lts_ray.measurement.cost_model import DecodeSample, PrefillSample, StepCostModel, fit
from lts_ray.measurement.steps import decode_step, prefill_step
from lts_ray.measurement.subjects.subject import SubmodelSubject
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel
from lts_ray.timing import Step, timed, torch_threads, waiter

LONGEST = 512
"""Tokens of the longest measured prefill and context: longer ones are extrapolated, not waited for."""
MAX_ROUNDS = 40


@dataclass(kw_only=True)
class Cell:
    """One step of the grid and what it took so far. essential: without it the model's terms cannot be told apart."""

    neurons: tuple[int, ...]
    tokens: int
    step: Step
    essential: bool = False
    times_ms: list[float] = field(default_factory=list)


def calibrate(model: UniversalModel, *, threads: int | None, seconds: float) -> StepCostModel:
    """Measure for about `seconds` with `threads` torch threads (None: as they are) and fit. Restores the threads.

    A large model may take longer than `seconds`: each essential step of the grid is run at least twice.
    """
    with torch_threads(threads), torch.inference_mode():
        longest = max(1, min(LONGEST, model.config.context_length) - 1)
        cache = SubmodelSubject(model, model.config.universal).empty_cache(rows=8, length=longest + 1)
        cache.keys.normal_()
        cache.values.normal_()
        prefills, decodes = prefill_cells(model, cache, longest), decode_cells(model, cache, longest)
        run_rounds([*prefills, *decodes], wait=waiter(model.weight.device), seconds=seconds)
    return fit(
        [
            PrefillSample(tokens=cell.tokens, neurons=cell.neurons[0], latency_ms=median(cell.times_ms))
            for cell in prefills
            if cell.times_ms
        ],
        [
            DecodeSample(neurons=cell.neurons, context_tokens=cell.tokens, latency_ms=median(cell.times_ms))
            for cell in decodes
            if cell.times_ms
        ],
    )


def prefill_cells(model: UniversalModel, cache: KVCache, longest: int) -> list[Cell]:
    """Prefills of several lengths at the narrowest, a middle and the full width."""
    narrow, middle, full = three_submodels(model)
    lengths = sorted({min(tokens, longest) for tokens in (8, 32, 96, 192, 384)})
    return [
        Cell(
            neurons=(model.config.neurons(submodel),),
            tokens=tokens,
            step=prefill_step(SubmodelSubject(model, submodel), rows=1, tokens=tokens, cache=cache.rows(0, 1)),
            essential=tokens <= 96 and submodel is not middle,
        )
        for tokens in lengths
        for submodel in (narrow, middle, full)
    ]


def decode_cells(model: UniversalModel, cache: KVCache, longest: int) -> list[Cell]:
    """Decode steps of several numbers of rows and contexts, of one width and of mixed ones."""
    narrow, middle, full = three_submodels(model)
    contexts = sorted({min(tokens, longest) for tokens in (16, 256)})
    batches = [[submodel] * rows for rows in (1, 2, 4, 8) for submodel in (narrow, middle, full)]
    batches += [[full, narrow], [full, middle, narrow, narrow], [full] * 2 + [middle] * 2 + [narrow] * 4]
    return [
        Cell(
            neurons=tuple(model.config.neurons(submodel) for submodel in batch),
            tokens=context * len(batch),
            step=decode_step(
                SubmodelSubject(model, batch), rows=len(batch), context=context, cache=cache.rows(0, len(batch))
            ),
            essential=len(batch) in (1, 4) and middle not in batch,
        )
        for batch in batches
        for context in contexts
    ]


def three_submodels(model: UniversalModel) -> tuple[Submodel, Submodel, Submodel]:
    trained = list(model.config.trained.values())
    return trained[0], trained[len(trained) // 2], trained[-1]


def run_rounds(cells: Sequence[Cell], *, wait: Step, seconds: float) -> None:
    """Fill in the cells' times: a warm-up, then rounds until `seconds` are over."""
    started = time.perf_counter()
    kept: list[Cell] = []
    for cell in sorted(cells, key=lambda cell: not cell.essential):
        if cell.essential or time.perf_counter() - started < seconds / 4:
            timed(cell.step, wait=wait)  # warm-up: first touches of memory, the kernels' choice
            kept.append(cell)
    for number in range(MAX_ROUNDS):
        if number >= 2 and time.perf_counter() - started > seconds:
            return
        for cell in kept:
            cell.times_ms.append(timed(cell.step, wait=wait))
