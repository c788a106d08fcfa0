"""decision.c, where it was compiled, and from these sources; None elsewhere: Python then does the same, more slowly."""

from __future__ import annotations

try:
    from serve.policies import _decision
except ImportError:
    _decision = None  # type: ignore[assignment]

VERSION = 3
"""Of what it is called with, and of Request.terms."""
decision = _decision if getattr(_decision, "VERSION", None) == VERSION else None
