"""HTTP/1.1 as clients and proxies speak it: uvicorn's own protocol over h11, in place of the one over httptools.

httptools ends a message at an offer of an upgrade (`Upgrade: h2c`, which Java's client and `curl --http2` send), and so
loses its body; and it answers HTTP/1.0, which nginx speaks to its upstreams, in chunks.
"""

from __future__ import annotations

import asyncio
from time import time
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.http.request_start import HEADER, written


class HttpProtocol(H11Protocol):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.app = _plain(self.app)

    @classmethod
    def install(cls) -> None:
        """For every connection that this process accepts from now on, by servers that run already too."""

        def hand_over(accepted: HttpToolsProtocol, transport: asyncio.Transport) -> None:
            protocol = cls(accepted.config, accepted.server_state, accepted.app_state, accepted.loop)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

        HttpToolsProtocol.connection_made = hand_over  # type: ignore[assignment, method-assign]


def _plain(app: ASGIApp) -> ASGIApp:
    """With the moment when a request came, with the path alone where the client names the whole URL, as to a proxy, and
    without headers that are no text: Ray Serve decodes them as UTF-8, and fails."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = scope["root_path"].encode()
            target = scope["raw_path"].removeprefix(root)
            _, scheme, rest = target.partition(b"://")
            if scheme and not target.startswith(b"/"):
                raw_path = root + b"/" + rest.partition(b"/")[2]
                scope["raw_path"], scope["path"] = raw_path, unquote(raw_path.decode("ascii"))
            scope["headers"] = [header for header in scope["headers"] if _is_text(header[1])]
            if all(name != HEADER.encode() for name, _ in scope["headers"]):
                scope["headers"].append((HEADER.encode(), written(time())))
        await app(scope, receive, send)

    return plain


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
