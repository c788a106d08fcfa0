"""Which nodes a target may run on: Ray's label selectors and resources, checked here before anything is started.

Ray itself lets an actor that fits no node wait for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lts_ray.errors import LtsRayError
from lts_ray.measurement.target import Target


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node offers. available: its resources that nobody holds now."""

    node_id: str
    labels: Mapping[str, str]
    resources: Mapping[str, float]
    available: Mapping[str, float] = field(default_factory=dict)


def value_matches(constraint: str, value: str | None) -> bool:
    """Ray's syntax: `value`, `!value`, `in(a,b)`, `!in(a,b)`. value: None for a node without the label."""
    text = constraint.strip()
    negated = text.startswith("!")
    text = text.removeprefix("!").strip()
    if text.startswith("in(") and text.endswith(")"):
        allowed = {each.strip() for each in text[3:-1].split(",")}
    else:
        allowed = {text}
    return (value in allowed) != negated


def labels_match(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(value_matches(constraint, labels.get(key)) for key, constraint in selector.items())


def needed_resources(target: Target) -> dict[str, float]:
    """What a target's actor holds. A GPU must be held to be seen; CPUs are not, as measurements take turns."""
    gpu = {"GPU": 1.0} if target.device == "cuda" else {}
    return {**gpu, **target.resources}


def place(targets: Sequence[Target], nodes: Sequence[Node], *, local_node_id: str) -> str | None:
    """What is wrong when the targets cannot all be held at once, as one line; None when they can.

    Raises LtsRayError for what waiting will not change: a selector that no node matches, or too small nodes.
    """
    free = {node.node_id: dict(node.available) for node in nodes}
    for target in targets:
        matching = [node for node in nodes if _fits(target, node, local_node_id)]
        needed = needed_resources(target)
        if not matching:
            raise LtsRayError(f"target {target.name!r}: no node matches {_wanted(target)}; {_listing(nodes)}")
        able = [node for node in matching if _holds(node.resources, {**needed, "CPU": float(target.threads)})]
        if not able:
            raise LtsRayError(
                f"target {target.name!r}: the nodes that match {_wanted(target)} lack its {target.threads} CPU threads "
                f"or resources {needed}; {_listing(matching)}"
            )
        idle = next((node for node in able if _holds(free[node.node_id], needed)), None)
        if idle is None:
            return (
                f"target {target.name!r}: resources {needed} of the nodes that match {_wanted(target)} are in use, by "
                f"another target or another job: wait for it, or give each target its own"
            )
        for name, amount in needed.items():
            free[idle.node_id][name] -= amount
    return None


def _fits(target: Target, node: Node, local_node_id: str) -> bool:
    return node.node_id == local_node_id if target.local else labels_match(target.label_selector, node.labels)


def _holds(resources: Mapping[str, float], needed: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, amount in needed.items())


def _wanted(target: Target) -> str:
    return "`local: true`" if target.local else f"label_selector {dict(target.label_selector)}"


def _listing(nodes: Sequence[Node]) -> str:
    shown = []
    for node in nodes:
        labels = {key: value for key, value in node.labels.items() if not key.startswith("ray.io/")}
        own = {key: value for key, value in node.resources.items() if key in ("CPU", "GPU") or _is_custom(key)}
        shown.append(f"labels {labels} with {own}")
    return f"the cluster has {len(nodes)} nodes: {'; '.join(shown)}" if nodes else "the cluster has no nodes"


def _is_custom(resource: str) -> bool:
    return not resource.startswith(("node:", "accelerator_type:")) and resource not in ("memory", "object_store_memory")
