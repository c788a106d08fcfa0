"""What load generators, harnesses and frameworks send, each in its own shape. None is run: the shapes are by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.runtime.build_runtime import build_runtime
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.http.api import create_app
from serve.http.service import Service
from serve.policies.capacity import Capacity
from serve.policies.named_policies import policy_named
from tests.serve.models import COSTS

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WORDS = [{"role": "user", "content": "the war"}]
USAGE = {"include_usage": True}
RUNNING = {"include_usage": True, "continuous_usage_stats": True}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "guidellm": (
        COMPLETIONS,
        {"prompt": "a", "stream": True, "stream_options": RUNNING, "max_tokens": 4, "stop": None, "ignore_eos": True},
    ),
    "guidellm chat": (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "the war"}]},
            ],
            "stream": True,
            "stream_options": RUNNING,
            "max_completion_tokens": 4,
            "stop": None,
            "ignore_eos": True,
        },
    ),
    "guidellm, of older versions": (
        CHAT,
        {"messages": WORDS, "max_tokens": 4, "max_completion_tokens": 4, "stop": None, "ignore_eos": True, "n": 1},
    ),
    "aiperf": (
        COMPLETIONS,
        {
            "prompt": ["a"],
            "stream": True,
            "max_tokens": 4,
            "stream_options": USAGE,
            "min_tokens": 4,
            "ignore_eos": True,
        },
    ),
    "aiperf chat": (
        CHAT,
        {
            "messages": [{"role": "user", "content": "a", "name": ""}],
            "stream": True,
            "max_completion_tokens": 4,
            "stream_options": RUNNING,
        },
    ),
    "aiperf chat, whole": (CHAT, {"messages": WORDS, "stream": False, "max_completion_tokens": 4}),
    "genai-perf": (
        CHAT,
        {"messages": WORDS, "stream": True, "max_tokens": 4, "min_tokens": 4, "ignore_eos": True, "temperature": 0.0},
    ),
    "vllm bench serve": (
        COMPLETIONS,
        {
            "prompt": "a",
            "repetition_penalty": 1.0,
            "max_tokens": 4,
            "logprobs": None,
            "stream": True,
            "stream_options": USAGE,
            "ignore_eos": True,
            "temperature": 0.0,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
        },
    ),
    "vllm bench serve chat": (
        CHAT,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "max_completion_tokens": 4,
            "stream": True,
            "stream_options": USAGE,
            "ignore_eos": True,
        },
    ),
    "sglang's bench_serving": (
        COMPLETIONS,
        {"prompt": "a", "temperature": 0.0, "best_of": 1, "max_tokens": 4, "stream": True, "ignore_eos": True},
    ),
    "inference-perf": (
        COMPLETIONS,
        {"prompt": "a", "max_tokens": 4, "ignore_eos": True, "stream": True, "stream_options": USAGE},
    ),
    "evalscope": (
        CHAT,
        {
            "messages": WORDS,
            "max_tokens": 4,
            "min_tokens": 4,
            "stream": True,
            "stream_options": USAGE,
            "seed": 0,
            "temperature": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop": [],
            "stop_token_ids": [],
            "n": 1,
        },
    ),
    "LangChain": (
        COMPLETIONS,
        {
            "prompt": ["the nation"] * 20,
            "temperature": 0.7,
            "top_p": 1,
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "n": 1,
            "best_of": 1,
            "logit_bias": {},
            "logprobs": None,
            "max_tokens": 4,
        },
    ),
    "LangChain chat": (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "a", "name": "ann"},
                {"role": "assistant", "content": "b", "tool_calls": []},
                {"role": "user", "content": [{"type": "text", "text": "c"}]},
            ],
            "stream": True,
            "stream_options": USAGE,
            "temperature": 0.7,
            "n": 1,
            "max_completion_tokens": 4,
            "stop": None,
            "user": "ann",
            "metadata": {"run": "1"},
            "store": False,
            "service_tier": "auto",
        },
    ),
    "LiteLLM": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}
            ],
            "max_tokens": 4,
            "temperature": None,
            "user": "ann",
            "parallel_tool_calls": None,
            "tool_choice": "auto",
            "metadata": {},
            "stream_options": None,
        },
    ),
    "llama-index": (COMPLETIONS, {"prompt": "a", "temperature": 0.1, "max_tokens": 4, "stream": True}),
    "llama-index chat": (
        CHAT,
        {"messages": WORDS, "temperature": 0.1, "max_tokens": 4, "stream": True, "stream_options": USAGE},
    ),
    "lm-eval": (
        COMPLETIONS,
        {"prompt": ["a", "b"], "max_tokens": 4, "temperature": 0, "stop": ["\n\n", "<|endoftext|>"], "seed": 1234},
    ),
    "lm-eval, tokenized": (
        COMPLETIONS,
        {"prompt": [[5, 6], [7]], "max_tokens": 4, "temperature": 0, "stop": ["<|endoftext|>"], "seed": 1234},
    ),
    "lm-eval chat": (
        CHAT,
        {"messages": WORDS, "max_tokens": 4, "temperature": 0, "stop": ["<|endoftext|>"], "seed": 1234},
    ),
    "lm-eval chat, of older versions": (
        CHAT,
        {"messages": [WORDS[0] | {"type": "text"}], "max_tokens": 4, "temperature": 0, "stop": ["a b"], "seed": 1234},
    ),
    "an assistant's answer sent back as vLLM gave it": (
        CHAT,
        {
            "messages": [
                *WORDS,
                {
                    "role": "assistant",
                    "content": "a",
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [],
                    "reasoning": None,
                },
                *WORDS,
            ],
            "max_tokens": 4,
        },
    ),
}


@pytest.fixture(scope="module")
def roomy(service: Service, model_dir: Path) -> Iterator[TestClient]:
    """Its queue is as long as an endpoint's by default."""
    engine = Engine(
        build_runtime(load_checkpoint(model_dir).model, n_blocks=16, threads=1),
        menu=service.engine.menu,
        times=LearnedTimes(COSTS, attainment=None),
        policy=policy_named("deadline"),
        eos_ids=frozenset(),
        capacity=Capacity(slots=2),
    )
    engine.start()
    with TestClient(create_app(replace(service, engine=engine))) as client:
        yield client
    engine.stop()


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", SHAPES)
def test_the_request_is_served(roomy: TestClient, name: str) -> None:
    path, body = SHAPES[name]
    response = roomy.post(path, json={"model": "tiny"} | body)
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        prompts = body["prompt"] if isinstance(body.get("prompt"), list) else [None]
        assert [choice["index"] for choice in response.json()["choices"]] == list(range(len(prompts)))
        assert response.json()["usage"]["completion_tokens"] == 4 * len(prompts)
        return
    chunks = events(response.text)
    if body.get("stream_options"):
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 4
    else:
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("n", [1, 2])
def test_the_usage_so_far_is_in_every_chunk_where_it_is_asked_for(roomy: TestClient, path: str, n: int) -> None:
    """As vLLM has it: of the chunk's own choice, and at last of all."""
    asked = {"prompt": ["the nation", "of the people and the war"]} if path == COMPLETIONS else {"messages": WORDS}
    body = {"model": "tiny", "max_tokens": 6, "temperature": 0, "n": n, "stream": True, **asked}
    chunks = events(roomy.post(path, json=body | {"stream_options": RUNNING}).text)
    plain = events(roomy.post(path, json=body | {"stream_options": USAGE}).text)
    *parts, whole = chunks
    assert whole["choices"] == []
    assert whole["usage"] == plain[-1]["usage"]
    prompts: dict[int, int] = {}
    taken: dict[int, int] = {}
    texts: dict[int, str] = {}
    for chunk in parts:
        (choice,), usage = chunk["choices"], chunk["usage"]
        index = choice["index"]
        prompts[index] = usage["prompt_tokens"]
        assert taken.get(index, 0) <= usage["completion_tokens"]
        taken[index] = usage["completion_tokens"]
        texts[index] = texts.get(index, "") + (choice.get("text") or choice.get("delta", {}).get("content", ""))
        assert bool(texts[index]) <= (taken[index] > 0)
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert sum(taken.values()) == whole["usage"]["completion_tokens"] == 6 * len(taken)
    assert sum(prompts[index] for index in prompts if index % n == 0) == whole["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "options", [{"continuous_usage_stats": True}, {"include_usage": False, "continuous_usage_stats": True}]
)
def test_without_the_usage_at_last_there_is_none_before(roomy: TestClient, options: dict[str, bool]) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 4, "stream": True, "stream_options": options}
    assert not any("usage" in chunk for chunk in events(roomy.post(COMPLETIONS, json=body).text))


def test_a_list_is_served_up_to_what_the_queue_holds(roomy: TestClient) -> None:
    def ask(prompts: int, n: int = 1) -> Any:
        return roomy.post(COMPLETIONS, json={"model": "tiny", "prompt": ["a"] * prompts, "n": n, "max_tokens": 1})

    assert ask(64).status_code == ask(4, n=16).status_code == 200
    for prompts, n, param in ((65, 1, "prompt"), (5, 16, "n"), (1, 17, "n")):
        error = ask(prompts, n).json()["error"]
        assert (error["param"], error["code"]) == (param, "limit_exceeded")
