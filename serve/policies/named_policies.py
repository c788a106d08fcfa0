"""Policies by the name that the command line, the configuration and the metrics use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.record import read_record
from serve.policies.deadline import DeadlinePolicy, Thresholds
from serve.policies.fixed import FixedPolicy
from serve.policies.idle_feasible import IdleFeasiblePolicy
from serve.policies.policy import Policy
from serve.policies.slackfit import SlackFitPolicy
from serve.policies.smallest import SmallestPolicy

POLICIES: Mapping[str, type[Any]] = {
    "deadline": Thresholds,
    "fixed": FixedPolicy,
    "smallest": SmallestPolicy,
    "idle-feasible": IdleFeasiblePolicy,
    "slackfit": SlackFitPolicy,
}
"""The record of what can be set, which is the policy itself where it remembers nothing."""


def policy_named(name: str, /, **thresholds: Any) -> Policy:
    """Raises LtsRayError for an unknown policy, or a threshold that it does not have or cannot use."""
    if name not in POLICIES:
        raise LtsRayError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    settings: Any = read_record(POLICIES[name], thresholds, what=name)
    policy: Policy = DeadlinePolicy(thresholds=settings) if isinstance(settings, Thresholds) else settings
    return policy
