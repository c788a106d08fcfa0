"""One way to decode, and what its responses took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Prompts = Sequence[Sequence[int]]
Decode = Callable[[Prompts, int], list[list[int]]]
"""Of prompts and a number of tokens to exactly so many tokens for each, whatever ends a text."""
RUNTIME, ENGINE = "lts-ray runtime", "lts-ray engine"
TRANSFORMERS, CONTINUOUS, CTRANSLATE2 = "transformers generate", "transformers continuous batching", "CTranslate2"


@dataclass(frozen=True, order=True)
class Way:
    engine: str
    """Which library decodes, by the name that results use."""
    submodel: str


@dataclass(frozen=True, kw_only=True)
class DecodeWork:
    """What is asked of each way to decode."""

    submodels: Sequence[str]
    batches: Sequence[int]
    """Sequences at once."""
    prompt_tokens: int
    new_tokens: int
    threads: int

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.new_tokens
