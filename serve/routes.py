"""The routes of the process that clients reach, around what runs their requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import time

from fastapi import FastAPI

from lts_ray.text.tokenizer import Tokenizer
from serve.engine.serving import Serving
from serve.http.api import create_app
from serve.http.delivery_times import DeliveryTimes
from serve.http.keys import Keys
from serve.http.playground import playground_router
from serve.http.service import Service
from serve.serve_args import ServeArgs


@dataclass(frozen=True, kw_only=True)
class Routes:
    args: ServeArgs
    service: Service
    keys: Keys | None
    """Of the clients that may use it; None: all may."""

    @classmethod
    def around(cls, serving: Serving, args: ServeArgs, tokenizer: Tokenizer) -> Routes:
        """Raises LtsRayError for a keys file that cannot be read."""
        service = Service(
            engine=serving,
            tokenizer=tokenizer,
            name=args.served_name,
            created=int(time()),
            limits=args.limits,
            deliveries=DeliveryTimes(attainment=args.attainment),
        )
        return cls(args=args, service=service, keys=args.read_keys())

    def app(self, metrics: Callable[[], tuple[bytes, str]], *, answers_request_id: bool = True) -> FastAPI:
        """metrics: what /metrics answers."""
        return create_app(
            self.service,
            keys=self.keys,
            cors_origins=self.args.cors_origins,
            answers_request_id=answers_request_id,
            metrics=metrics,
            extra_routes=[playground_router(self.service)] if self.args.playground else [],
        )
