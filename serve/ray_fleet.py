"""The Ray Serve application of a fleet: a deployment for each kind of node, behind one that has the routes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ray.serve import Application

from lts_ray.errors import LtsRayError
from serve.fleet.node_kind import NodeKind
from serve.ray_deployment import actor_options, check_kinds
from serve.serve_args import ServeArgs


def fleet_application(args: ServeArgs, kinds: Sequence[NodeKind]) -> Application:
    """Raises LtsRayError for arguments, files or kinds that cannot be served."""
    args.check()
    frontier = args.read_frontier()
    assert frontier is not None, "checked"
    own = [args.of_kind(kind) for kind in kinds]
    options = [actor_options(each, frontier.targets[kind.target_name]) for each, kind in zip(own, kinds, strict=True)]
    for line in check_kinds(kinds, options):
        print(f"warning: {line}", file=sys.stderr)
    raise LtsRayError("several kinds cannot be served yet")
