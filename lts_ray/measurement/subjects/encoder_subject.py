"""Candidates with encoders, as they are measured: what a prefill and a decode step are where there are two stacks, or
where there is no step.

An encoder has one regime: a prefill is its pass over the whole sequence. It remembers nothing, so that a token more
takes another pass, which is no step: nothing is measured for it.
An encoder–decoder's prefill is the encoder's pass over the sequence and the decoder's first token. Its decode step is
one more token behind as many decoded ones as the sequence has tokens, with self- and cross-attention cached.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.measurement.subjects.module_subject import ModuleSubject
from lts_ray.models.backbones.bert import Bert
from lts_ray.models.backbones.encoder_decoder_cache import EncoderDecoderCache
from lts_ray.models.backbones.t5 import T5

START_TOKEN = 0
"""What T5 begins to decode with."""
REMEMBERED = 0.02
"""What a decoder's own cache holds before its steps: memory that was never written is read faster than keys are."""


@dataclass(frozen=True)
class NoCache:
    """lengths: [rows]; nothing reads it."""

    lengths: Tensor


@dataclass(frozen=True)
class EncoderSubject(ModuleSubject):
    module: Bert

    @property
    def context_length(self) -> int:
        return self.module.context_length

    def empty_cache(self, *, rows: int, length: int) -> NoCache:
        return NoCache(torch.zeros(rows, dtype=torch.int64))

    def run(self, tokens: Tensor, cache: NoCache) -> None:
        """The pass over tokens [B, T], whatever ran before."""
        self.module(tokens)


@dataclass(frozen=True)
class EncoderDecoderSubject(ModuleSubject):
    module: T5

    @property
    def context_length(self) -> None:
        """Positions are relative."""
        return

    def empty_cache(self, *, rows: int, length: int) -> EncoderDecoderCache:
        cache = self.module.empty_cache(rows=rows, length=length)
        cache.decoded.keys.fill_(REMEMBERED)
        cache.decoded.values.fill_(REMEMBERED)
        return cache

    def run(self, tokens: Tensor, cache: EncoderDecoderCache) -> None:
        """tokens: [B, T]. In rows that hold nothing they are what is read; else they go behind the decoded ones."""
        if not cache.lengths.any():
            self.module.read(tokens, cache)
            tokens = torch.full_like(tokens[:, :1], START_TOKEN)
        self.module.decode(tokens, cache, last_only=True)


def has_steps(subject: object) -> bool:
    """Whether there is a decode step to measure."""
    return not isinstance(subject, EncoderSubject)
