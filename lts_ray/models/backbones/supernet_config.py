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
    """members: by name, which is also that of the folder of its checkpoint. The rest is one for all, as in a backbone.

    Their embeddings must be cut alike: one div_val, and tables as wide as each model or of one d_embed for all.
    """

    backbone: str
    members: Mapping[str, Architecture]
    vocab_size: int
    context_length: int

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise LtsRayError(
                f"a supernet fuses at least two architectures; got {', '.join(map(str, self.members)) or 'none'}"
            )
        for name in self.members:
            if not isinstance(name, str) or not name or PurePath(name).name != name or name.startswith("."):
                raise LtsRayError(f"an architecture's name is to be that of a folder: give {name!r} another")
        for what, found in (("div_val", self._of_each("div_val")), ("d_embed", self._embedding_widths())):
            if len(set(found.values())) > 1:
                given = ", ".join(f"{name}: {value}" for name, value in found.items())
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
        members, n_layer = list(self.members.values()), max(each.n_layer for each in self.members.values())
        return self._config(
            Architecture(
                d_model=max(each.d_model for each in members),
                n_head=(1,) * n_layer,
                d_inner=tuple(
                    max(each.d_inner[layer] for each in members if layer < each.n_layer) for layer in range(n_layer)
                ),
                d_embed=max(each.d_embed for each in members),
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
        missing = [each.name for each in fields(cls) if each.name not in value]
        if missing:
            raise LtsRayError(f"a supernet lacks {', '.join(missing)}")
        if not isinstance(value["members"], Mapping):
            raise LtsRayError(f"a supernet's members are architectures by name; got {value['members']!r}")
        others = {key: each for key, each in value.items() if key != "members"}
        members = {
            name: BackboneConfig.from_json({**others, "architecture": each}).architecture
            for name, each in value["members"].items()
        }
        return cls(**{**value, "members": members})

    def _config(self, architecture: Architecture) -> BackboneConfig:
        return BackboneConfig(
            backbone=self.backbone,
            architecture=architecture,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
        )

    def _of_each(self, name: str) -> dict[str, int]:
        return {member: getattr(architecture, name) for member, architecture in self.members.items()}

    def _embedding_widths(self) -> dict[str, int | str]:
        """`d_model` where a table is as wide as the model: at div_val 1 such a one has no projection."""
        return {
            name: "d_model" if each.d_embed == each.d_model else each.d_embed for name, each in self.members.items()
        }
