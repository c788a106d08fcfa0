"""The plain loop: one prompt, one submodel, one token at a time. The serving engine must give the same tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from lts_ray.decoding.sampling import GREEDY, Sampling, sample
from lts_ray.errors import LtsRayError
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel


def generate(
    model: UniversalModel,
    prompt_ids: Sequence[int],
    *,
    submodel: Submodel,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    eos_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield at most `max_tokens` tokens; any of `eos_ids` ends the response and is not part of it.

    Raises LtsRayError, before the first token, when prompt and response do not fit the context together.
    """
    check_length(len(prompt_ids), max_tokens, model.config.context_length)
    generator = torch.Generator() if generator is None else generator
    return _generate(model, list(prompt_ids), submodel, max_tokens, sampling, eos_ids, generator)


def check_length(prompt_tokens: int, max_tokens: int, context_length: int) -> None:
    if prompt_tokens < 1:
        raise LtsRayError("the prompt is empty: give at least one token")
    if max_tokens < 1:
        raise LtsRayError(f"max_tokens must be at least 1; got {max_tokens}")
    if prompt_tokens + max_tokens > context_length:
        raise LtsRayError(
            f"{prompt_tokens} prompt tokens and max_tokens {max_tokens} do not fit the model's context of "
            f"{context_length} tokens"
        )


def _generate(
    model: UniversalModel,
    prompt: list[int],
    submodel: Submodel,
    max_tokens: int,
    sampling: Sampling,
    eos_ids: Collection[int],
    generator: torch.Generator,
) -> Iterator[int]:
    cache = model.empty_cache(length=len(prompt) + max_tokens)
    tokens = prompt
    for _ in range(max_tokens):
        with torch.inference_mode():  # around the step only: between yields the mode would leak to the caller
            step = torch.tensor([tokens], device=cache.keys.device)
            logits = model(step, submodel=submodel, cache=cache, last_only=True)
            token = sample(logits[0, -1], sampling, generator)
        if token in eos_ids:
            return
        yield token
        tokens = [token]
