"""What the quickstart asks of the endpoint, with which budgets, and how it shows the answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import median
from typing import Any

from openai import AsyncOpenAI, RateLimitError
from rich.console import Console
from rich.table import Table

from lts_ray.errors import LtsRayError
from lts_ray.precision import WEIGHT_BYTES

PROMPTS = (
    "The state of the Union is",
    "Our relations with foreign nations",
    "I recommend to the Congress",
    "The revenue of the Treasury for the fiscal year",
    "The people of the United States",
    "Peace with all nations",
    "The Army and the Navy",
    "The condition of the public lands",
)
MAX_TOKENS = 48
AT_ONCE = 8
TOGETHER = ("generous", "medium")
"""The budgets that are asked for with eight at once, too; the tight one leaves no room for company."""
TOO_TIGHT = "too tight"
FROM_SMALLEST, FROM_NARROWEST = 1.25, 1.5
"""Room above what can just be kept: alone, and with eight at once."""
TRIES = 3

Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What this endpoint needs for a whole response, in milliseconds, by its own account."""

    universal_alone: float
    """The universal model's time; so is the next one."""
    universal_together: float
    """The slowest of eight at once."""
    narrowest_together: float
    """The same of the narrowest submodel."""
    smallest: float
    """The smallest budget that it promises to keep for a request that is alone."""

    def budgets(self) -> dict[str, tuple[int, str]]:
        """Milliseconds, and why. All but the last can be kept alone, those of TOGETHER with eight at once, too."""
        tight, least = FROM_SMALLEST * self.smallest, FROM_NARROWEST * self.narrowest_together
        return {
            "generous": (
                ceil(max(4 * self.universal_alone, 2 * self.universal_together)),
                f"far more than the universal model takes: {self.universal_alone:,.0f} ms alone, "
                f"{self.universal_together:,.0f} ms with eight at once",
            ),
            "medium": (
                ceil(max(sqrt(self.universal_together * self.narrowest_together), least, tight)),
                f"with eight at once the universal model takes {self.universal_together:,.0f} ms, the narrowest "
                f"{self.narrowest_together:,.0f} ms: this is between, but {FROM_NARROWEST:g} times the latter at least",
            ),
            "tight": (
                ceil(tight),
                f"{FROM_SMALLEST:g} times the smallest that the endpoint promises to keep now, {self.smallest:,.1f} ms",
            ),
            "too tight": (
                max(1, int(self.smallest / 2)),
                "half of that smallest. With the header `x-slo-strict: true` it is refused at once, not answered late",
            ),
        }


def ask_all(url: str) -> list[Answer]:
    """No budget and each budget alone, those that leave room for it eight at a time, and one that cannot be kept."""
    return asyncio.run(_ask_all(url))


async def _ask_all(url: str) -> list[Answer]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        model, budgets = (await client.models.list()).data[0].id, (await endpoint_needs(url)).budgets()
        answers = [await _ask(client, model, PROMPTS[0], "none", None, why="the universal model answers")]
        for name, (budget, why) in budgets.items():
            if name != TOO_TIGHT:
                answers.append(await _ask(client, model, PROMPTS[0], name, budget, why=why))
        for name in TOGETHER:
            answers += await _ask_together(client, model, name, *budgets[name])
        answers.append(await _ask_strictly(client, model, TOO_TIGHT, *budgets[TOO_TIGHT]))
    return answers


async def endpoint_needs(url: str) -> Needs:
    """Of some tries the median, but of what must hold the longest. The endpoint learns from them what steps take."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        models = (await client.models.list()).data
        narrowest = min(models, key=lambda model: _read_bytes((model.model_extra or {})["lts"]))
        return await _needs(client, models[0].id, narrowest.id)


def _read_bytes(submodel: Answer) -> float:
    """What the weights of a submodel's layers take, which is what a step reads."""
    return float(submodel["decoder_params"]) * WEIGHT_BYTES[submodel.get("precision", "float32")]


async def _needs(client: AsyncOpenAI, universal: str, narrowest: str) -> Needs:
    async def together(model: str) -> list[float]:
        return [max(map(_took_ms, await _ask_together(client, model, "none"))) for _ in range(TRIES)]

    for model in (universal, narrowest):
        await _ask_together(client, model, "none")  # the first of all are slower than all that follow
    return Needs(
        universal_together=median(await together(universal)),
        narrowest_together=max(await together(narrowest)),
        universal_alone=median(
            [_took_ms(await _ask(client, universal, PROMPTS[0], "none", None)) for _ in range(TRIES)]
        ),
        smallest=max([(await _ask_strictly(client, universal, "none", 1))["smallest_ms"] for _ in range(TRIES)]),
    )


def _took_ms(answer: Answer) -> float:
    return float(answer["lts"]["measured_ms"]["e2e"])


async def _ask_together(
    client: AsyncOpenAI, model: str, name: str, budget_ms: float | None = None, why: str = ""
) -> list[Answer]:
    group = [_ask(client, model, prompt, name, budget_ms, why=why, at_once=AT_ONCE) for prompt in PROMPTS[:AT_ONCE]]
    return list(await asyncio.gather(*group))


async def _ask_strictly(client: AsyncOpenAI, model: str, name: str, budget_ms: float, why: str = "") -> Answer:
    """For what cannot be kept: the refusal, which says what could be."""
    try:
        answer = await _ask(client, model, PROMPTS[0], name, budget_ms, why=why, strict=True)
    except RateLimitError as error:
        refusal = error.body if isinstance(error.body, dict) else {}
        if "smallest_feasible_budget_ms" not in refusal:
            raise LtsRayError(f"the endpoint refused a request: {error.message}") from None
        smallest_ms = float(refusal["smallest_feasible_budget_ms"]["e2e"])
        return {"budget": name, "budget_ms": budget_ms, "why": why, "at_once": 1, "smallest_ms": smallest_ms}
    raise LtsRayError(
        f"the endpoint took a budget of {budget_ms:g} ms that it should refuse, and needed {_took_ms(answer):.0f} ms"
    )


async def _ask(
    client: AsyncOpenAI,
    model: str,
    prompt: str,
    name: str,
    budget_ms: float | None,
    *,
    why: str = "",
    at_once: int = 1,
    strict: bool = False,
) -> Answer:
    started = time.perf_counter()
    completion = await client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=MAX_TOKENS,
        temperature=0,
        extra_body={} if budget_ms is None else {"latency_budget_ms": budget_ms},
        extra_headers={"x-slo-strict": "true"} if strict else {},
    )
    client_ms = (time.perf_counter() - started) * 1000
    lts = getattr(completion, "lts", None)
    if not isinstance(lts, dict):
        raise LtsRayError("the endpoint's response has no `lts` field: is it lts-ray that answers there?")
    return {
        "budget": name,
        "budget_ms": budget_ms,
        "why": why,
        "at_once": at_once,
        "client_ms": client_ms,
        "lts": lts,
        "prompt": prompt,
        "text": completion.choices[0].text,
    }


def print_answers(answers: Sequence[Answer]) -> None:
    """Where the budgets come from, then a line for each request that was alone, and for each group of eight."""
    width = None if sys.stdout.isatty() else 140
    console = Console(width=width, highlight=False)
    print(f"Every budget is made for this endpoint, of what it says of itself. Responses have {MAX_TOKENS} tokens.")
    for answer in {answer["budget"]: answer for answer in answers}.values():
        ms = "" if answer["budget_ms"] is None else f" {answer['budget_ms']:,.0f} ms"
        console.print(f"  [bold]{answer['budget']}{ms}[/bold]: {answer['why']}", soft_wrap=True)
    table = Table(header_style="bold")
    for heading in ("budget", "ms", "at once", "submodel (tokens)", "predicted ms", "measured ms", "met"):
        table.add_column(
            heading, justify="left" if heading in {"budget", "submodel (tokens)"} else "right", no_wrap=True
        )
    table.add_column("text", max_width=36, no_wrap=True, overflow="ellipsis")
    groups: dict[tuple[str, int], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer["budget"], answer["at_once"]), []).append(answer)
    for (name, at_once), group in groups.items():
        budget = group[0]["budget_ms"]
        if (smallest_ms := group[0].get("smallest_ms")) is not None:
            table.add_row(
                name, f"{budget:,.0f}", str(at_once), f"none: try {smallest_ms:,.1f} ms", "–", "–", "refused", "–"
            )
            continue
        met = sum(bool(answer["lts"]["budget_met"]) for answer in group)
        table.add_row(
            name,
            "–" if budget is None else f"{budget:,.0f}",
            str(at_once),
            _submodels(group),
            _range([answer["lts"]["predicted_ms"]["e2e"] for answer in group]),
            _range([answer["lts"]["measured_ms"]["e2e"] for answer in group]),
            "–" if budget is None else f"{met} of {len(group)}",
            " ".join(f"{group[0]['prompt']}{group[0]['text']}".split()),
        )
    console.print(table)
    asked = [answer for answer in answers if answer["budget_ms"] is not None and "lts" in answer]
    kept = sum(bool(answer["lts"]["budget_met"]) for answer in asked)
    by_client = sum(answer["client_ms"] <= answer["budget_ms"] for answer in asked)
    console.print(
        f"{kept} of {len(asked)} budgets that can be kept were, {by_client} by this client's own clock. Each step of a "
        "response runs the best submodel that still leaves time enough, so its tokens may be of several: a wider one "
        "writes better, a narrower one faster."
    )


def _submodels(group: Sequence[Answer]) -> str:
    tokens: dict[str, int] = {}
    for answer in group:
        for name, count in answer["lts"]["tokens"].items():
            tokens[name] = tokens.get(name, 0) + count
    ordered = sorted(tokens.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} ({count})" for name, count in ordered[:2])
    return shown if len(ordered) <= 2 else f"{shown}, …"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f}–{high:,.0f}"
