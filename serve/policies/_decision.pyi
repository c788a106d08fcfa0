"""decision.c, which says above each function what it takes and gives."""

from typing import Any

VERSION: int

def __getattr__(name: str) -> Any: ...
