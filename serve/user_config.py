"""What may change while a replica serves: the policy and its thresholds. Ray Serve's `user_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lts_ray.errors import LtsRayError
from serve.policies.named_policies import policy_named
from serve.policies.policy import Policy


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """thresholds: fields of the policy that are not at their defaults, by name."""

    policy: str = "deadline"
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> LiveConfig:
        """Raises LtsRayError for keys, policies or thresholds that there are not."""
        unknown = sorted(given.keys() - {"policy", "thresholds"})
        if unknown:
            raise LtsRayError(f"user_config has no {', '.join(unknown)}; it has policy and thresholds")
        thresholds = given.get("thresholds") or {}
        if not isinstance(thresholds, Mapping) or not all(isinstance(name, str) for name in thresholds):
            raise LtsRayError(f"user_config: thresholds must be numbers by name; got {thresholds!r}")
        config = cls(policy=str(given.get("policy", cls.policy)), thresholds=dict(thresholds))
        config.build()
        return config

    def build(self) -> Policy:
        return policy_named(self.policy, **self.thresholds)

    def to_json(self) -> dict[str, Any]:
        return {"policy": self.policy, "thresholds": dict(self.thresholds)}
