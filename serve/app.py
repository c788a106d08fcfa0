"""The Ray Serve application: `serve run serve.app:build model=DIR frontier=FILE num_replicas=2`.

One deployment holds the routes and the engine: a hop between two of them costs some 10 ms a request.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import ray
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from lts_ray.errors import LtsRayError
from lts_ray.files import reason_of
from lts_ray.measurement.on_ray.selector import labels_match
from lts_ray.ray_session import check_room
from lts_ray.record import read_record, record_json, worded
from lts_ray.runtime.kernel_library import warn_of_missing_kernels
from serve.metrics.ray_metrics import RayMetrics
from serve.metrics.ray_shared_metrics import RaySharedMetrics
from serve.ray_proxies import mend, mend_proxies
from serve.replica import build_replica
from serve.serve_args import ServeArgs
from serve.user_config import UserConfig

logger = logging.getLogger(__name__)

MAX_ONGOING_REQUESTS = 1_000_000
"""Of a replica, for Ray Serve: none waits in front of it. What runs and what waits is the engine's choice, once it has
arrived whole; a client that is slow to send or to read takes no place that another needs."""


@serve.ingress()
class ElasticServer:
    """A replica. Its ASGI app is built late, in the replica's process, around the engine."""

    def __init__(self, args: ServeArgs) -> None:
        _log_to_stderr()
        mend()  # where HAProxy stands in front, this process accepts the connections
        labels = ray.get_runtime_context().get_node_labels()
        self._replica = replica = build_replica(args, labels, observer=lambda name: RayMetrics(model_name=name))
        self._metrics = RaySharedMetrics.of_this_replica(
            replica.metrics, replica.service.engine.load, replica.service.name
        )
        self._metrics.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray's proxy adds the request's id to every answer."""
        return self._replica.app(answers_request_id=False, metrics=self._metrics.exposition)

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
        self._replica.service.engine.check()
        await mend_proxies()  # those that have come up since, too

    def __del__(self) -> None:
        replica = getattr(self, "_replica", None)  # absent when the constructor failed
        if replica is not None:
            replica.service.engine.stop()
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
    target = args.check()
    options: dict[str, Any] = {"num_cpus": args.threads or (1 if target is None else target.threads)}
    if target is not None and target.label_selector and not args.anywhere:
        options["label_selector"] = dict(target.label_selector)
    if target is not None and target.device == "cuda":
        options["num_gpus"] = 1
    if ray.is_initialized():  # as in `serve deploy`; `serve run` builds before it connects
        _check_placed(args, options)
    deployment = serve.deployment(
        ElasticServer,
        name="elastic",
        **_replicas(args),
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


def _replicas(args: ServeArgs) -> dict[str, Any]:
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


def _check_placed(args: ServeArgs, options: Mapping[str, Any]) -> None:
    """Raise LtsRayError for replicas that would wait for a node for ever."""
    needed = {"CPU": float(options["num_cpus"]), **({"GPU": 1.0} if "num_gpus" in options else {})}
    selector = options.get("label_selector", {})
    where = f" on nodes with {selector} (anywhere=true ignores that)" if selector else ""
    first = (args.autoscaling_config or {}).get("min_replicas", 1) if args.is_autoscaled else args.num_replicas
    check_room(first or 1, needed, what=f"replicas{where}", fits=partial(labels_match, selector))


def _log_to_stderr() -> None:
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


def _exit(error: LtsRayError) -> NoReturn:
    if ray.is_initialized() and ray.get_runtime_context().get_task_id() is not None:
        raise error  # `serve deploy` builds in a task, where SystemExit would read as a crashed worker
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
