"""What drafting and verifying cost: single forwards, timed through the same code that decoding runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from lts_ray.architecture import Submodel
from lts_ray.decoding.draft_length import Costs
from lts_ray.decoding.drafter import Draft, Drafter
from lts_ray.decoding.kv_cache import KVCache
from lts_ray.decoding.sampling import GREEDY, Sampling
from lts_ray.decoding.verifier import Verifier
from lts_ray.errors import LtsRayError
from lts_ray.measurement.timing import Clock
from lts_ray.models.matformer import MatFormer


def measure_costs(
    model: MatFormer,
    prompt_ids: Sequence[int],
    *,
    drafts: Sequence[Submodel],
    submodel: Submodel,
    longest: int,
    draft_vocabulary: Tensor | None = None,
    sampling: Sampling = GREEDY,
    repeats: int = 15,
    clock: Clock = time.perf_counter,
) -> list[Costs]:
    """Of each drafter with one verifier, in seconds: medians of `repeats` turns behind this prompt, after one unheard.

    longest: the longest draft to verify. Raises LtsRayError where it does not fit the context behind the prompt.
    """
    sequence, weight = list(prompt_ids), model.embed_tokens.weight
    length = len(sequence) + longest
    if length > model.config.context_length:
        raise LtsRayError(
            f"{len(sequence)} prompt tokens and drafts of {longest} do not fit the context of "
            f"{model.config.context_length} tokens"
        )
    cache = KVCache.empty(model.config, rows=1, length=length, dtype=weight.dtype, device=weight.device)
    generator = torch.Generator().manual_seed(0)
    verifier = Verifier(model=model, submodel=submodel, cache=cache, sampling=sampling, generator=generator)
    drafters = [
        Drafter(
            model,
            each,
            cache,
            vocabulary=draft_vocabulary,
            sampling=sampling,
            eos_id=None,
            generator=generator,
        )
        for each in drafts
    ]
    with torch.inference_mode():
        model(torch.tensor([sequence], device=weight.device), submodel=submodel, cache=cache, last_only=True)
        cache.truncate(0, len(sequence) - 1)
        given = drafters[0].draft(sequence, longest)
        parts = [
            Draft(tokens=given.tokens[:count], probabilities=given.probabilities[:count])
            for count in range(longest + 1)
        ]
        steps: list[Callable[[], object]] = [
            *(partial(each.draft, sequence, 1) for each in drafters),
            *(partial(verifier.judge, sequence, part) for part in parts),
        ]
        times: list[list[float]] = [[] for _ in steps]
        for _ in range(1 + repeats):
            for step, found in zip(steps, times, strict=True):
                cache.truncate(0, len(sequence) - 1)
                begin = clock()
                step()
                found.append(clock() - begin)
    medians = [median(found[1:]) for found in times]
    verify = tuple(medians[len(drafters) :])
    return [Costs(draft=each, verify=verify) for each in medians[: len(drafters)]]
