"""API keys, of which the server has only the hashes. `python -m serve.http.keys [NAME]` makes one.

A keys file has a line for each key: the hex SHA-256 of the key, and after a blank, if wanted, a name. Keys are
random and long, so that a plain hash of one cannot be searched for.
"""

from __future__ import annotations

import hmac
import re
import secrets
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.files import read_text

PREFIX = "lts-"
KEY_BYTES = 32
LINE = re.compile(r"([0-9a-fA-F]{64})(?:\s+(\S.*))?")


@dataclass(frozen=True)
class Keys:
    digests: tuple[bytes, ...] = field(repr=False)
    """Of the keys that are good. They stand in no message, no log and no repr."""

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Raises LtsRayError that names the line, and not what stands on it."""
        return cls(tuple(_digests(read_text(path, what="keys file").splitlines(), path)))

    def accept(self, key: str) -> bool:
        """Takes as long for a wrong key as for a right one, and as long for the first as for the last."""
        digest, accepted = _digest(key), False
        for good in self.digests:
            accepted |= hmac.compare_digest(digest, good)
        return accepted


def _digests(lines: Iterable[str], path: Path) -> Iterable[bytes]:
    digests = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise LtsRayError(
                f"keys file {path}, line {number}: must be a key's SHA-256 in hex, and after a blank its name if it "
                "has one; `python -m serve.http.keys NAME` prints such a line"
            )
        digests.append(bytes.fromhex(match[1]))
    if not digests:
        raise LtsRayError(
            f"keys file {path} has no key, so no client could use the server: `python -m serve.http.keys` makes one"
        )
    return digests


def make_key() -> str:
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def line_of(key: str, name: str = "") -> str:
    """What the keys file says of `key`."""
    return f"{_digest(key).hex()} {name}".rstrip()


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def main(arguments: Sequence[str]) -> int:
    if len(arguments) > 1 or any(name.startswith("-") or not name.isprintable() for name in arguments):
        print("usage: python -m serve.http.keys [NAME]", file=sys.stderr)
        return 2
    key = make_key()
    print(f"key, for the client alone, shown only now: {key}")
    print(f"line for the keys file: {line_of(key, *arguments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
