"""Bad and odd requests against a running endpoint, while good streams go on: what breaks, and with which request."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer

from benchmarks.common.command import run_benchmark, shown_progress
from benchmarks.common.turns import Progress
from benchmarks.load.odd_request import OddRequest
from benchmarks.load.ray_endpoint import Endpoint, own_endpoint
from benchmarks.soak import Growth, growth, sampled
from lts_ray.cli.options import Model, Seed
from lts_ray.errors import LtsRayError
from lts_ray.pretrained import DEFAULT_MODEL
from serve.serve_args import ServeArgs

SCHEMA = 1
HANG_S = 10.0
GROWTH = 0.1
"""Of the replica's memory, as a share of its mean, from which it counts as not flat."""
GOOD_TOKENS = 48
PROMPTS = (
    "The state of the Union is",
    "We will",
    "Our economy",
    "In the last year",
    "My fellow Americans",
    "War",
    "I",
    "To",
)
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
BUSY = (429,)


@dataclass(kw_only=True)
class FuzzResult:
    requests: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    """Of the answers; "none" where none was waited for or none came."""
    good: int = 0
    """Good streams that ended with their text."""
    busy: int = 0
    """Good streams that were told to come again."""
    slowest_s: float = 0.0
    """The longest that one had to wait for a byte."""
    violations: list[str] = field(default_factory=list)
    memory: Growth | None = None

    @property
    def lines(self) -> list[str]:
        lines = [
            f"{self.requests} odd requests: "
            + ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common()),
            "answered: " + ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items())),
            f"{self.good} good streams unchanged, {self.busy} told to come again; longest wait {self.slowest_s:.1f} s",
        ]
        if self.memory is not None:
            lines.append(
                f"memory: {self.memory.mb_per_minute:+.2f} MB/min around {self.memory.mean_mb:.0f} MB, "
                f"{100 * self.memory.share:+.1f} % in {self.memory.minutes:.1f} minutes"
            )
        return [*lines, f"violations: {len(self.violations)}"]

    def to_json(self) -> dict[str, Any]:
        counts = {"kinds": dict(self.kinds), "statuses": dict(self.statuses)}
        return {"schema": SCHEMA, **vars(self), **counts, "memory": self.memory and asdict(self.memory)}


async def fuzz_endpoint(
    endpoint: Endpoint,
    *,
    numbers: Sequence[int],
    seed: int,
    streams: int = len(PROMPTS),
    together: int = 16,
    hang_s: float = HANG_S,
    progress: Progress = lambda done, total: None,
) -> FuzzResult:
    """numbers: of the requests to draw. streams: good ones all the time. together: odd ones at once. hang_s: what an
    odd one waits for a byte."""
    result = FuzzResult()
    left = iter(numbers)
    over = asyncio.Event()
    samples: list[tuple[float, int]] = []
    async with httpx.AsyncClient(base_url=endpoint.url, timeout=max(HANG_S, hang_s), trust_env=False) as client:
        models = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        wanted = [await _good(client, models[0], place) for place in range(streams)]  # alone, before anything is odd

        async def odd() -> None:
            for number in left:
                request = OddRequest.draw(seed, number, models)
                await _send(request, endpoint.url, result, hang_s=hang_s)
                progress(result.requests, len(numbers))

        async def good(place: int) -> None:
            while not over.is_set():
                text = await _good(client, models[0], place)
                if text is None:
                    result.busy += 1
                    await asyncio.sleep(0.2)
                elif text == wanted[place]:
                    result.good += 1
                else:
                    result.violations.append(f"good stream {place} gave {text!r} in place of {wanted[place]!r}")

        watching = [asyncio.create_task(sampled(samples, clock=monotonic, pid=endpoint.pid))] if endpoint.pid else []
        going = [asyncio.create_task(good(place)) for place in range(streams)]
        await asyncio.gather(*(odd() for _ in range(together)))
        over.set()
        await asyncio.gather(*going)
        for watcher in watching:
            watcher.cancel()
    result.memory = growth(samples)
    if result.memory is not None and result.memory.minutes > 1 and result.memory.share > GROWTH:
        result.violations.append(f"memory grows by {100 * result.memory.share:.1f} %")
    return result


async def _good(client: httpx.AsyncClient, model: str, place: int) -> str | None:
    """A good stream's text: greedy, or of a seed. None: the server is busy. What goes wrong is its text."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": PROMPTS[place % len(PROMPTS)],
        "max_tokens": GOOD_TOKENS,
        "stream": True,
    }
    body |= {"temperature": 0} if place % 2 else {"seed": place}
    text, done = "", False
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code in BUSY:
                return None
            if answer.status_code != 200:
                return f"status {answer.status_code}"
            async for line in answer.aiter_lines():
                done |= line == "data: [DONE]"
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    text += event["choices"][0]["text"] if event.get("choices") else f"<{line}>" * ("error" in event)
    except httpx.HTTPError as error:
        return f"{text}<{error!r}>"
    return text if done else f"{text}<cut off>"


async def _send(request: OddRequest, url: str, result: FuzzResult, *, hang_s: float) -> None:
    """Write it, read what is to be read, and judge it."""
    problem, received = None, bytearray()
    address = urlsplit(url)
    assert address.hostname is not None
    try:
        async with asyncio.timeout(max(HANG_S, hang_s)):
            reader, writer = await asyncio.open_connection(address.hostname, address.port or 80)
    except (OSError, TimeoutError) as error:
        result.violations.append(f"no connection ({error!r}) for {request.describe()}")
        return
    try:
        problem = await _exchange(request, reader, writer, received, result, hang_s=hang_s)
    except OSError:
        pass  # the server has closed the connection: what it said before counts
    finally:
        if request.resets:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    statuses = [int(status) for status in STATUS.findall(bytes(received)) if status != b"100"]
    result.requests += 1
    result.kinds[request.kind] += 1
    result.statuses.update(map(str, statuses) if statuses else ["none"])
    if any(status >= 500 for status in statuses) or b'"server_error"' in received:
        problem = f"it failed: {bytes(received[-400:])!r}"
    elif request.due and not statuses and problem is None:
        problem = "no answer"
    if problem is not None:
        result.violations.append(f"{problem} for {request.describe()}")


async def _exchange(
    request: OddRequest,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    received: bytearray,
    result: FuzzResult,
    *,
    hang_s: float,
) -> str | None:
    for part in request.writes:
        writer.write(part)
        with suppress(TimeoutError):  # a server that has refused reads no more
            await asyncio.wait_for(writer.drain(), hang_s)
        await asyncio.sleep(request.pause_s)
    if request.reads == "nothing":
        return None
    while True:
        began_s = monotonic()
        try:
            part = await asyncio.wait_for(reader.read(64 if request.reads == "slowly" else 1 << 16), hang_s)
        except TimeoutError:
            return f"no byte for {hang_s:g} s" if request.reads != "a little" else None
        result.slowest_s = max(result.slowest_s, monotonic() - began_s)
        if not part or request.reads == "a little":
            received += part
            return None
        received += part
        if request.reads == "slowly":
            await asyncio.sleep(0.01)


def fuzz(
    requests: Annotated[int, typer.Option(min=1, help="Odd requests.")] = 10_000,
    only: Annotated[int | None, typer.Option(help="Send this one request again, by its number.")] = None,
    streams: Annotated[int, typer.Option(min=0, help="Good streams that go on meanwhile.")] = len(PROMPTS),
    together: Annotated[int, typer.Option(min=1, help="Odd requests at once.")] = 16,
    model: Model = DEFAULT_MODEL,
    url: Annotated[str | None, typer.Option(help="A server that runs; default: one of its own, on Ray Serve.")] = None,
    pid: Annotated[int | None, typer.Option(help="With --url: the process whose memory is watched.")] = None,
    seed: Seed = 0,
) -> None:
    """Bad and odd requests, while good streams go on. Exit code 1 when one fails, hangs, or changes a good text."""
    if pid is not None and url is None:
        raise LtsRayError("--pid is the process of the server at --url: give both")
    numbers = range(requests) if only is None else [only]
    running = nullcontext(Endpoint(url, pid)) if url else own_endpoint(ServeArgs(model=model))
    with running as endpoint, shown_progress("odd requests") as progress:
        result = asyncio.run(
            fuzz_endpoint(endpoint, numbers=numbers, seed=seed, streams=streams, together=together, progress=progress)
        )
    print("\n".join([*result.violations, *result.lines]))
    print(json.dumps(result.to_json()))
    if result.violations:
        raise SystemExit(1)


if __name__ == "__main__":
    run_benchmark(fuzz)
