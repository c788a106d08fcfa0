"""Policies by the name that the command line, the configuration and the metrics use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lts_ray.errors import LtsRayError
from serve.policies.deadline import DeadlinePolicy, Thresholds
from serve.policies.fixed import FixedPolicy
from serve.policies.idle_feasible import IdleFeasiblePolicy
from serve.policies.policy import Policy
from serve.policies.queue_order import Patience
from serve.policies.slackfit import SlackFitPolicy
from serve.policies.smallest import SmallestPolicy


def _deadline(**thresholds: Any) -> DeadlinePolicy:
    """Takes the fields of Thresholds and of Patience."""
    patience = {key: value for key, value in thresholds.items() if key in Patience.__dataclass_fields__}
    others = {key: value for key, value in thresholds.items() if key not in patience}
    return DeadlinePolicy(thresholds=replace(Thresholds(), **others), patience=replace(Patience(), **patience))


POLICIES: Mapping[str, Callable[..., Policy]] = {
    "deadline": _deadline,
    "fixed": FixedPolicy,
    "smallest": SmallestPolicy,
    "idle-feasible": IdleFeasiblePolicy,
    "slackfit": SlackFitPolicy,
}


def policy_named(name: str, /, **thresholds: Any) -> Policy:
    """Raises LtsRayError for an unknown policy, or a threshold that it does not have or cannot use."""
    if name not in POLICIES:
        raise LtsRayError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    known = _thresholds(name)
    unknown = next((each for each in thresholds if each not in known), None)
    if unknown is not None:
        raise LtsRayError(f"the policy {name} has no threshold {unknown!r}; it has: {', '.join(known) or 'none'}")
    return POLICIES[name](**thresholds)


def _thresholds(name: str) -> tuple[str, ...]:
    build: Any = POLICIES[name]
    kinds = (Thresholds, Patience) if build is _deadline else (build,)
    return tuple(each for kind in kinds for each in kind.__dataclass_fields__ if each != "name")
