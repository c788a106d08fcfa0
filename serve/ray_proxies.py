"""What stands between clients and replicas, and is mended from there: Ray Serve has no settings for it."""

from __future__ import annotations

import asyncio
import logging
import re

import ray
from ray.serve._private import haproxy
from ray.serve._private.constants import SERVE_NAMESPACE, SERVE_PROXY_NAME
from ray.util import list_named_actors

from serve.http.http_protocol import HttpProtocol
from serve.http.request_start import HEADER

logger = logging.getLogger(__name__)

ANSWER_S = 5.0


MENDED = {
    "option splice-(request|response)": "",  # HAProxy 2.8 does not see that a client has left whose bytes it splices
    r"(frontend http_frontend\n.*\n)": rf"\1    http-request set-header {HEADER} "
    rf"t=%[date(0,ms)] if !{{ req.hdr({HEADER}) -m found }}\n",
}


def mend(proxy: object = None) -> None:
    """In a proxy's process, or a replica's; more than once does no harm. HAProxy's next configuration has it."""
    HttpProtocol.install()
    if HEADER not in haproxy.HAPROXY_CONFIG_TEMPLATE:
        for old, new in MENDED.items():
            haproxy.HAPROXY_CONFIG_TEMPLATE = re.sub(old, new, haproxy.HAPROXY_CONFIG_TEMPLATE)


async def mend_proxies() -> None:
    """All that run now. One that does not answer is left to the next call: a replica serves all the same."""
    try:
        async with asyncio.timeout(ANSWER_S):
            names = await asyncio.to_thread(_names)
            proxies = [await asyncio.to_thread(ray.get_actor, name, SERVE_NAMESPACE) for name in names]
            await asyncio.gather(*(proxy.__ray_call__.remote(mend) for proxy in proxies))
    except Exception as error:
        logger.warning("a proxy of Ray Serve is not mended: offers of an upgrade lose their bodies (%r)", error)


def _names() -> list[str]:
    actors = list_named_actors(all_namespaces=True)
    return [
        actor["name"]
        for actor in actors
        if actor["namespace"] == SERVE_NAMESPACE and actor["name"].startswith(SERVE_PROXY_NAME)
    ]
