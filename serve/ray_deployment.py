"""What all deployments of the endpoint have in common: how many replicas, where they go, and what they log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

import ray
import torch
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig

from lts_ray.errors import LtsRayError
from lts_ray.measurement.on_ray.selector import labels_match
from lts_ray.ray_session import check_room
from lts_ray.record import worded
from lts_ray.target import Target
from serve.fleet.node_kind import NodeKind
from serve.serve_args import ServeArgs

MAX_ONGOING_REQUESTS = 1_000_000
"""Of a replica, for Ray Serve: none waits in front of it. What runs and what waits is the engine's choice, once it has
arrived whole; a client that is slow to send or to read takes no place that another needs."""


def actor_options(args: ServeArgs, target: Target | None) -> dict[str, Any]:
    """Of a replica."""
    options: dict[str, Any] = {"num_cpus": args.threads or (1 if target is None else target.threads)}
    if target is not None and target.label_selector and not args.anywhere:
        options["label_selector"] = dict(target.label_selector)
    if target is not None and target.device == "cuda":
        options["num_gpus"] = args.num_gpus or 1
    return options


def gpus_there() -> bool:
    """Whether a node has a GPU, of the cluster or, before it is known, this one; and torch here is one that uses it."""
    if not ray.is_initialized():
        return torch.cuda.is_available()
    return _torch_uses_gpus() and _nodes_have_gpus()


def unused_gpus(args: ServeArgs) -> list[str]:
    """What to say where the device was left open, and became the CPU. args: as they were given."""
    lines = []
    if ray.is_initialized() and _nodes_have_gpus() and not _torch_uses_gpus():
        lines.append("the cluster has a GPU, and this torch is one for CPUs alone: replicas run on the CPU")
    if args.num_gpus is not None:
        lines.append(f"num_gpus={args.num_gpus:g} says nothing, for replicas run on the CPU")
    return lines


def _torch_uses_gpus() -> bool:
    return bool(torch.version.cuda or torch.version.hip)


def _nodes_have_gpus() -> bool:
    return any(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in ray.nodes())


def count_options(args: ServeArgs) -> dict[str, Any]:
    """As Ray Serve takes them. Raises LtsRayError for an autoscaling_config that it would not take, or not read."""
    if not args.is_autoscaled:
        return {"num_replicas": args.num_replicas}
    given = dict(args.autoscaling_config or {})
    unknown = given.keys() - AutoscalingConfig.model_fields.keys()
    if unknown:
        known = ", ".join(sorted(AutoscalingConfig.model_fields))
        raise LtsRayError(f"autoscaling_config has unknown keys {', '.join(sorted(unknown))}; known: {known}")
    try:
        AutoscalingConfig(**AutoscalingConfig.default().model_dump(exclude_unset=True) | given)
    except ValidationError as error:
        raise LtsRayError(worded(error, AutoscalingConfig, "autoscaling_config")) from None
    return {"num_replicas": "auto", "autoscaling_config": given}


def check_placed(args: ServeArgs, options: Mapping[str, Any]) -> list[str]:
    """Raise LtsRayError for replicas that would wait for a node for ever. It does not judge what it cannot know.

    A line where they wait for one that the cluster's autoscaler is to bring.
    """
    first = (args.autoscaling_config or {}).get("min_replicas", 1) if args.is_autoscaled else args.num_replicas
    if not ray.is_initialized():  # `serve run` builds before it connects; `serve deploy` and `lts-ray serve` do not
        return []
    return _check_room(first or 1, options, what="replicas")


def check_kinds(kinds: Sequence[NodeKind], options: Sequence[Mapping[str, Any]]) -> list[str]:
    """As check_placed, for kinds with their replicas' options. A line for each that may wait for a node for ever."""
    waiting: list[str] = []
    if not ray.is_initialized():
        return waiting
    for kind, own in zip(kinds, options, strict=True):
        try:
            waiting += _check_room(kind.min_replicas or 1, own, what=f"replicas of kind {kind.name!r}")
        except LtsRayError as error:
            if kind.min_replicas:
                raise
            waiting.append(f"kind {kind.name!r} waits until there is a node for it: {error}")
    for name, option in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        amount = sum(kind.min_replicas * own.get(option, 0) for kind, own in zip(kinds, options, strict=True))
        check_room(ceil(amount), {name: 1.0}, what=f"{name}s of all kinds together")
    return waiting


def _check_room(count: int, options: Mapping[str, Any], *, what: str) -> list[str]:
    needed = {"CPU": float(options["num_cpus"])}
    if "num_gpus" in options:
        needed["GPU"] = 1 / int(1 / options["num_gpus"])  # what is left of a GPU beside its replicas is nobody's
        shared, none = "num_gpus=0.5 lets two share a GPU", "they need a GPU, and no node has one"
        what += f" ({shared if _nodes_have_gpus() else none})"
    selector = options.get("label_selector", {})
    where = f" on nodes with {selector} (anywhere=true ignores that)" if selector else ""
    lack = check_room(count, needed, what=what + where, fits=partial(labels_match, selector))
    return [f"the cluster's autoscaler is to bring nodes: {lack}"] if lack else []


def log_to_stderr() -> None:
    """A replica is an application of its own: Ray collects its stderr, and nothing else configures our loggers.

    Lines of the access log are JSON and nothing else.
    """
    for name, form in (
        ("serve", "%(asctime)s %(levelname)s %(name)s: %(message)s"),
        ("lts_ray", "%(asctime)s %(levelname)s %(name)s: %(message)s"),
        ("serve.access", "%(message)s"),
    ):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form))
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers[:] = [handler]
        logger.propagate = False
