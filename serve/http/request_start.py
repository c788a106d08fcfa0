"""When a request's first bytes came to a proxy in front, which the header `X-Request-Start` says: `t=` and Unix time.

A client can send it too. It takes time off its own budget only, and no more than a minute.
"""

from __future__ import annotations

import re

HEADER = "x-request-start"
FORM = re.compile(r"(?:t=)?(\d{10,16}(?:\.\d{1,9})?)")
OLDEST_S = 60.0


def passed_s(header: str, now: float) -> float:
    """Seconds since then. now: Unix time. 0 for what says nothing, or a moment that is to come or long past.

    Proxies write seconds (nginx), milliseconds (Heroku) or microseconds (Apache): the size says which.
    """
    if (said := FORM.fullmatch(header)) is None:
        return 0.0
    value = float(said[1])
    began = value / (1e6 if value >= 1e14 else 1e3 if value >= 1e11 else 1.0)
    return now - began if 0 <= now - began <= OLDEST_S else 0.0


def written(now: float) -> bytes:
    return f"t={now * 1e6:.0f}".encode()
