"""What drafting and verifying cost: single forwards, timed through the same code that decoding runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lts_ray.decoding.draft_length import Adaptive, DraftCosts
from lts_ray.decoding.drafter import Draft, Drafter, check_draft
from lts_ray.decoding.plain_loop import check_length
from lts_ray.decoding.sampling import GREEDY, Sampling
from lts_ray.decoding.verifier import Verifier
from lts_ray.errors import LtsRayError
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock

LONGEST = 6
"""The longest draft that an adaptive length may choose, unless told otherwise."""
PROMPT = 64
"""Tokens of the prompt that a response's own measurement reads: a long one is not read twice before the first token."""


def adaptive_length(
    model: UniversalModel,
    prompt_ids: Sequence[int],
    *,
    draft: Submodel,
    submodel: Submodel,
    max_tokens: int,
    draft_model: UniversalModel | None = None,
    sampling: Sampling = GREEDY,
    repeats: int = 3,
    clock: Clock = time.perf_counter,
) -> Adaptive:
    """The rule for one response, by costs measured here and now, in the time of about 40 of the verifier's steps.

    Takes what `speculate` takes, and raises LtsRayError where that would.
    """
    check_length(len(prompt_ids), max_tokens, model.config.context_length)
    (costs,) = measure_draft_costs(
        model,
        prompt_ids[:PROMPT],
        drafts=[draft],
        submodel=submodel,
        longest=min(LONGEST, max(0, max_tokens - 2)),  # the prompt gives a token, and so does the verifier
        draft_model=draft_model,
        sampling=sampling,
        repeats=repeats,
        clock=clock,
    )
    return Adaptive(costs=costs)


def measure_draft_costs(
    model: UniversalModel,
    prompt_ids: Sequence[int],
    *,
    drafts: Sequence[Submodel],
    submodel: Submodel,
    longest: int,
    draft_model: UniversalModel | None = None,
    draft_vocabulary: Tensor | None = None,
    sampling: Sampling = GREEDY,
    repeats: int = 15,
    clock: Clock = time.perf_counter,
) -> list[DraftCosts]:
    """Of each drafter with one verifier, in seconds, behind this prompt: the least of `repeats` turns, after one more.

    The least, since whatever else the machine does only adds, and a draft is not to be judged by it.

    longest: the longest draft to verify. Raises LtsRayError where it does not fit the context behind the prompt, and
    for a drafter wider than the verifier.
    """
    for draft in drafts:
        check_draft(model.config.check(draft), model.config.check(submodel))
    sequence = list(prompt_ids)
    length = len(sequence) + longest
    if length > model.config.context_length:
        raise LtsRayError(
            f"{len(sequence)} prompt tokens and drafts of {longest} do not fit the context of "
            f"{model.config.context_length} tokens"
        )
    cache = model.empty_cache(length=length)
    generator = torch.Generator().manual_seed(0)
    verifier = Verifier(model=model, submodel=submodel, cache=cache, sampling=sampling, generator=generator)
    drafters = [
        Drafter(
            draft_model or model,
            draft,
            cache,
            vocabulary=draft_vocabulary,
            sampling=sampling,
            eos_ids=(),
            generator=generator,
        )
        for draft in drafts
    ]
    with torch.inference_mode():
        model(torch.tensor([sequence], device=cache.keys.device), submodel=submodel, cache=cache, last_only=True)
        cache.truncate(0, len(sequence) - 1)
        given = drafters[0].draft(sequence, longest)
        parts = [
            Draft(tokens=given.tokens[:count], probabilities=given.probabilities[:count])
            for count in range(longest + 1)
        ]
        steps: list[Callable[[], object]] = [
            *(partial(drafter.draft, sequence, 1) for drafter in drafters),
            *(partial(verifier.judge, sequence, part) for part in parts),
        ]
        times: list[list[float]] = [[] for _ in steps]
        for _ in range(1 + repeats):
            for step, seconds in zip(steps, times, strict=True):
                cache.truncate(0, len(sequence) - 1)
                begin = clock()
                step()
                seconds.append(clock() - begin)
    least = [min(seconds[1:]) for seconds in times]
    verify = tuple(least[len(drafters) :])
    return [DraftCosts(draft=seconds, verify=verify) for seconds in least[: len(drafters)]]
