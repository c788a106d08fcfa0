"""Granularities that do not nest: one decoder whose every layer has an FFN for each granularity (MatFormer, D.2).

Embeddings, attention and norms are one for all. The ablation that says what nesting itself does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig


class IndependentModel(nn.Module):
    def __init__(self, members: Mapping[str, MatFormer]) -> None:
        """members: by granularity, smallest first: plain models; all get the last one's modules but for FFN blocks."""
        super().__init__()
        self.names = list(members)
        self.members = nn.ModuleList(members.values())  # not by name: some names are methods of a module
        share(list(members.values()))

    @classmethod
    def fresh(cls, config: MatFormerConfig, generator: torch.Generator) -> IndependentModel:
        """config: what the universal model that nests them would have."""
        return cls({name: MatFormer.fresh(member_config(config, name), generator) for name in config.trained})

    def member(self, name: str) -> MatFormer:
        chosen = self.members[self.names.index(name)]
        assert isinstance(chosen, MatFormer)
        return chosen


def member_config(config: MatFormerConfig, name: str) -> MatFormerConfig:
    """Of the plain model that is as large as granularity `name`."""
    return replace(config, widths=config.trained[name].widths, granularities={"XL": 1.0})


def share(members: list[MatFormer]) -> None:
    """Give every member the last one's modules, except the FFN blocks. Raises LtsRayError where they do not fit."""
    source = members[-1]
    for member in members[:-1]:
        same_depth = member.config.n_layer == source.config.n_layer
        if not same_depth or replace(member.config, widths=source.config.widths) != source.config:
            raise LtsRayError("these models differ in more than their FFN blocks, so they are not of one run")
        for name, module in (*source.named_children(), *source.named_parameters(recurse=False)):
            if name != "layers":
                setattr(member, name, module)
        for own, shared in zip(member.layers, source.layers, strict=True):
            for name, module in shared.named_children():
                if name != "mlp":
                    setattr(own, name, module)
