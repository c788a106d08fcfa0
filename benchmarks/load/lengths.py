"""How long prompts and responses are: a mixture of kinds of request, each lognormal around its medians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lts_ray.errors import LtsRayError

MIN_CONTEXT = 8


@dataclass(frozen=True, kw_only=True)
class Kind:
    """share: of all requests. spread: of both lengths' logarithms; 0.5 puts two thirds within a factor of 1.6."""

    name: str
    share: float
    prompt_tokens: int
    output_tokens: int
    spread: float = 0.5


MIXTURE = (
    Kind(name="chat", share=0.6, prompt_tokens=32, output_tokens=48),
    Kind(name="document", share=0.2, prompt_tokens=224, output_tokens=32),
    Kind(name="code", share=0.2, prompt_tokens=96, output_tokens=80),
)
"""Short enough for two cores and a context of 512; most of the time goes to decoding, as with larger models."""


def draw_lengths(
    count: int, rng: np.random.Generator, *, context_length: int, mixture: Sequence[Kind] = MIXTURE
) -> NDArray[np.int64]:
    """Prompt and response of each request, [count, 2]. Together they fit the context.

    A prompt takes three quarters of the context at most; a response has two tokens at least, so that it has a TPOT.
    """
    if context_length < MIN_CONTEXT:
        raise LtsRayError(f"a load needs a context of at least {MIN_CONTEXT} tokens; got {context_length}")
    uniform = rng.uniform(size=(count, 3))  # row by row: the n-th request is the same whatever the count
    below = np.cumsum([kind.share for kind in mixture])
    kinds = np.searchsorted(below[:-1] / below[-1], uniform[:, 0], side="right")
    medians = np.array([(kind.prompt_tokens, kind.output_tokens) for kind in mixture])[kinds]
    spreads = np.array([kind.spread for kind in mixture])[kinds, None]
    drawn = np.rint(medians * np.exp(spreads * ndtri(uniform[:, 1:]))).astype(np.int64)
    prompt = np.clip(drawn[:, 0], 1, context_length * 3 // 4)
    output = np.clip(drawn[:, 1], 2, context_length - prompt)
    return np.stack([prompt, output], axis=1)


def chunks_of(tokens: int, chunk_tokens: int) -> list[tuple[int, int]]:
    """Where a prompt's pieces begin and end, if it is alone."""
    return list(pairwise([*range(0, tokens, chunk_tokens), tokens]))
