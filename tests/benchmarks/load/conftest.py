"""The server that the endpoint's own tests ask."""

from tests.serve.conftest import gate, one_torch_thread, server, service

__all__ = ["gate", "one_torch_thread", "server", "service"]
