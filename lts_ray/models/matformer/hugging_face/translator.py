"""What a translator is: config.json and tensors of one model type of transformers, to ours and back.

Settings that change what a model computes and that ours does not have are refused by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.family import Activation, Family
from lts_ray.models.matformer.matformer_config import MatFormerConfig

RawConfig = Mapping[str, Any]
Tensors = Mapping[str, Tensor]

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""By the name that transformers has for it; of several, the first is written."""


class Translator(Protocol):
    """Of one model type."""

    @property
    def family(self) -> Family:
        """As the model type has it where config.json changes none of it."""
        ...

    @property
    def architecture(self) -> str:
        """The class of transformers that holds it."""
        ...

    def read(self, raw: RawConfig) -> MatFormerConfig:
        """The shape, with one width in all layers.

        Raises LtsRayError for a setting that we do not have; KeyError, TypeError or ValueError for a malformed one.
        """
        ...

    def write(self, config: MatFormerConfig) -> dict[str, Any]:
        """What `read` reads, except for the key `tie_word_embeddings`, which all model types share."""
        ...

    def to_ours(self, tensors: Tensors) -> dict[str, Tensor]:
        """Tensors of today's and earlier files, by our names. What is missing or unknown shows when they are loaded."""
        ...

    def to_theirs(self, tensors: Tensors) -> dict[str, Tensor]: ...


def refuse(raw: RawConfig, needed: Mapping[str, object]) -> None:
    """Raise LtsRayError for the first key that is there, not null, and not the value needed."""
    for key, value in needed.items():
        if raw.get(key) not in (None, value):
            raise LtsRayError(f"its configuration has {key}={raw[key]!r}; lts-ray only has {value!r}")


def read_activation(raw: RawConfig, key: str, default: str) -> Activation:
    name = raw.get(key, default)
    if name not in ACTIVATIONS:
        raise LtsRayError(f"its configuration has {key}={name!r}; lts-ray has {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def activation_name(activation: Activation) -> str:
    return next(name for name, ours in ACTIVATIONS.items() if ours == activation)


def renamed(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Each tensor with the whole words of `names` (parts of a name between dots, several at once) replaced."""
    result = {}
    for name, value in tensors.items():
        dotted = f".{name}."
        for old, new in names.items():
            dotted = dotted.replace(f".{old}.", f".{new}.", 1)
        result[dotted[1:-1]] = value
    return result


def without_prefixes(tensors: Tensors, *prefixes: str) -> dict[str, Tensor]:
    """Drop each prefix in turn where a name has it: files of a model without its head lack them."""
    result = {}
    for name, value in tensors.items():
        bare = name
        for prefix in prefixes:
            bare = bare.removeprefix(prefix)
        result[bare] = value
    return result


def with_prefix(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The output matrix is outside of the model proper and gets none."""
    return {name if name.startswith("lm_head.") else prefix + name: value for name, value in tensors.items()}
