"""What the quickstart asks of the endpoint, with which budgets, and how it shows the answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from openai import AsyncOpenAI
from openai.types import Model
from rich.console import Console
from rich.table import Table

from lts_ray.errors import LtsRayError

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

Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What whole responses took, in milliseconds: at the universal width and the narrowest, alone and eight at once."""

    universal_alone: float
    universal_together: float
    narrowest_alone: float
    narrowest_together: float

    def budgets_ms(self) -> dict[str, float]:
        """Of whole responses.

        generous: four times the universal model alone. medium: with eight at once, between what the universal model and
        the narrowest keep. tight: the narrowest keeps it, but only alone.
        """
        return {
            "generous": round(4 * self.universal_alone),
            "medium": round(sqrt(self.universal_together * self.narrowest_together)),
            "tight": round(1.3 * self.narrowest_alone),
        }


def ask_all(url: str) -> list[Answer]:
    """No budget and each budget alone, then each budget eight at a time. Budgets are what this endpoint makes them."""
    return asyncio.run(_ask_all(url))


async def _ask_all(url: str) -> list[Answer]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        models = (await client.models.list()).data
        model = models[0].id
        budgets = (await _needs(client, model, _narrowest(models))).budgets_ms()
        answers = [await _ask(client, model, PROMPTS[0], "none", None)]
        for name, budget in budgets.items():
            answers.append(await _ask(client, model, PROMPTS[0], name, budget))
        for name, budget in budgets.items():
            answers += await _ask_together(client, model, name, budget)
    return answers


def _narrowest(models: Sequence[Model]) -> str:
    """The name that pins it."""
    return min(models, key=lambda model: sum((model.model_extra or {})["lts"]["widths"])).id


async def _needs(client: AsyncOpenAI, universal: str, narrowest: str) -> Needs:
    """The smaller of two tries each: the first pays for warming up."""

    async def alone(model: str) -> float:
        return min([_took_ms(await _ask(client, model, PROMPTS[0], "none", None)) for _ in range(2)])

    async def together(model: str) -> float:
        tries = [await _ask_together(client, model, "none", None) for _ in range(2)]
        return min(max(map(_took_ms, answers)) for answers in tries)

    return Needs(
        universal_alone=await alone(universal),
        universal_together=await together(universal),
        narrowest_alone=await alone(narrowest),
        narrowest_together=await together(narrowest),
    )


def _took_ms(answer: Answer) -> float:
    return float(answer["lts"]["measured_ms"]["e2e"])


async def _ask_together(client: AsyncOpenAI, model: str, name: str, budget_ms: float | None) -> list[Answer]:
    group = [_ask(client, model, prompt, name, budget_ms, at_once=AT_ONCE) for prompt in PROMPTS[:AT_ONCE]]
    return list(await asyncio.gather(*group))


async def _ask(
    client: AsyncOpenAI, model: str, prompt: str, name: str, budget_ms: float | None, *, at_once: int = 1
) -> Answer:
    started = time.perf_counter()
    extra = {} if budget_ms is None else {"latency_budget_ms": budget_ms}
    completion = await client.completions.create(
        model=model, prompt=prompt, max_tokens=MAX_TOKENS, temperature=0, extra_body=extra
    )
    lts = getattr(completion, "lts", None)
    if not isinstance(lts, dict):
        raise LtsRayError("the endpoint's response has no `lts` field: is it lts-ray that answers there?")
    return {
        "budget": name,
        "budget_ms": budget_ms,
        "at_once": at_once,
        "client_ms": (time.perf_counter() - started) * 1000,
        "lts": lts,
        "prompt": prompt,
        "text": completion.choices[0].text,
    }


def print_answers(answers: Sequence[Answer]) -> None:
    """One line for each request that was alone, one for each group of eight."""
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
    Console(width=None if sys.stdout.isatty() else 140).print(table)


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
