"""Which nodes a target may run on: Ray's label selectors and resources, checked here before anything is started.

Ray itself lets an actor that fits no node wait for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lts_ray.errors import LtsRayError
from lts_ray.target import Target


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """What a node offers."""

    node_id: str
    labels: Mapping[str, str]
    resources: Mapping[str, float]
    available: Mapping[str, float] = field(default_factory=dict)
    """Its resources that are free now."""
    address: str = ""
    """Its IP, as Ray has it."""


def value_matches(constraint: str, value: str | None) -> bool:
    """Ray's syntax: `value`, `!value`, `in(a,b)`, `!in(a,b)`. value: None for a node without the label."""
    text = constraint.strip()
    negated = text.startswith("!")
    text = text.removeprefix("!").strip()
    if text.startswith("in(") and text.endswith(")"):
        allowed = {value.strip() for value in text[3:-1].split(",")}
    else:
        allowed = {text}
    return (value in allowed) != negated


def labels_match(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(value_matches(constraint, labels.get(key)) for key, constraint in selector.items())


def needed_resources(target: Target) -> dict[str, float]:
    """What a target's actor holds. A GPU must be held to be seen; CPUs are not, as measurements take turns."""
    gpu = {"GPU": 1.0} if target.device == "cuda" else {}
    return {**gpu, **target.resources}


def needed_node(target: Target) -> dict[str, float]:
    """What a node must have for it, were all of it free."""
    needed = {name: float(amount) for name, amount in needed_resources(target).items() if amount}
    return needed | {"CPU": max(needed.get("CPU", 0.0), float(target.threads))}


def vacancies(
    targets: Sequence[Target], nodes: Sequence[ClusterNode], *, taken: Collection[tuple[str, str]], local_node_id: str
) -> list[tuple[Target, ClusterNode]]:
    """Where to start an actor: each target on every node that fits it and has its resources free.

    taken: target name and node id of each actor there is. Where targets want the same resources, the one with the
    fewest actors goes first, and among them the one with the fewest nodes: none goes without as long as it need not.
    """
    named = {target.name: target for target in targets}
    needed = {name: needed_resources(target) for name, target in named.items()}
    held = {node.node_id: [needed[name] for name, node_id in taken if node_id == node.node_id] for node in nodes}
    free = {node.node_id: _free(node, held[node.node_id]) for node in nodes}
    able = {name: [node for node in nodes if _is_able(target, node, local_node_id)] for name, target in named.items()}
    actors, done = Counter(name for name, _ in taken), set(taken)
    chosen: list[tuple[Target, ClusterNode]] = []
    while True:
        open_to = {
            name: [node for node in able[name] if (name, node.node_id) not in done and _holds(free[node.node_id], want)]
            for name, want in needed.items()
        }
        if not any(open_to.values()):
            return chosen
        name = min((name for name in named if open_to[name]), key=lambda name: (actors[name], len(able[name])))
        node = open_to[name][0]
        for resource, amount in needed[name].items():
            free[node.node_id][resource] -= amount
        actors[name] += 1
        done.add((name, node.node_id))
        chosen.append((named[name], node))


def place(targets: Sequence[Target], nodes: Sequence[ClusterNode], *, local_node_id: str) -> str | None:
    """What is wrong when the targets cannot all be held at once, as one line; None when they can.

    Raises LtsRayError for what waiting will not change: a selector that no node matches, or too small nodes.
    """
    placed = {target.name for target, _ in vacancies(targets, nodes, taken=(), local_node_id=local_node_id)}
    for target in targets:
        matching = [node for node in nodes if _fits(target, node, local_node_id)]
        needed = needed_resources(target)
        if not matching:
            raise LtsRayError(f"target {target.name!r}: no node matches {_wanted(target)}; {_listing(nodes)}")
        if not any(_is_able(target, node, local_node_id) for node in matching):
            raise LtsRayError(
                f"target {target.name!r}: the nodes that match {_wanted(target)} lack its {target.threads} CPU threads "
                f"or resources {needed}; {_listing(matching, asked=needed)}"
            )
        if target.name not in placed:
            return (
                f"target {target.name!r}: resources {needed} of the nodes that match {_wanted(target)} are in use, by "
                f"another target or another job: wait for it, or give each target its own; "
                f"{_listing(matching, asked=needed)}"
            )
    return None


def waiting_message(target: Target, nodes: Sequence[ClusterNode], *, waiting: int, local_node_id: str) -> str:
    """What a target that has no node now waits for, as one line. waiting: how many evaluations do."""
    wait = {0: "evaluations will wait", 1: "1 evaluation waits"}.get(waiting, f"{waiting} evaluations wait")
    needed = needed_resources(target)
    wanted = "`local: true`" if target.local else str(dict(target.label_selector))
    matching = [node for node in nodes if _fits(target, node, local_node_id)]
    if any(_is_able(target, node, local_node_id) for node in matching):
        return (
            f"target {target.name!r} has no free node now: {wait} until resources {needed} are free on a node "
            f"that matches {wanted}"
        )
    size = f" and has {target.threads} CPU threads and resources {needed}" if matching else ""
    return f"target {target.name!r} has no node now: {wait} for one that matches {wanted}{size}"


def _fits(target: Target, node: ClusterNode, local_node_id: str) -> bool:
    return node.node_id == local_node_id if target.local else labels_match(target.label_selector, node.labels)


def _is_able(target: Target, node: ClusterNode, local_node_id: str) -> bool:
    """Whether the node would do, were its resources free."""
    return _fits(target, node, local_node_id) and _holds(node.resources, needed_node(target))


def _free(node: ClusterNode, held: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a node still gives. What was taken a moment ago is not in `available` yet, so it is counted here too."""
    return {
        name: min(node.available.get(name, 0.0), total - sum(resources.get(name, 0.0) for resources in held))
        for name, total in node.resources.items()
    }


def _holds(resources: Mapping[str, float], needed: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= amount for name, amount in needed.items())


def _wanted(target: Target) -> str:
    return "`local: true`" if target.local else f"label_selector {dict(target.label_selector)}"


def _listing(nodes: Sequence[ClusterNode], *, asked: Collection[str] = ()) -> str:
    shown = []
    for node in nodes:
        labels = {key: value for key, value in node.labels.items() if not key.startswith("ray.io/")}
        own = {key: value for key, value in node.resources.items() if key in {"CPU", "GPU", *asked} or _is_custom(key)}
        free = {key: node.available.get(key, 0.0) for key in own}
        shown.append(f"labels {labels} with {own}" + (f", free now: {free}" if free != own else ""))
    return f"the cluster has {len(nodes)} nodes: {'; '.join(shown)}" if nodes else "the cluster has no nodes"


def _is_custom(resource: str) -> bool:
    return not resource.startswith(("node:", "accelerator_type:")) and resource not in ("memory", "object_store_memory")
