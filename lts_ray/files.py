"""Files: texts are read in one place, whatever wrote them, and nothing is ever half written.

What is written goes to a temporary file beside the target, fsync, then rename. What cannot be read or written is one
line for the user.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml

from lts_ray.errors import LtsRayError

YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C, where there is one: the other takes seconds for a few thousand brackets."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
DEEPEST, LARGEST = 100, 1_000_000
"""Levels and values of what people write: aliases make a YAML file of ten lines larger than any memory."""


def reason_of(error: Exception) -> str:
    """In words: without a number or a path, which the message has already."""
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While `path` is written: what the system refuses becomes one line that names it."""
    try:
        yield
    except OSError as error:
        raise LtsRayError(f"{path} cannot be written: {reason_of(error)}") from None


def make_folder(path: Path) -> None:
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_output(path: Path) -> None:
    """Raises LtsRayError where a folder `path` cannot be made or written into, as far as can be known before the work.

    Tried in the nearest folder that there is, which it leaves as it was.
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", path.parts[0] if path.parts else ""):  # a Path has one slash of two
        raise LtsRayError(
            f"{path} is a URL, and results are written into a folder, with locks and records added to files: give "
            "--output a folder, which may be on a disk that the nodes share"
        )
    with writing(path):
        nearest = next(place for place in (path, *path.parents) if place.exists())
        if not nearest.is_dir():
            raise LtsRayError(f"{nearest} is a file, not a folder: choose another --output")
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".lts-ray-") as file:
            file.write(bytes(4096))
            file.flush()


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """While a folder is filled that is not there or empty, else LtsRayError. What fails leaves it as it was."""
    check_output(path)
    is_there = path.exists()
    if is_there and any(path.iterdir()):
        raise LtsRayError(f"{path} is not empty; choose another --output")
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if is_there:
            path.mkdir(exist_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place when the block ends without an error."""
    make_folder(path.parent)
    with writing(path):
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


def read_text(path: Path, *, what: str) -> str:
    """A text as people and their programs write it: UTF-8 or, by its byte order mark, UTF-16; any ends of lines.

    path: `-` is stdin. what: the file's role in an LtsRayError, e.g. "frontier".
    """
    if path.is_char_device() and str(path) not in ("/dev/stdin", "/dev/tty", "/dev/null"):
        raise LtsRayError(f"{what} {path} cannot be read: it is a device, and may have no end")
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except FileNotFoundError:
        raise LtsRayError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise LtsRayError(f"{what} {path} cannot be read: {reason_of(error)}") from None
    try:
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LtsRayError(f"{what} {path} cannot be read as UTF-8: line {line} is not {error.encoding}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read one JSON object; `what` names the file's role in the error, e.g. "frontier"."""
    text = read_text(path, what=what)
    try:
        value = json_value(text)
        check_extent(value)
    except ValueError as error:
        raise LtsRayError(f"{what} {path} cannot be read as JSON: {reason_of(error)}") from None
    if not isinstance(value, dict):
        raise LtsRayError(f"{what} {path} is not a JSON object but a {type(value).__name__}")
    return value


def read_yaml(path: Path, *, what: str) -> object:
    """Read a YAML file of any content; `what` names the file's role in the error."""
    text = read_text(path, what=what)
    try:
        value: object = yaml.load(text, Loader=YAML)
        check_extent(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-01
        raise LtsRayError(f"{what} {path} cannot be read as YAML: {reason_of(error)}") from None
    return value


def check_extent(value: object) -> None:
    """Raises ValueError for what is nested too deeply, without end or into more values than a person writes."""
    level, seen = [value], 0
    for _ in range(DEEPEST):
        inner = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = list(islice(chain.from_iterable(inner), LARGEST))
        seen += len(level)
        if seen >= LARGEST:
            raise ValueError(f"{LARGEST:,} values or more")
    if level:
        raise ValueError(f"nested more than {DEEPEST} deep")


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one record and make it durable before returning. What fails leaves the file as it was."""
    line = f"{json_text(value)}\n".encode()
    with writing(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


def read_json_lines(path: Path, *, what: str) -> list[dict[str, Any]]:
    """Read JSON Lines, each an object. A last line without its newline was cut off by a kill: it is left out.

    Raises LtsRayError that names the line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(read_text(path, what=what).split("\n")[:-1], start=1):
        try:
            record = json_value(line)
        except json.JSONDecodeError as error:
            raise LtsRayError(f"{what} {path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise LtsRayError(f"{what} {path}, line {number}: not a JSON object but a {type(record).__name__}")
        records.append(record)
    return records


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(f"{json_text(record)}\n" for record in records))
