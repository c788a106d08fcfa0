"""`lts-ray serve`: checks what Ray's `serve run` is to serve, and then is that command.

Ray builds the applications of a file on the cluster, where a typo becomes a traceback in a log and the command runs on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import ray
from pydantic import BaseModel, ValidationError
from ray._private.services import canonicalize_bootstrap_address
from ray.serve import scripts
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.schema import ServeDeploySchema

import serve
from lts_ray.device import device_here
from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.ray_haproxy import haproxy_here
from lts_ray.ray_session import NICENESS, check_cluster, check_folder
from lts_ray.record import read_record
from serve.serve_args import ServeArgs

BUILD = "serve.app:build"
ROOT = str(Path(serve.__file__).parents[1])


def command(arguments: Sequence[str]) -> list[str]:
    """Ray's command for these arguments, which are one file, or `key=value` of serve.app.build. Raises LtsRayError."""
    files = [argument for argument in arguments if "=" not in argument]
    if files and len(arguments) > 1:
        raise LtsRayError(f"give one YAML file, or only key=value; got {' '.join(arguments)}")
    host, port = "127.0.0.1", 8000
    if files:
        config = _read(Path(files[0]))
        given = [each.args for each in config.applications]
        host, port = config.http_options.host, config.http_options.port
    else:
        given = [dict(argument.split("=", 1) for argument in arguments)]
    read = [read_record(ServeArgs, dict(args)) for args in given]
    for args in read:
        args.check()
    check_folder()
    check_cluster(None)
    if canonicalize_bootstrap_address(None) is None:  # a Ray of its own is started
        for args in read:
            device_here(args.device)
        _check_port(host, port)
    # In place of the current folder, where Ray's command would look first.
    return ["run", "--app-dir", ROOT, *(files or [BUILD, *arguments])]


def _read(path: Path) -> Any:
    """Ray's own schema of a configuration."""
    raw = read_yaml(path, what="serve configuration")
    if not isinstance(raw, Mapping):
        raise LtsRayError(f"serve configuration {path} needs a list `applications:`")
    try:
        config = ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise LtsRayError(f"serve configuration {path}: {place}: {' '.join(first['msg'].split())}") from None
    except ValueError as error:
        raise LtsRayError(f"serve configuration {path}: {' '.join(str(error).split())}") from None
    _check_keys(raw, config, f"serve configuration {path}")
    if not config.applications:
        raise LtsRayError(f"serve configuration {path} has no applications")
    for each in config.applications:
        place = f"serve configuration {path}: application {each.name!r}"
        if each.import_path != BUILD:
            raise LtsRayError(
                f"{place}: import_path must be {BUILD}; got {each.import_path!r}, which Ray's `serve run` may serve"
            )
        if each.route_prefix is not None and not each.route_prefix.startswith("/"):
            raise LtsRayError(f"{place}: route_prefix must begin with a slash; got {each.route_prefix!r}")
    return config


def _check_keys(raw: Any, read: Any, place: str) -> None:
    """Raise LtsRayError for a key that Ray's schema does not have, at any depth: Ray leaves it out without a word."""
    if isinstance(raw, list) and isinstance(read, list):
        for number, (given, taken) in enumerate(zip(raw, read, strict=True)):
            _check_keys(given, taken, f"{place}[{number}]")
    elif isinstance(raw, Mapping) and isinstance(read, BaseModel):
        known = type(read).model_fields
        unknown = sorted(map(str, set(raw) - set(known)))
        if unknown:
            raise LtsRayError(f"{place} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        for key, value in raw.items():
            _check_keys(value, getattr(read, key), f"{place}.{key}")


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LtsRayError(
                f"port {port} of {host} cannot be served on: {error.strerror}; stop what is there, or give another "
                "http_options.port in a file"
            ) from None


def main() -> None:
    """Connects first: what is built then knows the nodes, and Ray's command takes the connection that there is."""
    if os.environ.get("RAY_ADDRESS", "").startswith("http"):
        del os.environ["RAY_ADDRESS"]  # where jobs are submitted: nothing that `serve run` can connect to
    os.environ.setdefault(NICENESS, "0")
    try:
        words = command(sys.argv[1:])
        sys.path.insert(0, ROOT)  # workers look where this process does
        with haproxy_here() if canonicalize_bootstrap_address(None) is None else nullcontext():
            _connect()
            signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler would abort this process
            scripts.cli.main(args=words, prog_name="serve")
    except LtsRayError as error:
        print(f"lts-ray: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _connect() -> None:
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or None, namespace=SERVE_NAMESPACE)
    except Exception as error:  # Ray has no common type for what goes wrong here
        raise LtsRayError(f"Ray cannot be used: {' '.join(str(error).split())}") from None


def _interrupt(number: int, frame: object) -> NoReturn:
    """As Ctrl-C, once: the shutdown that it begins is not to be broken off."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
