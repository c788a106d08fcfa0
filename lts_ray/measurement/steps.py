"""The two kinds of step that serving runs, as closures that can be timed or profiled: a prefill and one decode step.

Both work on a KV cache as serving does, with random tokens: all-zero ones would touch one row of the embedding only.
"""

from __future__ import annotations

from typing import Literal

import torch

from lts_ray.errors import LtsRayError
from lts_ray.measurement.subjects.subject import Subject
from lts_ray.target import Target
from lts_ray.timing import Step

Regime = Literal["prefill", "decode"]


def check_fits(context_length: int | None, sequence_length: int) -> None:
    """Raises LtsRayError for more tokens than a context holds. context_length: None for one without a limit."""
    if context_length is not None and sequence_length > context_length:
        raise LtsRayError(
            f"sequence_length {sequence_length} is longer than the model's context of {context_length} tokens"
        )


def decode_context(subject: Subject, sequence_length: int) -> int:
    """Tokens a row holds before the measured decode step: the step's own token must still fit the context."""
    limit = subject.context_length
    return sequence_length if limit is None else min(sequence_length, limit - 1)


def step_of(regime: Regime, subject: Subject, target: Target) -> Step:
    """What `target` measures of `subject` in this regime."""
    check_fits(subject.context_length, target.sequence_length)
    if regime == "prefill":
        return prefill_step(subject, rows=target.batch_size, tokens=target.sequence_length)
    return decode_step(subject, rows=target.batch_size, context=decode_context(subject, target.sequence_length))


def prefill_step(subject: Subject, *, rows: int, tokens: int) -> Step:
    """A step that fills an empty cache of `rows` rows with `tokens` tokens each."""
    cache = subject.empty_cache(rows=rows, length=tokens)
    inputs = random_tokens(subject, rows, tokens)

    def run() -> None:
        cache.lengths.zero_()
        subject.run(inputs, cache)

    return run


def decode_step(subject: Subject, *, rows: int, context: int) -> Step:
    """A step of one more token for each of `rows` rows, which hold `context` tokens before it.

    The context comes from a prefill: memory that was never written is one page of zeros, which is read faster than
    keys and values are.
    """
    cache = subject.empty_cache(rows=rows, length=context + 1)
    if context:
        subject.run(random_tokens(subject, rows, context), cache)
    inputs = random_tokens(subject, rows, 1)

    def run() -> None:
        cache.lengths.fill_(context)
        subject.run(inputs, cache)

    return run


def random_tokens(subject: Subject, rows: int, length: int) -> torch.Tensor:
    """[rows, length], the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(subject.vocab_size, (rows, length), generator=generator).to(subject.takes_tokens_on)
