"""Requests as they stand on the wire: what clients of other languages and proxies send without being asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.http.http_protocol import HttpProtocol
from serve.http.service import Service
from tests.serve.conftest import Server, running_server

BODY = json.dumps({"model": "tiny", "prompt": "the nation", "max_tokens": 4, "temperature": 0}).encode()
PARTS = (BODY[:7], BODY[7:])
CHUNKS = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in PARTS)
JAVA = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: h2c"
JSON = "Content-Type: application/json"


@pytest.fixture(scope="module")
def wire(service: Service) -> Iterator[Server]:
    """A server over httptools, as Ray's proxy is, that has begun before it is told of the other protocol."""
    with pytest.MonkeyPatch.context() as patches, running_server(service, http="httptools") as server:
        patches.setattr(HttpToolsProtocol, "connection_made", HttpToolsProtocol.connection_made)  # to restore it
        HttpProtocol.install()
        yield server


def post(headers: str, body: bytes | None = None, *, target: str = "/v1/completions", version: str = "1.1") -> bytes:
    """body: None for the whole one, by its length."""
    length = f"Content-Length: {len(BODY)}\r\n" if body is None else ""
    host = "" if "host:" in headers.lower() else "Host: a\r\n"
    return f"POST {target} HTTP/{version}\r\n{host}{length}{headers}\r\n\r\n".encode("latin-1") + (body or BODY)


def answers(server: Server, *sent: bytes, count: int = 1) -> list[tuple[int, bytes]]:
    """Statuses and bodies. sent: written one after the other; the connection stays open."""
    with socket.create_connection((server.host, server.port), timeout=600) as connection:
        for part in sent:
            connection.sendall(part)
        reader = connection.makefile("rb")
        return [read_answer(reader) for _ in range(count)]


def read_answer(reader: socket.SocketIO) -> tuple[int, bytes]:
    status, headers = 100, {}
    while status == 100:
        status = int(reader.readline().split()[1])
        lines = iter(reader.readline, b"\r\n")
        headers = dict(line.decode().lower().rstrip().split(": ", 1) for line in lines)
    assert "transfer-encoding" not in headers
    return status, reader.read(int(headers["content-length"])) if "content-length" in headers else reader.read()


def text_of(answer: tuple[int, bytes]) -> str:
    status, body = answer
    assert status == 200, body
    text: str = json.loads(body)["choices"][0]["text"]
    return text


@pytest.fixture(scope="module")
def text(wire: Server) -> str:
    return text_of(answers(wire, post(JSON))[0])


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(f"{JSON}\r\n{JAVA}"),
        post("Upgrade: h2c\r\nConnection: Upgrade"),
        post("Upgrade: TLS/1.0, HTTP/2.0\r\nConnection: keep-alive, Upgrade"),
        post(f"{JSON}\r\n{JAVA}\r\nTransfer-Encoding: chunked", CHUNKS + b"0\r\n\r\n"),
        post("Transfer-Encoding: chunked", CHUNKS + b"0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x-sum", CHUNKS + b"0\r\nx-sum: 1\r\n\r\n"),
        post("Expect: 100-continue"),
        post("expect: 100-Continue\r\nTransfer-Encoding: Chunked", CHUNKS + b"0\r\n\r\n"),
        post("TE: trailers\r\nConnection: TE, close"),
        post("Connection: close"),
        post("Accept-Encoding: gzip, deflate, br, zstd\r\nAccept: */*"),
        post("Content-Type: application/json; charset=utf-8"),
        post("Content-Type: Application/JSON;charset=UTF-8\r\nContent-Type: text/plain"),
        post("Content-Type: application/x-www-form-urlencoded"),
        post("Origin: "),
        post("Origin: null\r\nSec-Fetch-Mode: cors"),
        post("hOST: a\r\nACCEPT: text/event-stream"),
        post("x-request-id: caf\xe9\r\nUser-Agent: caf\xe9"),
        post("Host: example.org", target="http://example.org/v1/completions"),
        post("Host: example.org", target="HTTP://example.org:8000/v1/completions?a=1"),
        post("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nConnection: close", version="1.0"),
        post("X-Envoy-Expected-Rq-Timeout-Ms: 15000\r\nX-Request-Id: 5b8f5a3e-0000\r\nX-Forwarded-Proto: http"),
        post("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nTracestate: "),
    ],
)
def test_what_clients_send_by_default_is_served(wire: Server, text: str, request_bytes: bytes) -> None:
    assert text_of(answers(wire, request_bytes)[0]) == text


def test_a_client_may_wait_for_100_continue_and_write_its_body_in_pieces(wire: Server, text: str) -> None:
    head, _, _ = post("Expect: 100-continue").partition(BODY)
    with socket.create_connection((wire.host, wire.port), timeout=600) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        for byte in BODY:
            connection.sendall(bytes([byte]))
        assert text_of(read_answer(connection.makefile("rb"))) == text  # type: ignore[arg-type]


def test_pipelined_requests_are_answered_in_their_order(wire: Server, text: str) -> None:
    probe = b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n"
    first, second = answers(wire, post(JAVA) + post(JSON), count=2)
    assert [text_of(first), text_of(second)] == [text, text]
    with socket.create_connection((wire.host, wire.port), timeout=600) as connection:
        connection.sendall(probe + post("Connection: close"))
        received = connection.makefile("rb").read()
    assert received.count(b"HTTP/1.1 200") == 2
    assert text in received.decode()


def test_an_http_1_0_client_gets_its_stream_unchunked(wire: Server) -> None:
    body = json.dumps(json.loads(BODY) | {"stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((wire.host, wire.port), timeout=600) as connection:
        connection.sendall(head + body)
        received = connection.makefile("rb").read()
    _, _, events = received.partition(b"\r\n\r\n")
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "target", ["*", "example.org:443", "//", "http://", "http://a", "/%ff/%00", "/v1/completions/"]
)
def test_odd_targets_are_answered(wire: Server, target: str) -> None:
    status, _ = answers(wire, post(JSON, target=target))[0]
    assert status in {307, 400, 404, 405}
