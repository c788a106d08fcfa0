"""What the quickstart asks of the endpoint, with which budgets, and how it shows the answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from lts_ray.errors import LtsRayError
from lts_ray.frontier import read_frontier

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
PROMPT_TOKENS = 12
"""About what the prompts above have; budgets need not be exact."""
AT_ONCE = 8
OVERHEAD_MS = 30.0
"""Room for HTTP and scheduling, which the step costs leave out."""

Answer = dict[str, Any]


def budgets_ms(frontier_path: Path, *, target: str) -> dict[str, float]:
    """Whole-response budgets, from what this machine was measured to need.

    generous: four times the universal model alone. medium: the smallest submodel keeps it with eight at once.
    tight: the smallest keeps it, but only alone.
    """
    frontier = read_frontier(frontier_path)
    cost = frontier.targets[target].step_cost
    sizes = [sum(point.submodel.widths) for point in frontier.points]

    def response_ms(neurons: int, *, at_once: int) -> float:
        context = PROMPT_TOKENS + MAX_TOKENS // 2
        step = cost.decode_ms(neurons=[neurons] * at_once, context_tokens=at_once * context)
        return at_once * cost.prefill_ms(tokens=PROMPT_TOKENS, neurons=neurons) + (MAX_TOKENS - 1) * step

    return {
        "generous": round(4 * response_ms(max(sizes), at_once=1) + OVERHEAD_MS),
        "medium": round(2.2 * response_ms(min(sizes), at_once=AT_ONCE) + OVERHEAD_MS),
        "tight": round(1.2 * response_ms(min(sizes), at_once=1) + OVERHEAD_MS),
    }


def ask_all(url: str, frontier: Path, *, target: str) -> list[Answer]:
    """No budget and each budget alone, then each budget eight at a time."""
    return asyncio.run(_ask_all(url, budgets_ms(frontier, target=target)))


async def _ask_all(url: str, budgets: dict[str, float]) -> list[Answer]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        await _ask(client, model, PROMPTS[0], "none", None)  # the first request pays for warming up
        answers = [await _ask(client, model, PROMPTS[0], "none", None)]
        for name, budget in budgets.items():
            answers.append(await _ask(client, model, PROMPTS[0], name, budget))
        for name, budget in budgets.items():
            group = [_ask(client, model, prompt, name, budget, at_once=AT_ONCE) for prompt in PROMPTS[:AT_ONCE]]
            answers += await asyncio.gather(*group)
    return answers


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
        met = sum(bool(each["lts"]["budget_met"]) for each in group)
        table.add_row(
            name,
            "–" if budget is None else f"{budget:,.0f}",
            str(at_once),
            _submodels(group),
            _range([each["lts"]["predicted_ms"]["e2e"] for each in group]),
            _range([each["lts"]["measured_ms"]["e2e"] for each in group]),
            "–" if budget is None else f"{met} of {len(group)}",
            " ".join(f"{group[0]['prompt']}{group[0]['text']}".split()),
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _submodels(group: Sequence[Answer]) -> str:
    tokens: dict[str, int] = {}
    for each in group:
        for name, count in each["lts"]["tokens"].items():
            tokens[name] = tokens.get(name, 0) + count
    ordered = sorted(tokens.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} ({count})" for name, count in ordered[:2])
    return shown if len(ordered) <= 2 else f"{shown}, …"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f}–{high:,.0f}"
