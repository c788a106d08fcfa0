"""The server that the endpoint's own tests ask."""

from tests.serve.conftest import one_torch_thread, server, service

__all__ = ["one_torch_thread", "server", "service"]
