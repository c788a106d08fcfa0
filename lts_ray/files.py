"""Files that are never half written: a temporary file beside the target, fsync, then rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lts_ray.errors import LtsRayError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; results are as readable as the folder they lie in
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read one JSON object; `what` names the file's role in the error, e.g. "frontier"."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LtsRayError(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LtsRayError(f"{what} {path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise LtsRayError(f"{what} {path} is not a JSON object but a {type(value).__name__}")
    return value


def read_yaml(path: Path, *, what: str) -> object:
    """Read a YAML file of any content; `what` names the file's role in the error."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LtsRayError(f"{what} {path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LtsRayError(f"{what} {path} cannot be read as YAML: {' '.join(str(error).split())}") from None


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one record and make it durable before returning."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path, *, what: str) -> list[dict[str, Any]]:
    """Read JSON Lines. A last line without its newline was cut off by a kill: it is left out, not an error."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise LtsRayError(f"{what} {path} has a line that is not JSON: {error}") from None


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(record)}\n" for record in records))
