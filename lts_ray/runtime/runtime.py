"""What the serving engine needs of the code that multiplies the matrices: run a step, return logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.pick import GREEDY_PICK, ChosenToken, Pick
from lts_ray.runtime.segment import Segment

BLOCK_TOKENS = 16
"""Places of a block of the KV cache: one vector of the widest registers, so that a block's scores are one of them."""


class Runtime(Protocol):
    """Holds the weights and the KV cache's memory. Which sequence uses which block is the caller's to know."""

    n_blocks: int
    """Blocks of BLOCK_TOKENS places; any of 0 … n_blocks - 1 may stand in a segment."""

    @property
    def config(self) -> DecoderConfig:
        """The model's."""
        ...

    @property
    def device(self) -> torch.device:
        """Where steps run."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """That segments' submodels may have, the most precise first; one that names none runs in the first."""
        ...

    @property
    def kept_bytes(self) -> int:
        """What it keeps in memory beside the weights: the KV cache, and what its largest step so far took and kept."""
        ...

    def forget(self) -> None:
        """Give back what memory the KV cache takes; what its blocks held is lost."""
        ...

    def run(self, segments: Sequence[Segment]) -> Tensor:
        """Run all segments in one step, each at its own submodel. Not for two threads at once.

        Keys and values of the segments' tokens are in their blocks afterwards. Two segments may share blocks that
        neither writes. Returns logits, [segments that want them, vocab_size], float32 on the CPU, in the segments'
        order; valid until the next run. Each row is what its sequence would get alone.
        """
        ...


def pending(place: int) -> int:
    """In a segment's tokens: the one that the step begun just before is choosing, as the place-th of its picks."""
    return -1 - place


class BegunStep(Protocol):
    """A step that a device is at, or has done."""

    def chosen(self) -> Sequence[ChosenToken]:
        """Of the segments that want logits, in their order. Waits until they are chosen; ask once, in any order."""
        ...


class ChoosingRuntime(Runtime, Protocol):
    """One that chooses the tokens where the logits are, and is at one step while the next is planned."""

    def begin(self, segments: Sequence[Segment], picks: Sequence[Pick]) -> BegunStep:
        """As `run`, but returns before the step is done; steps are done in the order of their beginning.

        picks: of the segments that want logits, in their order. A token of a segment may be `pending`: one of the step
        begun just before. A step that fails says so here, or when its tokens are asked for.
        """
        ...


def chooses(runtime: Runtime) -> TypeGuard[ChoosingRuntime]:
    """Whether it is a ChoosingRuntime."""
    return hasattr(runtime, "begin")


def run_as_served(runtime: Runtime, segments: Sequence[Segment]) -> None:
    """A step to time. Where tokens are chosen on the device, its logits stay there."""
    if chooses(runtime):
        runtime.begin(segments, [GREEDY_PICK for segment in segments if segment.wants_logits]).chosen()
    else:
        runtime.run(segments)
