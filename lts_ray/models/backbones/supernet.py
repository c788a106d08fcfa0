"""Several architectures in one set of weights (LTS, appendix B): each member is a part of it, and all parts are shared.

A member has the first layers, the first rows and the first columns. It is no second implementation: its own plain
backbone runs, on weights that are cut out of the shared ones, so its gradients are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.models.prefix import prefix

Result = TypeVar("Result")
STACKED = 3
"""Queries, keys and values are the rows of one matrix."""


class Member(nn.Module):
    """A plain backbone without its weights, which every call hands in; tables that are computed are its own."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = config.build()
        self.shapes = {name: weight.shape for name, weight in self.backbone.named_parameters()}
        for name in self.shapes:
            owner, _, last = name.rpartition(".")
            self.backbone.get_submodule(owner).register_parameter(last, None)

    def forward(self, use: Callable[[Backbone], Result]) -> Result:
        return use(self.backbone)


class Supernet(nn.Module):
    def __init__(self, config: SupernetConfig) -> None:
        super().__init__()
        self.config = config
        self.names = list(config.members)
        self.weights = config.fused.build()  # only ever run in part; all parameters are its own
        self.members = nn.ModuleList(Member(member) for member in config.configs.values())

    def using(self, name: str, use: Callable[[Backbone], Result]) -> Result:
        """What `use` makes of member `name`, which exists during the call only."""
        weights = {f"backbone.{key}": value for key, value in self.cut(name).items()}
        return cast(Result, functional_call(self._member(name), weights, (use,)))

    def loss(self, name: str, tokens: Tensor, targets: Tensor) -> Tensor:
        """Of one member: mean nats of targets [B, T] after tokens [B, T]."""
        return self.using(name, lambda backbone: backbone.loss(tokens, targets))

    def cut(self, name: str) -> dict[str, Tensor]:
        """A member's weights as parts of the shared ones: for training it, and for taking it out."""
        held = dict(self.weights.named_parameters())
        return {key: _part(key, held[key], shape).reshape(shape) for key, shape in self._member(name).shapes.items()}

    def extract(self, name: str) -> Backbone:
        """A member as a model of its own, its weights copied."""
        model = self.config.configs[name].build()
        model.load_state_dict(self.cut(name))
        return model.to(self.weights.embedding.table(0)).eval()

    def fill(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """The other way: put a member's weights where they are cut from."""
        with torch.no_grad():
            for key, parameter in self.weights.named_parameters():
                if key in tensors:
                    place = _part(key, parameter, tensors[key].shape)
                    place.copy_(tensors[key].view(place.shape))

    def _member(self, name: str) -> Member:
        return cast(Member, self.members[self.names.index(name)])


def _part(name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The elements of a shared weight that make up a member's, which is of `shape`: a view, to be reshaped to it.

    A prefix, but for two kinds. Where queries, keys and values are stacked it is one of each. What has a row for each
    head is a vector over d_model that a member may divide among other heads.
    """
    if name.endswith(("qkv.weight", "qkv.bias")):
        return prefix(tensor.view(STACKED, -1, *tensor.shape[1:]), (STACKED, shape[0] // STACKED, *shape[1:]))
    if name.endswith(("content_bias", "distance_bias")):
        return prefix(tensor.view(-1), (prod(shape),))
    return prefix(tensor, shape)
