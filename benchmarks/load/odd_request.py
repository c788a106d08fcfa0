"""A request that no client should send, or sent in an odd way: what is written and how it is read, drawn by number."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from benchmarks.load.odd_body import CHAT, COMPLETIONS, good_fields, odd_body

HEADERS = (
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nConnection: close",
    b"Expect: 100-continue",
    b"Expect: something else",
    b"TE: trailers",
    b"X-Request-Id: \xff\xfe",
    b"X-Request-Id: " + b"a" * 5_000,
    b"X-Slo-Ttft-Ms: nan",
    b"X-Slo-Tpot-Ms: -1",
    b"X-Slo-E2e-Ms: 1e999\r\nX-Slo-E2e-Ms: 1",
    b"X-Slo-Ttft-Ms: 0.001\r\nX-Slo-Strict: true",
    b"X-Lts-Trace: true",
    b"X-Lts-Trace: maybe",
    b"X-Request-Timeout-Seconds: nonsense",
    b"X-Request-Disconnect-Disabled: ?1",
    b"Serve-Multiplexed-Model-Id: x",
    b"Content-Type: text/plain; charset=utf-16",
    b"Content-Encoding: gzip",
    b"Accept-Encoding: gzip, br",
    b"Accept: image/png",
    b"Authorization: Bearer \xe9",
    b"Origin: null",
    b"Cookie: " + b"a=b; " * 500,
    b"X-Long: " + b"b" * 70_000,
    b"X-Folded: a\r\n b",
    b"Bad Header",
    b": empty",
    b"Range: bytes=0-1",
)
ReadsWhat = Literal["all", "slowly", "a little", "nothing"]


@dataclass(frozen=True, kw_only=True)
class OddRequest:
    seed: int
    number: int
    kind: str
    writes: tuple[bytes, ...]
    pause_s: float = 0.0
    """Between the writes."""
    reads: ReadsWhat = "all"
    resets: bool = False
    """Ends with a reset in place of a close."""
    due: bool = True
    """An answer must come."""

    @classmethod
    def draw(cls, seed: int, number: int, models: Sequence[str]) -> OddRequest:
        """The same for the same arguments. models: names that the server knows."""
        rng = Random(f"{seed}/{number}")
        kind = rng.choices(tuple(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return cls(seed=seed, number=number, kind=kind, **KINDS[kind][1](rng, models))

    def describe(self) -> str:
        """All that a person needs to send it again."""
        written = b"".join(self.writes)
        shown = repr(written[:1500]) + (f" and {len(written) - 1500} bytes more" if len(written) > 1500 else "")
        return (
            f"request {self.number} ({self.kind}; {len(self.writes)} writes, reads {self.reads}): {shown}\n"
            f"  again: python -m benchmarks.fuzz --seed {self.seed} --only {self.number}"
        )


def _head(target: str, length: int | None, *extra: bytes, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}".encode("latin-1"), b"Host: a", b"Connection: close", *extra]
    if length is not None:
        lines.append(f"Content-Length: {length}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _path(rng: Random) -> str:
    return rng.choice((COMPLETIONS, CHAT))


def _whole(rng: Random, models: Sequence[str], *extra: bytes) -> bytes:
    path = _path(rng)
    body = odd_body(rng, models, path)
    return _head(path, len(body), *extra) + body


def _plain(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    return {"writes": (_whole(rng, models),)}


def _headed(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    chosen = rng.sample(HEADERS, rng.randint(1, 3))
    whole = _whole(rng, models, *chosen)
    return {"writes": (whole,), "due": len(whole) < 100_000}  # a bad head is refused, and what still comes then resets


def _routed(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    """Methods and targets of all kinds, with nothing behind them."""
    method = rng.choice(
        ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 90)
    )
    known = (
        COMPLETIONS,
        CHAT,
        "/v1/models",
        f"/v1/models/{models[0]}",
        "/health",
        "/metrics",
        "/openapi.json",
        "/docs",
    )
    odd = (
        "/",
        "//",
        "*",
        "a:443",
        "/%00",
        "/%ff?%ff=%",
        "/v1/models/%2e%2e/x",
        "/v1/completions/",
        "/" + "a" * 9_000,
        "/é",
    )
    target = rng.choice(known * 2 + odd)
    if rng.random() < 0.1:
        target = f"http://example.org{target}"
    version = rng.choice(("1.1", "1.1", "1.0", "1.2", "2.0", "0.9", "x"))
    return {"writes": (_head(target, 0, method=method, version=version),), "due": False}


def _chunked(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    path = _path(rng)
    body = odd_body(rng, models, path)[:100_000]
    size = max(1, len(body) // rng.randint(1, 9))
    chunks = [b"%x\r\n%s\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size)]
    end = rng.choice((b"0\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n", b"0\r\n\r\n", b"zz\r\n"))
    head = _head(path, None, b"Transfer-Encoding: chunked")
    return {"writes": (head, *chunks, end), "due": end.startswith(b"0")}


def _dripped(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    whole = _whole(rng, models)[:3_000]
    cuts = sorted({rng.randrange(1, len(whole)) for _ in range(rng.randint(1, 8))})
    parts = tuple(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    return {
        "writes": parts,
        "pause_s": rng.random() * 0.1,
        "due": False,
        "reads": "nothing" if len(whole) == 3_000 else "all",
    }


def _half(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    """The rest never comes; the client goes after a while."""
    whole = _whole(rng, models)
    part = whole[: rng.randrange(1, min(len(whole), 3_000))]
    return {
        "writes": (part, b""),
        "pause_s": rng.random(),
        "reads": "nothing",
        "resets": rng.random() < 0.5,
        "due": False,
    }


def _mislength(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    path = _path(rng)
    body = odd_body(rng, models, path)
    length = rng.choice(
        (b"-1", b"+5", b"1e3", b"5, 5", b"0x10", b"99999999999999999999999", b"", b"1\r\nContent-Length: 2")
    )
    return {"writes": (_head(path, None, b"Content-Length: " + length) + body,), "reads": "a little", "due": False}


def _garbage(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    first = rng.choice(
        (rng.randbytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\r\n" * 50, b"GET")
    )
    return {"writes": (first, b"\r\n\r\n"), "reads": "a little", "due": False}


def _pipelined(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    before = [_whole(rng, models).replace(b"Connection: close\r\n", b"", 1) for _ in range(rng.randint(1, 3))]
    return {"writes": (b"".join(before) + _whole(rng, models),)}


def _asking(rng: Random, models: Sequence[str]) -> bytes:
    """A good request with much to read."""
    path = _path(rng)
    fields = good_fields(rng, models, path) | {"max_tokens": 60, "stream": rng.random() < 0.7, "n": rng.randint(1, 3)}
    body = json.dumps(fields | ({"prompt": "the nation"} if path == COMPLETIONS else {})).encode()
    return _head(path, len(body)) + body


def _leaving(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    whole = _asking(rng, models)
    head, _, body = whole.partition(b"\r\n\r\n")
    writes = (whole,) if rng.random() < 0.5 else (head + b"\r\n\r\n", body)
    reads = rng.choice(("a little", "nothing"))
    return {"writes": writes, "pause_s": 0.02, "reads": reads, "resets": rng.random() < 0.5, "due": False}


def _slow_reader(rng: Random, models: Sequence[str]) -> dict[str, Any]:
    return {"writes": (_asking(rng, models),), "reads": "slowly", "resets": rng.random() < 0.5}


Draw = Callable[[Random, Sequence[str]], dict[str, Any]]
KINDS: dict[str, tuple[int, Draw]] = {
    "body": (40, _plain),
    "headers": (12, _headed),
    "route": (12, _routed),
    "chunks": (6, _chunked),
    "drip": (5, _dripped),
    "half": (6, _half),
    "length": (4, _mislength),
    "garbage": (3, _garbage),
    "pipeline": (4, _pipelined),
    "leave": (5, _leaving),
    "slow reader": (3, _slow_reader),
}
"""How often of 100 a kind is drawn, and by what."""
