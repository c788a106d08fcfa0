"""From documents to batches. The split is by document, and one alone is cut.

A batch is a function of the seed and the step alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.text.corpus import Document, read_corpus
from lts_ray.text.tokenizer import Tokenizer

Tokens = NDArray[np.int32]
WHITESPACE = re.compile(r"\s")


def split_documents(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    """(training, validation) documents. A document's side depends on all names but not on their order.

    A single document is cut in two: its end is held out. Raises LtsRayError where it has nothing to cut.
    """
    if not 0 < fraction < 1:
        raise LtsRayError(f"validation_fraction must be between 0 and 1; got {fraction}")
    if len(documents) < 2:
        return _cut(documents[0], fraction)
    ranked = sorted(documents, key=lambda document: hashlib.sha256(os.fsencode(document.name)).digest())
    held_out = {document.name for document in ranked[: min(len(ranked) - 1, max(1, round(fraction * len(ranked))))]}
    training = [document for document in documents if document.name not in held_out]
    return training, [document for document in documents if document.name in held_out]


def _cut(document: Document, fraction: float) -> tuple[list[Document], list[Document]]:
    """At the first gap between words behind the share to train on; within a word where there is none."""
    text = document.text.strip()
    if len(text) < 2:
        raise LtsRayError(f"{document.name} is too short to hold some of it out of training")
    share = max(1, min(len(text) - 1, round((1 - fraction) * len(text))))
    gap = WHITESPACE.search(text, share)
    end = gap.start() if gap else share
    return [Document(document.name, text[:end])], [Document(f"{document.name}, its end", text[end:])]


def tokenize(documents: Sequence[Document], tokenizer: Tokenizer) -> Tokens:
    """All documents as one sequence, each with the tokenizer's special tokens, and ended by the end-of-text token."""
    end = tokenizer.eos_id
    parts = tokenizer.encode_batch([document.text for document in documents])
    ended = (ids if ids[-1:] == [end] else [*ids, end] for ids in parts)
    return np.fromiter(chain.from_iterable(ended), dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Training batches over one long token sequence.

    Every epoch walks all blocks of `sequence_length` tokens once, in an order and from an offset of its own, both drawn
    from the seed: nothing but the step has to be remembered for resuming.
    """

    tokens: Tokens
    """[n]."""
    sequence_length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.blocks < self.batch_size:
            raise LtsRayError(
                f"the training text has {len(self.tokens)} tokens: too few for one batch of {self.batch_size} × "
                f"{self.sequence_length} tokens; give more text or smaller batches"
            )

    @property
    def blocks(self) -> int:
        """Blocks in an epoch: one fewer than fit, which leaves room for the epoch's offset and the last target."""
        return (len(self.tokens) - 1) // self.sequence_length - 1

    def batch(self, step: int, *, rank: int = 0, workers: int = 1) -> Tensor:
        """Worker `rank`'s rows of the batch of `step` (from 0). Returns [batch_size / workers, sequence_length + 1]."""
        share = self.batch_size // workers
        first = step * self.batch_size + rank * share
        rows = [self._row(first + index) for index in range(share)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _row(self, index: int) -> Tokens:
        epoch, place = divmod(index, self.blocks)
        offset, order = _epoch(self.seed, epoch, self.blocks, self.sequence_length)
        start = offset + int(order[place]) * self.sequence_length
        return self.tokens[start : start + self.sequence_length + 1]


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, blocks: int, sequence_length: int) -> tuple[int, NDArray[np.int64]]:
    rng = np.random.default_rng([seed, epoch])
    return int(rng.integers(sequence_length)), rng.permutation(blocks)


def blocks_of(tokens: Tokens, *, length: int, count: int | None = None) -> Tensor:
    """The first `count` (all: None) consecutive blocks. Returns [N, length + 1]: inputs and their next tokens.

    Raises LtsRayError when not even one block fits.
    """
    fit = (len(tokens) - 1) // length
    if fit < 1:
        raise LtsRayError(f"the text has {len(tokens)} tokens; evaluation needs at least {length + 1}")
    chosen = fit if count is None else min(fit, count)
    starts = np.arange(chosen) * length
    return torch.from_numpy(np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64))


def validation_blocks(
    source: str,
    tokenizer: Tokenizer,
    *,
    length: int,
    count: int | None = None,
    fraction: float = 0.05,
    max_documents: int | None = None,
) -> Tensor:
    """Blocks [N, length + 1] of the documents of `source` that training with the same fraction never sees."""
    _, held_out = split_documents(read_corpus(source, max_documents=max_documents), fraction)
    return blocks_of(tokenize(held_out, tokenizer), length=length, count=count)
