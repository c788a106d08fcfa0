"""Files that are never half written: a temporary file beside the target, fsync, then rename."""

from __future__ import annotations

import json
import math
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


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON as its standard has it. Raises LtsRayError for a number that is not finite: JSON has no word for it."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        raise LtsRayError(f"a result is no number ({_not_finite(value)}): it cannot be written as JSON") from None


def _not_finite(value: object, name: str = "") -> str:
    """The first such number in what JSON can have, by its place; nothing where there is none."""
    if isinstance(value, Mapping):
        return next(filter(None, (_not_finite(part, f"{name}.{key}") for key, part in value.items())), "")
    if isinstance(value, list | tuple):
        return next(filter(None, (_not_finite(part, f"{name}.{place}") for place, part in enumerate(value))), "")
    return f"{name.lstrip('.')} is {value}" if isinstance(value, float) and not math.isfinite(value) else ""


def without_infinities(value: object) -> object:
    """value, of what JSON can have, with null for each number that is not finite: for what is shown, not kept."""
    if isinstance(value, Mapping):
        return {key: without_infinities(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_value(text: str | bytes) -> Any:
    """Raises json.JSONDecodeError, and that alone, for what is not JSON: NaN and Infinity are not, nor is 1e999."""

    def number(word: str) -> float:
        if math.isfinite(value := float(word)):
            return value
        raise ValueError(f"{word} is not finite")

    try:
        return json.loads(text, parse_constant=number, parse_float=number)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists thousands deep
        raise json.JSONDecodeError(str(error), "", 0) from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json_text(value, indent=1) + "\n")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read one JSON object; `what` names the file's role in the error, e.g. "frontier"."""
    try:
        value = json_value(path.read_text(encoding="utf-8"))
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
        file.write(json_text(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path, *, what: str) -> list[dict[str, Any]]:
    """Read JSON Lines. A last line without its newline was cut off by a kill: it is left out, not an error."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")[:-1]
    try:
        return [json_value(line) for line in lines]
    except json.JSONDecodeError as error:
        raise LtsRayError(f"{what} {path} has a line that is not JSON: {error}") from None


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(f"{json_text(record)}\n" for record in records))
