"""The two kinds of step that serving runs, as closures that can be timed or profiled: a prefill and one decode step.

Both work on a KV cache as serving does, with random tokens: all-zero ones would touch one row of the embedding only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lts_ray.architecture import Submodel
from lts_ray.decoding.kv_cache import KVCache
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer import MatFormer

Step = Callable[[], None]


def empty_cache(model: MatFormer, *, rows: int, length: int) -> KVCache:
    weight = model.embed_tokens.weight
    return KVCache.empty(model.config, rows=rows, length=length, dtype=weight.dtype, device=weight.device)


def check_length(model: MatFormer, sequence_length: int) -> None:
    limit = model.config.context_length
    if sequence_length > limit:
        raise LtsRayError(f"sequence_length {sequence_length} is longer than the model's context of {limit} tokens")


def decode_context(model: MatFormer, sequence_length: int) -> int:
    """Tokens a row holds before the measured decode step: the step's own token must still fit the context."""
    return min(sequence_length, model.config.context_length - 1)


def prefill_step(model: MatFormer, submodel: Submodel, *, rows: int, tokens: int, cache: KVCache | None = None) -> Step:
    """A step that fills an empty cache with `tokens` tokens of each of `rows` rows."""
    cache = empty_cache(model, rows=rows, length=tokens) if cache is None else cache.rows(0, rows)
    inputs = random_tokens(model, rows, tokens)

    def run() -> None:
        cache.lengths.zero_()
        model(inputs, submodel=submodel, cache=cache, last_only=True)

    return run


def decode_step(model: MatFormer, submodels: Sequence[Submodel], *, context: int, cache: KVCache | None = None) -> Step:
    """A step of one token for each submodel's row; every row holds `context` tokens before it."""
    rows = len(submodels)
    cache = empty_cache(model, rows=rows, length=context + 1) if cache is None else cache.rows(0, rows)
    inputs = random_tokens(model, rows, 1)
    chosen = submodels[0] if len(set(submodels)) == 1 else submodels

    def run() -> None:
        cache.lengths.fill_(context)
        model(inputs, submodel=chosen, cache=cache, last_only=True)

    return run


def random_tokens(model: MatFormer, rows: int, length: int) -> torch.Tensor:
    """[rows, length], the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    return tokens.to(model.embed_tokens.weight.device)
