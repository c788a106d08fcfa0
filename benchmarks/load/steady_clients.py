"""Clients of an endpoint that ask the same things again and again, whose answers are known: what each came to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

PROMPTS = ("The state of the Union is", "We will", "Our economy", "In the last year")
TOKENS = 400
PAUSE_S = 0.05
"""Of a client, between two requests."""


@dataclass
class SteadyAnswer:
    """A greedy stream."""

    prompt: str
    began_s: float
    arrivals_s: list[float] = field(default_factory=list)
    """Of its tokens."""
    text: str = ""
    """With what went wrong, if something did."""
    report: dict[str, Any] = field(default_factory=dict)
    """The field `lts`; empty where it went wrong."""

    @property
    def ended_s(self) -> float:
        return max([self.began_s, *self.arrivals_s])

    @property
    def pause_s(self) -> float:
        """The longest time without a token."""
        return max((after - before for before, after in pairwise([self.began_s, *self.arrivals_s])), default=0.0)


class SteadyClients:
    """model: what is asked for, as the endpoint calls it. Where an answer takes `hang_s` for a byte, it goes wrong."""

    def __init__(self, url: str, model: str, *, hang_s: float = 60.0) -> None:
        self._client = httpx.Client(base_url=url, timeout=hang_s, trust_env=False)
        self._model, self._expected = model, dict[str, str]()

    def learn(self) -> None:
        """What each answer is, undisturbed."""
        self._expected = {prompt: self.ask(prompt).text for prompt in PROMPTS}

    def wrong(self, answers: Sequence[SteadyAnswer]) -> list[SteadyAnswer]:
        return [answer for answer in answers if answer.text != self._expected[answer.prompt]]

    def ask(self, prompt: str = PROMPTS[0], *, tokens: int = TOKENS, budget_ms: float | None = None) -> SteadyAnswer:
        body = {"model": self._model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        headers = {} if budget_ms is None else {"x-slo-e2e-ms": f"{budget_ms:.1f}"}
        answer = SteadyAnswer(prompt, time.monotonic())
        try:
            with self._client.stream("POST", "/v1/completions", json={**body, "stream": True}, headers=headers) as got:
                answer.text += f"<status {got.status_code}>" * (got.status_code != 200)
                for line in got.iter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line.removeprefix("data: "))
                        answer.text += event["choices"][0]["text"] if event.get("choices") else f"<{line}>"
                        answer.arrivals_s.append(time.monotonic())
                        answer.report = event.get("lts") or answer.report
        except httpx.HTTPError as error:
            answer.text += f"<{error!r}>"
        return answer

    @contextmanager
    def asking(self, *, budget_ms: float | None = None) -> Iterator[list[SteadyAnswer]]:
        """All prompts at once, again and again, while the block runs. Gives what has ended; after it, all has."""
        over, answers = threading.Event(), list[SteadyAnswer]()

        def go_on(prompt: str) -> None:
            while not over.wait(PAUSE_S):
                answers.append(self.ask(prompt, budget_ms=budget_ms))

        with ThreadPoolExecutor() as clients:
            going = [clients.submit(go_on, prompt) for prompt in PROMPTS]
            try:
                yield answers
            finally:
                over.set()
        for each in going:
            each.result()


def missed(answers: Sequence[SteadyAnswer]) -> float:
    """Of their budgets, in percent."""
    return 100 * sum(not answer.report.get("budget_met") for answer in answers) / len(answers)
