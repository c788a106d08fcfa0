"""Backbones by name, and what says which model one is: data from which the module is built where it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from lts_ray.architecture import MOST_VOCABULARY, Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.checkpoint_folder import BACKBONE_MODEL_TYPES

if TYPE_CHECKING:
    from lts_ray.models.backbones.backbone import Backbone
    from lts_ray.models.backbones.bert import Bert
    from lts_ray.models.backbones.t5 import T5

BACKBONES = tuple(BACKBONE_MODEL_TYPES.values())
"""Decoders: they can be searched and trained."""
WITH_ENCODERS = ("bert", "t5")
"""Backbones that are searched only."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """One model of one backbone."""

    backbone: str
    """One of `BACKBONES`."""
    architecture: Architecture
    vocab_size: int
    context_length: int
    """In tokens; of a Transformer-XL, whose rows have no limit, that of its memory."""

    def __post_init__(self) -> None:
        _check_decoder(self.backbone)
        if self.architecture.encoder is not None:
            raise LtsRayError(f"the backbone {self.backbone} has one stack of layers: leave the encoder out")
        for name in ("vocab_size", "context_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise LtsRayError(f"a backbone's {name} must be a whole number of at least 1; got {value!r}")
        if self.vocab_size > MOST_VOCABULARY:
            raise LtsRayError(f"a backbone's vocab_size must be at most {MOST_VOCABULARY}; got {self.vocab_size}")

    @property
    def model_type(self) -> str:
        return next(kind for kind, name in BACKBONE_MODEL_TYPES.items() if name == self.backbone)

    def build(self) -> Backbone:
        """Weights as the backbone's class leaves them. Raises LtsRayError for what the backbone cannot be."""
        return backbone_of(self.backbone, self.architecture, self.vocab_size, self.context_length)

    def skeleton(self) -> Backbone:
        """As `build`, but without memory for weights: its names and shapes, or its error, whatever its size."""
        try:
            with torch.device("meta"):
                return self.build()
        except (OverflowError, RuntimeError, TypeError) as error:  # of sizes past 64 bits
            raise LtsRayError(
                f"no machine holds a {self.backbone} of this size: lower d_model, d_inner or vocab_size; "
                f"{str(error).splitlines()[0]}"
            ) from None

    def to_json(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "architecture": self.architecture.to_json(),
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BackboneConfig:
        """Unlike in a row of a table, no other key may stand in the architecture. Raises LtsRayError."""
        _check_keys({field.name for field in fields(cls)}, value, "a backbone")
        architecture = Architecture.from_json(value["architecture"])
        unknown = sorted(map(str, value["architecture"].keys() - architecture.to_json().keys()))
        if unknown:
            known = ", ".join(architecture.to_json())
            raise LtsRayError(f"an architecture has unknown keys {', '.join(unknown)}; known: {known}")
        return cls(**{**value, "architecture": architecture})


def model_of(name: str, architecture: Architecture, vocab_size: int, context_length: int) -> Backbone | Bert | T5:
    """A module of any backbone that can be searched, with weights as its class leaves them. Raises LtsRayError."""
    check_searched(name)
    if name == "bert":
        from lts_ray.models.backbones.bert import Bert

        return Bert(architecture, vocab_size=vocab_size, context_length=context_length)
    if name == "t5":
        from lts_ray.models.backbones.t5 import T5

        return T5(architecture, vocab_size=vocab_size)
    return backbone_of(name, architecture, vocab_size, context_length)


def backbone_of(name: str, architecture: Architecture, vocab_size: int, context_length: int) -> Backbone:
    """A decoder, with weights as its class leaves them. Raises LtsRayError for what is none."""
    _check_decoder(name)
    if name == "gpt2":
        from lts_ray.models.backbones.gpt2 import GPT2

        return GPT2(architecture, vocab_size=vocab_size, context_length=context_length)
    if name == "opt":
        from lts_ray.models.backbones.opt import OPT

        return OPT(architecture, vocab_size=vocab_size, context_length=context_length)
    from lts_ray.models.backbones.transformer_xl import TransformerXL

    return TransformerXL(architecture, vocab_size=vocab_size, memory_length=context_length)


def check_searched(name: str) -> None:
    """Raises LtsRayError for an unknown backbone."""
    known = (*BACKBONES, *WITH_ENCODERS)
    if name not in known:
        raise LtsRayError(f"unknown backbone {name!r}: use one of {', '.join(known)}")


def _check_decoder(name: str) -> None:
    if name in WITH_ENCODERS:
        raise LtsRayError(
            f"the backbone {name} is searched only: training and live proxies have next tokens to predict, and so take "
            f"one of {', '.join(BACKBONES)}"
        )
    if name not in BACKBONES:
        raise LtsRayError(f"unknown backbone {name!r}: use one of {', '.join(BACKBONES)}")


def _check_keys(known: set[str], value: Mapping[str, Any], what: str) -> None:
    for problem, keys in (("lacks", known - value.keys()), ("has unknown keys", value.keys() - known)):
        if keys:
            named = ", ".join(sorted(map(str, keys)))
            raise LtsRayError(f"{what} {problem} {named}; its keys are {', '.join(sorted(known))}")
