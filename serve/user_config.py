"""What may change while a replica serves: the policy and its thresholds. Ray Serve's `user_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lts_ray.record import record
from serve.policies.named_policies import policy_named
from serve.policies.policy import Policy


@record(what="user_config")
class UserConfig:
    policy: str = "deadline"
    """Its name (see serve.policies.named_policies)."""
    thresholds: Mapping[str, Any] | None = None
    """Fields of the policy, by name; those that are not named, or None, have their defaults."""

    def build(self) -> Policy:
        """Raises LtsRayError for a policy or thresholds that there are not."""
        return policy_named(self.policy, **(self.thresholds or {}))
