"""What is measured, and where it comes from: one candidate of any space, ready to run.

The seam between measuring and models. A source is data that travels to the node. What it builds there lives as long as
it is measured: a universal model for the whole search, a backbone's model for one candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.measurement.subjects.encoder_subject import EncoderDecoderSubject, EncoderSubject
from lts_ray.measurement.subjects.module_subject import ModuleSubject
from lts_ray.measurement.subjects.stand_in import skipped_initialization, stand_in_weights
from lts_ray.models.backbones.backbone_config import check_searched, model_of
from lts_ray.models.backbones.bert import Bert
from lts_ray.models.backbones.t5 import T5
from lts_ray.target import Target

if TYPE_CHECKING:
    from lts_ray.models.backbones.backbone import Backbone

Candidate_contra = TypeVar("Candidate_contra", contravariant=True)
Module = TypeVar("Module", bound=nn.Module)

RanIn = Literal["kernels", "torch"]
"""What runs a candidate's steps: our kernels, or plain torch."""

REFERENCE = Architecture(d_model=256, n_head=(4, 4), d_inner=(1024, 1024), d_embed=256)
REFERENCE_VOCAB = 40_000
"""The reference of every backbone: ten milliseconds a step on one core, but 50 MB, so that it is read from memory as
candidates are. One that fits a shared cache loses it to other programs, and then slows down where they do not."""


class Cache(Protocol):
    """What a subject remembers of the tokens it ran. Only the subject that made it reads more than this."""

    @property
    def lengths(self) -> Tensor:
        """[rows], int64, on the CPU: how many tokens each row holds; set back to run from there again."""
        ...


class Subject(Protocol):
    """One candidate in eval mode, on a target's device and in its dtype."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def takes_tokens_on(self) -> torch.device:
        """Where those of `run` lie; to bring them there is no part of a step."""
        ...

    @property
    def ran_in(self) -> RanIn: ...

    @property
    def context_length(self) -> int | None:
        """The most tokens that a row may hold; None where there is no limit."""
        ...

    @property
    def weight_bytes(self) -> int:
        """What the candidate alone keeps in memory: parameters and tables."""
        ...

    @property
    def kept_bytes(self) -> int:
        """What stays in memory from one step to the next beside them, and no cache of `empty_cache` allocates."""
        ...

    def empty_cache(self, *, rows: int, length: int) -> Cache: ...

    def run(self, tokens: Tensor, cache: Any) -> None:
        """A forward of which only the last logits are wanted. tokens: [B, T], behind what the cache's B rows hold."""
        ...


class Subjects(Protocol[Candidate_contra]):
    """An opened source."""

    @property
    def reference(self) -> Subject:
        """A fixed small model of the same kind, whose time tells how fast the node is at the moment."""
        ...

    def subject(self, candidate: Candidate_contra) -> Subject: ...


class SubjectSource(Protocol[Candidate_contra]):
    """Frozen, small and picklable: how to build subjects on the node where they are measured."""

    @property
    def context_length(self) -> int | None:
        """The most tokens that a row of its subjects may hold; None where there is no limit."""
        ...

    def open(self, target: Target, payload: Any) -> Subjects[Candidate_contra]:
        """payload: what is too large for a source, such as weights, or None."""
        ...


@dataclass(frozen=True)
class BackboneSubject(ModuleSubject):
    """A model of its own."""

    module: Backbone

    @property
    def context_length(self) -> int | None:
        return self.module.context_length

    def empty_cache(self, *, rows: int, length: int) -> Any:
        return self.module.empty_cache(rows=rows, length=length)

    def run(self, tokens: Tensor, cache: Any) -> None:
        self.module(tokens, cache=cache, last_only=True)


@dataclass(frozen=True, kw_only=True)
class BackboneSource:
    """Untrained models of one backbone: what a step costs does not depend on what the weights say. No payload.

    context_length: of a Transformer-XL, whose rows have no limit, it is the length of its memory.
    """

    backbone: str
    vocab_size: int
    context_length: int

    def __post_init__(self) -> None:
        check_searched(self.backbone)

    def open(self, target: Target, payload: None = None) -> BackboneSubjects:
        return BackboneSubjects(source=self, target=target)


@dataclass(frozen=True, kw_only=True)
class BackboneSubjects:
    source: BackboneSource
    target: Target

    @property
    def reference(self) -> Subject:
        is_two = self.source.backbone == "t5"
        return self._built(replace(REFERENCE, encoder=REFERENCE.stacks[0] if is_two else None), REFERENCE_VOCAB)

    def subject(self, candidate: Architecture) -> Subject:
        return self._built(candidate, self.source.vocab_size)

    def _built(self, architecture: Architecture, vocab_size: int) -> Subject:
        with skipped_initialization():
            module = model_of(self.source.backbone, architecture, vocab_size, self.source.context_length)
        stand_in_weights(module)
        if isinstance(module, Bert):
            return EncoderSubject(prepare(module, self.target))
        if isinstance(module, T5):
            return EncoderDecoderSubject(prepare(module, self.target))
        return BackboneSubject(prepare(module, self.target))


def prepare(model: Module, target: Target) -> Module:
    """`model` in eval mode, on the target's device and in its dtype; moved in place where it differs."""
    if target.device == "cuda" and not torch.cuda.is_available():
        raise LtsRayError(f"target {target.name!r} wants CUDA, but this node has no usable GPU")
    return model.eval().to(device=target.device, dtype=getattr(torch, target.dtype))
