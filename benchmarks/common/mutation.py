"""Damage to files: bytes, encodings, and, of what is JSON or YAML, keys, types and numbers, all drawn from a generator.

What is drawn is what disks, editors, spreadsheets and people do, and what somebody does on purpose.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import yaml

ABSURD_NUMBERS = (
    "0",
    "-1",
    "1.5",
    "1e400",
    "-1e400",
    "NaN",
    "1e308",
    "1" * 30,
    "9" * 5_000,
    "-0.0",
    "0x10",
    "1_000",
    "",
)
ABSURD_VALUES: tuple[Any, ...] = (
    None, True, "", "x", "0", "1", [], {}, [[]], {"a": 1}, 0, -1, 1, 1.5, float("inf"), float("nan"), 10**30, -(10**30),
    100_000_000, 2**63, "\ud800", "a\0b", "é\n", "x" * 10_000, "../..", "/dev/full", [None], ["x"] * 50, [1e308, -1],
)  # fmt: skip
INSERTED = (b"\0", b"\n", b"\r", b"\xff", b"[" * 3_000, b'"', b",", b"&a [*a]", b"\xe2\x80\xa8")
NUMBER: re.Pattern[bytes] = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")


def mutated(content: bytes, name: str, rng: np.random.Generator) -> bytes:
    """One to three kinds of damage, one after another. name: the file's, whose ending says what it holds."""
    for _ in range(int(rng.integers(1, 4))):
        content = _pick(_damages(name), rng)(content, rng)
    return content


Damage = Callable[[bytes, np.random.Generator], bytes]


def _damages(name: str) -> Sequence[Damage]:
    plain: list[Damage] = [_flip, _cut, _truncate, _insert, _repeat, _encode, _number, _empty]
    if name.endswith((".json", ".jsonl")):
        return [*plain, *[_json_lines if name.endswith(".jsonl") else _json] * len(plain)]
    if name.endswith((".yaml", ".yml")):
        return [*plain, *[_yaml] * len(plain)]
    return (
        [*plain, *[_safetensors] * len(plain)] if name.endswith(".safetensors") else [*plain, *[_number] * len(plain)]
    )


def _pick(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _place(content: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(content) + 1))


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if damaged else 0):
        damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
    return bytes(damaged)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted((_place(content, rng), _place(content, rng)))
    return content[:first] + content[last:]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    what: bytes = _pick([*INSERTED, rng.bytes(8)], rng)
    return content[:place] + what + content[place:]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    place = int(rng.integers(len(lines)))
    return b"".join([*lines[:place], lines[int(rng.integers(len(lines)))], *lines[place:]])


def _encode(content: bytes, rng: np.random.Generator) -> bytes:
    text = content.decode("utf-8", errors="replace")
    encoding = _pick(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "crlf"], rng)
    if encoding == "crlf":
        return text.replace("\n", "\r\n").encode()
    return text.encode(encoding, errors="replace")


def _empty(content: bytes, rng: np.random.Generator) -> bytes:
    return bytes(_pick([b"", b"\n", b" ", b"null", b"[]", b"{}", b"0", b'"x"', b"---\n---\n"], rng))


def _number(content: bytes, rng: np.random.Generator) -> bytes:
    found = list(NUMBER.finditer(content))
    if not found:
        return content
    hit, number = _pick(found, rng), str(_pick(ABSURD_NUMBERS, rng))
    return content[: hit.start()] + number.encode() + content[hit.end() :]


def _json(content: bytes, rng: np.random.Generator) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return _flip(content, rng)
    return json.dumps(_changed(value, rng), indent=1).encode()


def _json_lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    place = int(rng.integers(max(1, len(lines) - 1)))
    lines[place] = _json(lines[place], rng).replace(b"\n", b" ")
    return b"\n".join(lines)


def _yaml(content: bytes, rng: np.random.Generator) -> bytes:
    try:
        text: str = yaml.safe_dump(_changed(yaml.safe_load(content), rng))
    except (yaml.YAMLError, ValueError, RecursionError):
        return _flip(content, rng)
    return text.encode("utf-8", errors="surrogatepass")


def _safetensors(content: bytes, rng: np.random.Generator) -> bytes:
    """Of its header, whose length stands before it; that length too, or not."""
    size = int.from_bytes(content[:8], "little")
    header = _json(content[8 : 8 + size], rng)
    stated = len(header) if rng.random() < 0.8 else int(_pick([0, 1, size, 2**31, 2**63], rng))
    return struct.pack("<Q", stated) + header + content[8 + size :]


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """One place within it, however deep, dropped, renamed, doubled or of another value."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return _pick(ABSURD_VALUES, rng)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = _pick(keys, rng)
    changed: Any = value.copy()
    if isinstance(value[key], dict | list) and rng.random() < 0.7:
        changed[key] = _changed(value[key], rng)
    elif (kind := int(rng.integers(4))) == 0:
        del changed[key]
    elif kind == 1 and isinstance(changed, dict):
        changed[_pick(["x", "", "a\nb", str(key).upper(), f"{key} "], rng)] = changed.pop(key)
    else:
        changed[key] = _pick([*ABSURD_VALUES, [value[key]], value[_pick(keys, rng)]], rng)
    return changed
