"""What passes between an ingress and a replica: a JSON object a line, each with one key that says what it is.

From the ingress: hello, submit, cancel, config, release. From the replica: card, report, events. An event is a list:
the number that the ingress gave to the request, a letter, and what the letter needs. Moments are by the replica's
clock. Nothing is unpickled, so a stranger on the network can at worst say nonsense.
"""

from __future__ import annotations

import json
from asyncio import StreamReader
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from serve.engine.response import Admitted, Ended, Event, Placed, ResponseFailed, Token
from serve.fleet.replica_card import ReplicaCard, ReplicaReport
from serve.policies.budget import Timing
from serve.policies.expectation import Expectation
from serve.policies.request import Request

MAX_FRAME_BYTES = 2**26
"""Of a prompt with its tokens as text, there are far fewer."""
REQUESTS, CARDS, REPORTS = TypeAdapter(Request), TypeAdapter(ReplicaCard), TypeAdapter(ReplicaReport)
LOST, BUSY = "x", "b"
"""The letters of a request that this replica cannot end, though another one may: BUSY, that it has not even taken."""
TIMES = ("ttft_ms", "tpot_ms", "e2e_ms")


def frame(key: str, value: object, **more: object) -> bytes:
    return json.dumps({key: value, **more}, separators=(",", ":")).encode() + b"\n"


async def read_frame(reader: StreamReader) -> dict[str, Any] | None:
    """None at the end of the connection. Raises ValueError for what is no frame, OSError where the network fails."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        return None
    read = json.loads(line)
    if not isinstance(read, dict):
        raise ValueError("a frame is a JSON object")
    return read


def adapted(adapter: TypeAdapter[Any], value: object) -> Any:
    """Plain JSON of a Request, a card or a report."""
    return adapter.dump_python(value, mode="json", warnings=False)


def event_json(number: int, event: Event) -> list[Any]:
    match event:
        case Token():
            plain = [number, "t", event.id, event.submodel, event.at_s]
            return plain if event.logprob is None else [*plain, event.logprob, event.top]
        case Admitted():
            return [number, "a", event.submodel, event.at_s, _expectation_json(event.predicted)]
        case Ended():
            return [number, "e", event.reason, event.at_s]
        case ResponseFailed():
            return [number, "f", event.message]
        case Placed():
            raise TypeError("replicas do not place requests")


def read_event(event: list[Any], offset_s: float) -> Token | Admitted | Ended | ResponseFailed:
    """offset_s: of this clock before the replica's."""
    match event[1:]:
        case ["t", id, submodel, at_s]:
            return Token(id, submodel, at_s + offset_s)
        case ["t", id, submodel, at_s, logprob, top]:
            return Token(id, submodel, at_s + offset_s, logprob, tuple((token, value) for token, value in top))
        case ["a", submodel, at_s, predicted]:
            return Admitted(submodel, _read_expectation(predicted), at_s + offset_s)
        case ["e", reason, at_s]:
            return Ended(reason, at_s + offset_s)
        case ["f", message]:
            return ResponseFailed(message)
    raise ValueError(f"no such event: {event}")


def _expectation_json(expected: Expectation) -> list[Any]:
    timings = (expected.forecast, expected.likely, expected.low, expected.high)
    return [expected.waited_ms, *([getattr(timing, name) for name in TIMES] for timing in timings)]


def _read_expectation(values: list[Any]) -> Expectation:
    forecast, likely, low, high = (Timing(**dict(zip(TIMES, each, strict=True))) for each in values[1:])
    return Expectation(forecast=forecast, waited_ms=values[0], likely=likely, low=low, high=high)


def read_card(value: object) -> ReplicaCard:
    """Raises ValueError."""
    card: ReplicaCard = CARDS.validate_json(json.dumps(value))  # its records take JSON's lists, but not Python's
    return card


def read_request(value: Mapping[str, Any]) -> Request:
    """Raises ValueError."""
    request: Request = REQUESTS.validate_python(value)
    return request
