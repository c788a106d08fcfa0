"""What a search is: all that must be the same for its log to be continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lts_ray.architecture import Submodel
from lts_ray.measurement.target import Target
from lts_ray.models.config import MatFormerConfig
from lts_ray.search.settings import SearchSettings
from lts_ray.spaces.base import SearchSpace


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What is searched. validation_fingerprint: of the text that losses are measured on; None without."""

    model_fingerprint: str
    config: MatFormerConfig
    space: SearchSpace[Submodel]
    targets: tuple[Target, ...]
    settings: SearchSettings
    validation_fingerprint: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "model_fingerprint": self.model_fingerprint,
            "space": self.space.name,
            "targets": [target.to_json() for target in self.targets],
            "settings": self.settings.to_json(),
            "validation_fingerprint": self.validation_fingerprint,
        }
