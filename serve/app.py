"""The Ray Serve application: `serve run serve.app:build model=DIR frontier=FILE num_replicas=2`.

One deployment holds the routes and the engine: a hop between two of them costs some 10 ms a request.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from lts_ray.errors import LtsRayError
from lts_ray.files import reason_of
from lts_ray.record import read_record, record_json
from lts_ray.runtime.kernel_library import warn_of_missing_kernels
from serve.metrics.ray_metrics import RayMetrics
from serve.metrics.ray_shared_metrics import RaySharedMetrics
from serve.ray_deployment import (
    MAX_ONGOING_REQUESTS,
    actor_options,
    check_placed,
    count_options,
    gpus_there,
    log_to_stderr,
    unused_gpus,
)
from serve.ray_fleet import fleet_application
from serve.ray_proxies import mend, mend_proxies
from serve.replica import build_replica
from serve.routes import Routes
from serve.serve_args import ServeArgs
from serve.user_config import UserConfig

logger = logging.getLogger(__name__)


@serve.ingress()
class ElasticServer:
    """A replica. Its ASGI app is built late, in the replica's process, around the engine."""

    def __init__(self, args: ServeArgs) -> None:
        log_to_stderr()
        mend()  # where HAProxy stands in front, this process accepts the connections
        labels = ray.get_runtime_context().get_node_labels()
        self._replica = replica = build_replica(args, labels, observer=lambda name: RayMetrics(model_name=name))
        self._routes = Routes.around(replica.engine, args, replica.tokenizer)
        self._metrics = RaySharedMetrics.of_this_replica(replica.metrics, replica.engine.load, args.served_name)
        self._metrics.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray's proxy adds the request's id to every answer."""
        return self._routes.app(self._metrics.exposition, answers_request_id=False)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Ray Serve calls it when only `user_config` has changed, without a new replica.

        A config that does not fit changes nothing: to raise here would take down a replica that serves.
        """
        try:
            self._replica.reconfigure(user_config)
        except LtsRayError as error:
            logger.error("user_config is not taken over: %s", error)
        except Exception:
            logger.exception("user_config is not taken over")

    async def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises. It asks before the first request, and every 10 seconds."""
        self._replica.engine.check()
        await mend_proxies()  # those that have come up since, too

    def __del__(self) -> None:
        replica = getattr(self, "_replica", None)  # absent when the constructor failed
        if replica is not None:
            replica.engine.stop()
        if (metrics := getattr(self, "_metrics", None)) is not None:
            metrics.stop()


def build(args: Mapping[str, Any]) -> Application:
    """What `serve run` calls with the arguments of its command line. One line and exit code 2 for bad ones.

    Not annotated with ServeArgs: Ray would validate it itself, print a traceback and exit with 0.
    """
    try:
        given = read_record(ServeArgs, dict(args))
        built = application(given)
    except LtsRayError as error:
        _exit(error)
    except OSError as error:  # such as a path that is too long
        _exit(LtsRayError(f"{error.filename} cannot be read: {reason_of(error)}"))
    warn_of_missing_kernels()
    for line in given.warnings():
        print(f"warning: {line}", file=sys.stderr)
    return built


def application(args: ServeArgs) -> Application:
    """Raises LtsRayError for arguments or files that cannot be served."""
    kinds = args.node_kinds()
    if len(kinds) > 1:
        return fleet_application(args, kinds)
    args = args.of_kind(kinds[0]) if kinds else args
    lines = []
    if (target := args.check()) is None and args.device == "auto":
        given, args = args, args.decided(has_gpu=gpus_there())
        lines = unused_gpus(given) if args.device == "cpu" else []
    options, counts = actor_options(args, args.on_device(target)), count_options(args)
    for line in lines + check_placed(args, options):
        print(f"warning: {line}", file=sys.stderr)
    deployment = serve.deployment(
        ElasticServer,
        name="elastic",
        **counts,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options=options,
        user_config=record_json(UserConfig(policy=args.policy)),
        # A new version comes up beside the old one, which leaves when its last request has ended.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=args.drain_s,
        logging_config={"enable_access_log": False},  # serve.http.access_log writes a line a request, and says more
    )
    built: Application = deployment.bind(args)
    return built


def _exit(error: LtsRayError) -> NoReturn:
    if ray.is_initialized() and ray.get_runtime_context().get_task_id() is not None:
        raise error  # `serve deploy` builds in a task, where SystemExit would read as a crashed worker
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
