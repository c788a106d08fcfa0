"""Which architectures are fused into one (LTS, appendix B), and the one that is deep and wide enough to hold them all.

Data, from which the supernet is built where it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class SupernetConfig:
    """Its members' embeddings must be cut alike: one div_val, and tables as wide as each model or of one d_embed."""

    backbone: str
    members: Mapping[str, Architecture]
    """By name, which is also that of the folder of its checkpoint."""
    vocab_size: int
    """Of all members, as in a `BackboneConfig`."""
    context_length: int
    """Likewise."""

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise LtsRayError(
                f"a supernet fuses at least two architectures; got {', '.join(map(str, self.members)) or 'none'}"
            )
        for name in self.members:
            if not isinstance(name, str) or not name or PurePath(name).name != name or name.startswith("."):
                raise LtsRayError(f"an architecture's name is to be that of a folder: give {name!r} another")
        members = self.members.items()
        widths = {  # at div_val 1, a table that is as wide as the model has no projection
            name: "d_model" if member.d_embed == member.d_model else member.d_embed for name, member in members
        }
        for what, values in (("div_val", {name: member.div_val for name, member in members}), ("d_embed", widths)):
            if len(set(values.values())) > 1:
                given = ", ".join(f"{name}: {value}" for name, value in values.items())
                raise LtsRayError(
                    f"architectures that differ in {what} cannot be fused: their embeddings share no weights "
                    f"({given}); choose points of one search"
                )
        _ = self.configs  # each of them must be a backbone

    @property
    def configs(self) -> Mapping[str, BackboneConfig]:
        """What each member is by itself."""
        return {name: self._config(architecture) for name, architecture in self.members.items()}

    @property
    def fused(self) -> BackboneConfig:
        """As deep and as wide as the deepest and widest member, layer by layer; often no member is as large.

        One head a layer: heads only say how a vector over d_model is divided, and this one is never run itself.
        """
        members, n_layer = list(self.members.values()), max(member.n_layer for member in self.members.values())
        return self._config(
            Architecture(
                d_model=max(member.d_model for member in members),
                n_head=(1,) * n_layer,
                d_inner=tuple(
                    max(member.d_inner[layer] for member in members if layer < member.n_layer)
                    for layer in range(n_layer)
                ),
                d_embed=max(member.d_embed for member in members),
                div_val=members[0].div_val,
            )
        )

    def skeleton(self) -> None:
        """Raises LtsRayError where a member cannot be built, whatever its size."""
        for config in (*self.configs.values(), self.fused):
            config.skeleton()

    def to_json(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "members": {name: architecture.to_json() for name, architecture in self.members.items()},
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SupernetConfig:
        """Raises LtsRayError."""
        missing = [field.name for field in fields(cls) if field.name not in value]
        if missing:
            raise LtsRayError(f"a supernet lacks {', '.join(missing)}")
        if not isinstance(value["members"], Mapping):
            raise LtsRayError(f"a supernet's members are architectures by name; got {value['members']!r}")
        others = {key: setting for key, setting in value.items() if key != "members"}
        members = {
            name: BackboneConfig.from_json({**others, "architecture": member}).architecture
            for name, member in value["members"].items()
        }
        return cls(**{**value, "members": members})

    def _config(self, architecture: Architecture) -> BackboneConfig:
        return BackboneConfig(
            backbone=self.backbone,
            architecture=architecture,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
        )
