"""The wire, on the real engine with a tiny model and without Ray."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from httpx import Response

from lts_ray.decoding.plain_loop import generate
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.text.tokenizer import Tokenizer
from serve.engine.engine_errors import QueueFullError
from serve.http import api
from serve.http.answers import Answers
from serve.http.api import create_app
from serve.http.keys import Keys
from serve.http.request_limits import RequestLimits
from serve.http.service import Service

GREEDY = {"model": "tiny", "prompt": "the nation", "temperature": 0, "max_tokens": 8}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "the war"}], "temperature": 0, "max_tokens": 6}


def complete(client: TestClient, headers: dict[str, str] | None = None, **fields: Any) -> Response:
    return client.post("/v1/completions", json=GREEDY | fields, headers=headers)


def events(response: Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def expected(universal: MatFormer, service: Service, prompt: str, name: str, max_tokens: int) -> tuple[str, int]:
    tokens = list(
        generate(
            universal,
            service.tokenizer.encode(prompt),
            submodel=service.engine.menu.named[name].submodel,
            max_tokens=max_tokens,
            eos_ids=service.tokenizer.eos_ids,
        )
    )
    return service.tokenizer.decode(tokens), len(tokens)


@pytest.mark.parametrize(("model", "name"), [("tiny", "XL"), ("tiny:S", "S"), ("tiny:XL", "XL")])
def test_a_completion_is_what_the_named_submodel_generates(
    client: TestClient, service: Service, universal: MatFormer, model: str, name: str
) -> None:
    body = complete(client, model=model).json()
    text, tokens = expected(universal, service, "the nation", name, 8)
    assert body["choices"][0]["text"] == text
    assert body["choices"][0]["finish_reason"] == ("length" if tokens == 8 else "stop")
    assert body["usage"]["completion_tokens"] == tokens
    assert (body["object"], body["model"]) == ("text_completion", model)
    assert body["lts"]["submodel"] == name
    assert body["lts"]["tokens"] == {name: tokens}
    assert body["lts"]["budget_met"] is None
    assert body["lts"]["predicted_ms"].keys() == body["lts"]["measured_ms"].keys() == {"ttft", "tpot", "e2e"}


def test_prompts_as_text_as_ids_and_in_a_list_are_one_and_the_same(
    client: TestClient, service: Service, universal: MatFormer
) -> None:
    ids = service.tokenizer.encode("the nation")
    texts = {complete(client, prompt=prompt).json()["choices"][0]["text"] for prompt in (ids, [ids], ["the nation"])}
    assert texts == {expected(universal, service, "the nation", "XL", 8)[0]}


def test_a_long_text_is_tokenized_elsewhere_to_the_same_tokens(client: TestClient, service: Service) -> None:
    """Too long for the context, so the refusal counts them."""
    text = "the people " * 2000
    count = len(service.tokenizer.encode(text))
    assert f"prompt has {count} tokens" in complete(client, prompt=text).json()["error"]["message"]


MANY_LOGPROBS = {"n": 4, "max_tokens": 40, "ignore_eos": True, "logprobs": 20}


@pytest.mark.parametrize(
    ("path", "fields", "done"),
    [
        ("completions", {"prompt": "the people " * 2000}, {"parse": True, "encode": True}),
        ("completions", {"prompt": [1] * 9000}, {"parse": True}),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": ""}] * 400},
            {"parse": True, "render_chat": True},
        ),
        (
            "completions",
            {"n": 4, "max_tokens": 40, "ignore_eos": True, "logprobs": 20},
            {"parse": False, "encode": False, "whole": True},
        ),
        ("completions", {"n": 1, "logprobs": 2}, {"parse": False, "encode": False, "whole": False}),
    ],
    ids=["text", "ids", "messages", "log probabilities", "all short"],
)
def test_what_takes_long_is_done_where_no_stream_waits_for_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, Any], done: dict[str, bool]
) -> None:
    """done: what is to be done, and whether apart from the event loop."""
    seen: dict[str, bool] = {}

    def watch(owner: Any, name: str) -> None:
        work = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            seen[name] = seen.get(name, False) or not in_event_loop()
            return work(*given, **named)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((api, "parse"), (Tokenizer, "encode"), (Tokenizer, "render_chat"), (Answers, "whole")):
        watch(owner, name)
    base = GREEDY if path == "completions" else CHAT
    with TestClient(create_app(service)) as client:
        client.post(f"/v1/{path}", json=base | fields)
    assert {name: seen.get(name) for name in done} == done


def in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_a_chat_answer_has_its_own_shape_and_goes_on_as_long_as_it_fits(client: TestClient) -> None:
    body = client.post("/v1/chat/completions", json=CHAT | {"max_tokens": None}).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    whole = body["usage"]["total_tokens"]
    assert whole == 64 or body["choices"][0]["finish_reason"] == "stop"


def test_a_completion_without_a_limit_has_sixteen_tokens(client: TestClient) -> None:
    body = complete(client, max_tokens=None, prompt="of the people").json()
    assert body["usage"]["completion_tokens"] == 16 or body["choices"][0]["finish_reason"] == "stop"


def test_a_streamed_completion_is_the_whole_one_in_pieces(client: TestClient) -> None:
    whole = complete(client).json()
    response = complete(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert chunks[-1]["lts"]["tokens"] == whole["lts"]["tokens"]
    assert not any("usage" in chunk for chunk in chunks)


def test_a_streamed_chat_starts_with_the_role_and_ends_with_the_usage_if_asked(client: TestClient) -> None:
    fields = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(client.post("/v1/chat/completions", json=fields))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == sum(chunks[-1]["lts"]["tokens"].values())
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_ends_before_a_stop_string(client: TestClient, stream: bool) -> None:
    text = complete(client, max_tokens=20).json()["choices"][0]["text"]
    stop = text[5:8]
    response = complete(client, max_tokens=20, stop=["never in it", stop], stream=stream)
    chunks = events(response) if stream else [response.json()]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text[: text.index(stop)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_seed_gives_the_same_text_and_another_one_does_not(client: TestClient) -> None:
    texts = [
        complete(client, temperature=2, seed=seed, max_tokens=20).json()["choices"][0]["text"] for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_all_64_bits_of_a_seed_count_and_a_text_is_its_seeds_alone(client: TestClient) -> None:
    """Seeds that differ in a high bit alone, in their sign, and the smallest and largest ones that OpenAI takes.

    A second choice has the next seed: after the largest one comes the smallest."""
    seeds = [1, 1 + 2**32, 1 + 2**62, -1, 2**32 - 1, 2**63 - 1, -(2**63)]
    texts = [
        [choice["text"] for choice in complete(client, temperature=2, seed=seed, max_tokens=20, n=2).json()["choices"]]
        for seed in seeds * 2
    ]
    assert texts[: len(seeds)] == texts[len(seeds) :]
    assert len({text for pair in texts for text in pair}) == 2 * len(seeds) - 1


def test_budgets_choose_the_submodel_and_the_answer_tells_how_it_went(client: TestClient) -> None:
    """By COSTS a step of S costs 4.4 ms, of M 6.8 ms, of L 11.6 ms, of XL 21.2 ms."""
    chosen = {}
    for limit in (5, 10, 15, 1e6):
        report = complete(client, headers={"x-slo-tpot-ms": str(limit)}).json()["lts"]
        chosen[limit] = report["submodel"]
        assert report["budget_ms"] == {"tpot": limit}
        assert report["measured_ms"]["tpot"] <= limit + 0.01 or not report["budget_met"]  # delivery counts, too
    assert report["budget_met"]
    assert chosen == {5: "S", 10: "M", 15: "L", 1e6: "XL"}
    assert complete(client, latency_budget_ms=1e6).json()["lts"]["submodel"] == "XL"
    both = complete(client, {"x-slo-e2e-ms": "1e7"}, latency_budget_ms=1e6)
    assert both.json()["lts"]["budget_ms"] == {"e2e": 1e6}


@pytest.mark.parametrize("kind", ["ttft", "tpot"])
def test_llm_ds_names_of_the_budgets_mean_what_ours_do_and_the_tighter_holds(client: TestClient, kind: str) -> None:
    ours, theirs = f"x-slo-{kind}-ms", f"x-llm-d-slo-{kind}-ms"
    for headers, limit_ms in (
        ({theirs: "1e6"}, 1e6),
        ({ours: "1e6", theirs: "1e7"}, 1e6),
        ({ours: "1e7", theirs: "1e6"}, 1e6),
    ):
        report = complete(client, headers=headers).json()["lts"]
        assert (report["budget_ms"], report["budget_met"]) == ({kind: limit_ms}, True)
    refused = complete(client, {theirs: "0.0001", "x-slo-strict": "true"})
    assert (refused.status_code, kind in refused.json()["error"]["smallest_feasible_budget_ms"]) == (429, True)


@pytest.mark.parametrize(
    ("fields", "headers", "priority"),
    [
        ({}, {}, 0),
        ({"priority": None}, {}, 0),
        ({"priority": 5}, {}, 5),
        ({}, {"x-priority": "-5"}, -5),
        ({"priority": 5}, {"x-priority": "5"}, 5),
        ({"priority": 0}, {"x-priority": "0"}, 0),
    ],
    ids=str,
)
def test_a_priority_comes_by_body_or_header(
    client: TestClient,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    headers: dict[str, str],
    priority: int,
) -> None:
    submit, asked = service.engine.submit, []
    monkeypatch.setattr(service.engine, "submit", lambda request, **at: asked.append(request) or submit(request, **at))
    assert complete(client, headers, n=2, **fields).status_code == 200
    assert [request.priority for request in asked] == [priority, priority]


def test_an_impossible_budget_is_served_by_the_smallest_unless_it_is_strict(client: TestClient) -> None:
    assert complete(client, latency_budget_ms=0.5).json()["lts"]["submodel"] == "S"
    refused = complete(client, {"x-slo-strict": "true"}, latency_budget_ms=0.5)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    error = refused.json()["error"]
    assert error["code"] == "budget_infeasible"
    smallest = error["smallest_feasible_budget_ms"]["e2e"]
    # The wait between arrival and submission counts, so leave it room enough on any machine.
    accepted = complete(client, {"x-slo-strict": "true"}, latency_budget_ms=smallest + 600_000)
    assert accepted.status_code == 200


HUGE = 10**400
"""No float holds it."""
NOT_JSON = b'{"model": "tiny", "prompt": '
REFUSED: list[tuple[str, dict[str, Any] | bytes, dict[str, str], int, str | None]] = [
    ("not JSON", NOT_JSON, {}, 400, None),
    ("no object", b"[1]", {}, 400, None),
    ("no model", {"model": None}, {}, 400, "model"),
    ("unknown model", {"model": "gpt-4"}, {}, 404, "model"),
    ("unknown submodel", {"model": "tiny:XXL"}, {}, 404, "model"),
    ("unknown field", {"colour": 1}, {}, 400, "colour"),
    ("no choices", {"n": 0}, {}, 400, "n"),
    ("too many choices", {"n": 17}, {}, 400, "n"),
    ("choices of prompts", {"n": 9, "prompt": ["a", "b"]}, {}, 400, "n"),
    ("too many prompts", {"prompt": ["a"] * 17}, {}, 400, "prompt"),
    ("the best of more", {"best_of": 2}, {}, 400, "best_of"),
    ("too many logprobs", {"logprobs": 21}, {}, 400, "logprobs"),
    ("logprobs as a switch", {"logprobs": True}, {}, 400, "logprobs"),
    *[
        (f"huge {name}", {name: HUGE}, {}, 400, name)
        for name in ("max_tokens", "temperature", "top_p", "min_p", "presence_penalty", "latency_budget_ms", "logprobs")
    ],
    ("huge n", {"n": HUGE}, {}, 400, "n"),
    ("huge min_tokens", {"min_tokens": HUGE}, {}, 400, "min_tokens"),
    ("huge bias", {"logit_bias": {"1": HUGE}}, {}, 400, "logit_bias"),
    ("biased towards no number", b'{"model": "tiny", "prompt": "a", "logit_bias": {"1": NaN}}', {}, 400, "logit_bias"),
    ("huge id", {"prompt": [HUGE]}, {}, 400, "prompt"),
    ("half a surrogate pair as model", {"model": "\udfff"}, {}, 404, "model"),
    ("half a surrogate pair as field", {"\ud800": 1}, {}, 400, None),
    ("half a surrogate pair as option", {"stream_options": {"\ud800": 1}}, {}, 400, "stream_options"),
    ("very long field", {"a" * 10_000: 1}, {}, 400, "a" * 60),
    ("echo", {"echo": True}, {}, 400, "echo"),
    ("penalty", {"frequency_penalty": 2.5}, {}, 400, "frequency_penalty"),
    ("penalty as text", {"presence_penalty": "1"}, {}, 400, "presence_penalty"),
    ("no repetition", {"repetition_penalty": 0}, {}, 400, "repetition_penalty"),
    ("bias as list", {"logit_bias": [1]}, {}, 400, "logit_bias"),
    ("bias of a word", {"logit_bias": {"the": 1}}, {}, 400, "logit_bias"),
    ("bias too far", {"logit_bias": {"1": 101}}, {}, 400, "logit_bias"),
    ("bias beyond the vocabulary", {"logit_bias": {"300": 1}}, {}, 400, "logit_bias"),
    ("biases", {"logit_bias": {str(n): 1 for n in range(1025)}}, {}, 400, "logit_bias"),
    ("top_k", {"top_k": -2}, {}, 400, "top_k"),
    ("min_p", {"min_p": 1.5}, {}, 400, "min_p"),
    ("min_tokens beyond the limit", {"min_tokens": 9}, {}, 400, "min_tokens"),
    ("ignore_eos", {"ignore_eos": 1}, {}, 400, "ignore_eos"),
    ("many stops", {"stop": ["a"] * 17}, {}, 400, "stop"),
    ("long stop", {"stop": "a" * 257}, {}, 400, "stop"),
    ("no prompt", {"prompt": None}, {}, 400, "prompt"),
    ("empty prompt", {"prompt": ""}, {}, 400, "prompt"),
    ("empty ids", {"prompt": []}, {}, 400, "prompt"),
    ("one of two prompts is empty", {"prompt": ["a", ""]}, {}, 400, "prompt"),
    ("text and ids", {"prompt": ["a", [1]]}, {}, 400, "prompt"),
    ("ids and text", {"prompt": [1, "a"]}, {}, 400, "prompt"),
    ("negative id", {"prompt": [-1]}, {}, 400, "prompt"),
    ("id beyond the vocabulary", {"prompt": [300]}, {}, 400, "prompt"),
    ("half a surrogate pair", {"prompt": "\ud800"}, {}, 400, "prompt"),
    ("long prompt", {"prompt": [1] * 64}, {}, 400, "prompt"),
    ("long response", {"max_tokens": 63}, {}, 400, "max_tokens"),
    ("no tokens", {"max_tokens": 0}, {}, 400, "max_tokens"),
    ("tokens as text", {"max_tokens": "8"}, {}, 400, "max_tokens"),
    ("two limits", {"max_completion_tokens": 9}, {}, 400, "max_completion_tokens"),
    ("cold", {"temperature": -0.1}, {}, 400, "temperature"),
    ("hot", {"temperature": 2.1}, {}, 400, "temperature"),
    ("top_p", {"top_p": -0.1}, {}, 400, "top_p"),
    ("empty stop", {"stop": ""}, {}, 400, "stop"),
    ("stop number", {"stop": [1]}, {}, 400, "stop"),
    ("seed", {"seed": 2**63}, {}, 400, "seed"),
    ("stream options alone", {"stream_options": {"include_usage": True}}, {}, 400, "stream_options"),
    ("zero budget", {"latency_budget_ms": 0}, {}, 400, "latency_budget_ms"),
    ("negative budget", {"latency_budget_ms": -5}, {}, 400, "latency_budget_ms"),
    ("budget as text", {"latency_budget_ms": "fast"}, {}, 400, "latency_budget_ms"),
    ("NaN budget", b'{"model": "tiny", "prompt": "a", "latency_budget_ms": NaN}', {}, 400, "latency_budget_ms"),
    ("endless budget", b'{"model": "tiny", "prompt": "a", "latency_budget_ms": 1e999}', {}, 400, "latency_budget_ms"),
    ("budget of months", {"latency_budget_ms": 1e10}, {}, 400, "latency_budget_ms"),
    ("header of months", {}, {"x-slo-e2e-ms": "1e10"}, 400, "x-slo-e2e-ms"),
    ("zero header", {}, {"x-slo-ttft-ms": "0"}, 400, "x-slo-ttft-ms"),
    ("zero header of llm-d", {}, {"x-llm-d-slo-ttft-ms": "0"}, 400, "x-llm-d-slo-ttft-ms"),
    ("header of llm-d as text", {}, {"x-llm-d-slo-tpot-ms": "fast"}, 400, "x-llm-d-slo-tpot-ms"),
    ("priority as text", {"priority": "high"}, {}, 400, "priority"),
    ("priority beyond what JSON keeps", {"priority": 2**53}, {}, 400, "priority"),
    ("two priorities", {"priority": 1}, {"x-priority": "2"}, 400, "priority"),
    ("header of a priority as text", {}, {"x-priority": "high"}, 400, "x-priority"),
    ("half a priority", {}, {"x-priority": "0.5"}, 400, "x-priority"),
    ("header of a priority beyond what JSON keeps", {}, {"x-priority": str(2**53)}, 400, "x-priority"),
    ("NaN header", {}, {"x-slo-tpot-ms": "nan"}, 400, "x-slo-tpot-ms"),
    ("header as text", {}, {"x-slo-e2e-ms": "soon"}, 400, "x-slo-e2e-ms"),
    ("strictness", {}, {"x-slo-strict": "perhaps"}, 400, "x-slo-strict"),
    ("trace", {}, {"x-lts-trace": "yes"}, 400, "x-lts-trace"),
    ("large body", b" " * (1 << 20) + b"{}", {}, 413, None),
]


@pytest.mark.parametrize(
    ("fields", "headers", "status", "param"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_cannot_be_honoured_is_refused_in_one_line_that_names_it(
    client: TestClient, fields: dict[str, Any] | bytes, headers: dict[str, str], status: int, param: str, stream: bool
) -> None:
    if isinstance(fields, dict):
        streaming = {"stream": True} if stream and "stream_options" not in fields else {}
        content = json.dumps(GREEDY | fields | streaming).encode()
    else:
        content = fields
    response = client.post("/v1/completions", content=content, headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    assert param is None or param in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"n": 17}, "n"),
        ({"echo": True}, "echo"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "a"}, "prompt"),
    ],
    ids=str,
)
def test_chat_refuses_by_name_too(client: TestClient, fields: dict[str, Any], param: str) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_neutral_values_and_labels_are_accepted(client: TestClient) -> None:
    neutral = {"n": 1, "best_of": 1, "echo": False, "logprobs": None, "presence_penalty": 0.0, "logit_bias": {}}
    neutral |= {"user": "me", "top_k": -1, "min_p": 0, "min_tokens": 0, "ignore_eos": False, "suffix": None}
    assert complete(client, **neutral).json()["choices"] == complete(client).json()["choices"]
    chat = client.post("/v1/chat/completions", json=CHAT | {"logprobs": False, "response_format": {"type": "text"}})
    assert chat.status_code == 200


def test_a_message_may_be_in_parts_of_text_and_come_back_as_it_was_answered(client: TestClient) -> None:
    whole = client.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "war"}]
    messages = [{"role": "user", "content": parts}]
    assert (
        client.post("/v1/chat/completions", json=CHAT | {"messages": messages}).json()["choices"][0]["message"] == whole
    )
    longer = [*messages, whole | {"tool_calls": None}, {"role": "user", "content": "peace"}]
    assert client.post("/v1/chat/completions", json=CHAT | {"messages": longer}).status_code == 200


def test_todays_name_of_the_system_role_is_known(client: TestClient) -> None:
    def ask(role: str) -> Any:
        messages = [{"role": role, "content": "be brief"}, *CHAT["messages"]]
        return client.post("/v1/chat/completions", json=CHAT | {"messages": messages}).json()["choices"]

    assert ask("developer") == ask("system")


def test_a_bias_and_a_penalty_change_what_is_written(client: TestClient, service: Service) -> None:
    """That they do so as they should is the sampler's own test; here, that they reach it."""
    law = service.tokenizer.encode(" law")[0]
    assert complete(client, logit_bias={str(law): 100}).json()["choices"][0]["text"] == " law" * 8
    penalised = complete(client, logit_bias={str(law): 100}, frequency_penalty=2, presence_penalty=2, max_tokens=40)
    assert penalised.json()["choices"][0]["text"] == " law" * 40  # 100 outweighs 82
    plain = complete(client, max_tokens=20).json()["choices"]
    for penalty in ({"repetition_penalty": 2}, {"presence_penalty": 2}, {"frequency_penalty": 2}):
        assert complete(client, max_tokens=20, **penalty).json()["choices"] != plain


def test_a_response_goes_on_past_its_end_if_it_is_told_to(client: TestClient, service: Service) -> None:
    """The end-of-text token is made certain: at once, after three tokens, or never an end."""
    certain = {"logit_bias": {str(service.tokenizer.eos_id): 100}}
    for fields, tokens, reason in (
        ({}, 0, "stop"),
        ({"min_tokens": 3}, 3, "stop"),
        ({"ignore_eos": True}, 8, "length"),
    ):
        body = complete(client, **certain, **fields).json()
        assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (tokens, reason)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("min_tokens", [0, 1, 5])
def test_stop_strings_are_looked_for_from_min_tokens_on(
    client: TestClient, service: Service, min_tokens: int, stream: bool
) -> None:
    """The text is " law law law …": the first of them that ends beyond min_tokens stops it."""
    (law,) = service.tokenizer.encode(" law")
    fields = {"logit_bias": {str(law): 100}, "max_tokens": 8, "stop": [" law", "never"], "min_tokens": min_tokens}
    whole = complete(client, **fields).json()
    assert whole["usage"]["completion_tokens"] == min_tokens + 1
    chunks = events(complete(client, **fields, stream=True)) if stream else [whole]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " law" * min_tokens
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_one_likely_token_is_greedy_whatever_the_temperature(client: TestClient) -> None:
    greedy = complete(client).json()["choices"]
    for fields in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-9}, {"top_p": 0}, {"top_p": 0, "top_k": -1}):
        assert complete(client, temperature=2, **fields).json()["choices"] == greedy


def test_limits_are_the_servers_own(service: Service) -> None:
    limits = RequestLimits(max_body_bytes=200, max_prompt_tokens=3, max_n=2)
    with TestClient(create_app(replace(service, limits=limits))) as strict:
        assert complete(strict, prompt=[1, 2, 3], n=2).status_code == 200
        assert complete(strict, prompt=[1, 2, 3, 4]).json()["error"]["param"] == "prompt"
        assert complete(strict, prompt="a", n=3).json()["error"]["param"] == "n"
        assert complete(strict, prompt="a" * 200).status_code == 413


def test_a_trace_says_chunk_by_chunk_who_wrote_it(client: TestClient) -> None:
    """The policy may change the submodel in the middle: whatever it did, the chunks add up to the report."""
    headers = {"x-slo-tpot-ms": "5", "x-lts-trace": "true"}
    chunks = events(complete(client, headers, stream=True, max_tokens=20, ignore_eos=True))
    report, traces = chunks[-1]["lts"], [chunk["lts"] for chunk in chunks[:-1]]
    assert all(trace.keys() == {"submodel", "tokens", "at_ms"} for trace in traces)
    told: Counter[str] = Counter()
    for trace in traces:
        told[trace["submodel"]] += trace["tokens"]
    assert told == report["tokens"]
    assert told.total() == 20
    times = [trace["at_ms"] for trace in traces]
    assert times == sorted(times)
    assert times[-1] <= report["measured_ms"]["e2e"]


@pytest.mark.parametrize("bad", [{"max_n": 0}, {"max_body_bytes": -1}, {"max_prompt_tokens": 0}], ids=str)
def test_limits_that_leave_nothing_are_refused_by_name(bad: dict[str, int]) -> None:
    with pytest.raises(LtsRayError, match=next(iter(bad))):
        RequestLimits(**bad)


def test_models_lists_every_name_that_can_be_asked_for(client: TestClient, service: Service) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["tiny", "tiny:S", "tiny:M", "tiny:L", "tiny:XL"]
    told = client.get("/v1/models/tiny:S").json()["lts"]
    option = service.engine.menu.named["S"]
    assert told == {"submodel": "S", "widths": [8, 8, 8], "decoder_params": option.decoder_params, "loss": option.loss}
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/tiny", "/health"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "POST", "OPTIONS", "TRACE"])
def test_a_method_that_a_route_does_not_have_gets_the_same_shape(client: TestClient, path: str, method: str) -> None:
    own = "POST" if path.endswith("completions") else "GET, HEAD"
    if method in own:
        return
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == own
    if method != "HEAD":
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/tiny", "/health", "/metrics", "/page", "/openapi.json", "/docs"]
)
def test_head_is_answered_where_get_is(service: Service, path: str) -> None:
    page = APIRouter()
    page.add_api_route("/page", lambda: "open")
    with TestClient(create_app(service, metrics=lambda: (b"lts 1\n", "text/plain"), extra_routes=[page])) as client:
        get, head = client.get(path), client.head(path)
    assert head.status_code == get.status_code == 200
    assert {**head.headers, "x-request-id": ""} == {**get.headers, "x-request-id": ""}


ORIGIN = "https://page.example"


@pytest.fixture(scope="module")
def shared(service: Service) -> Iterator[TestClient]:
    """Only that origin's pages may use it, with a key."""
    keys = Keys((sha256(b"lts-key").digest(),))
    app = create_app(service, keys=keys, cors_origins=(ORIGIN,))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_without_the_setting_no_page_of_another_origin_may_read_an_answer(client: TestClient) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    for response in (client.options("/v1/completions", headers=asked), complete(client, {"Origin": ORIGIN})):
        assert [name for name in response.headers if name.startswith("access-control")] == []


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_a_pages_preflight_is_answered_without_a_key(shared: TestClient, method: str) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-slo-ttft-ms,x-stainless-lang",
    }
    response = shared.options("/v1/completions", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert method in response.headers["access-control-allow-methods"]
    assert set(asked["Access-Control-Request-Headers"].split(",")) <= set(
        response.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    )
    stranger = shared.options("/v1/completions", headers=asked | {"Origin": "https://other.example"})
    assert stranger.status_code == 400
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 200), ({"stream": True}, 200), ({"max_tokens": 0}, 400), ({"model": "none"}, 404), ({"seed": 1}, 500)],
)
def test_every_answer_says_that_the_page_may_read_it(
    shared: TestClient, service: Service, fields: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 500:
        monkeypatch.setattr(type(service.engine), "submit", lambda *_, **__: 1 / 0)
    response = complete(shared, {"Origin": ORIGIN, "Authorization": "Bearer lts-key"}, **fields)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN
    exposed = response.headers["access-control-expose-headers"].lower()
    assert {"x-request-id", "retry-after"} <= set(exposed.replace(" ", "").split(","))
    assert "x-request-id" in response.headers
    assert complete(shared, {"Origin": ORIGIN}).headers["access-control-allow-origin"] == ORIGIN, "the 401 too"
    assert "access-control-allow-origin" not in complete(shared, {"Origin": ""}).headers


def test_an_unknown_route_gets_the_same_shape(client: TestClient) -> None:
    response = client.get("/v1/nothing")
    assert response.status_code == 404
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_metrics_are_what_the_app_was_given(service: Service, client: TestClient) -> None:
    assert client.get("/metrics").status_code == 404
    with TestClient(create_app(service, metrics=lambda: (b"lts 1\n", "text/plain; version=0.0.4"))) as counted:
        response = counted.get("/metrics")
    assert (response.content, response.headers["content-type"]) == (b"lts 1\n", "text/plain; version=0.0.4")


def test_a_bug_is_one_line_with_the_requests_id(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(service.engine), "submit", lambda *_, **__: 1 / 0)
    response = complete(client, {"x-request-id": "abc-2"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "abc-2")
    assert response.json()["error"]["type"] == "server_error"
    assert "division" not in response.text


def test_health_says_what_runs(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_the_request_id_is_echoed_or_made(client: TestClient) -> None:
    assert complete(client, {"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = complete(client, {"x-request-id": "no spaces, please"}, prompt="").headers["x-request-id"]
    assert len(made) == 32


@pytest.mark.parametrize("refused", [False, True])
def test_a_request_is_on_its_way_until_it_is_queued_or_refused(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """The engine's first step waits for those that are."""
    submit, coming = service.engine.submit, []

    def watched(request: Any, *, arrived_s: float) -> Any:
        coming.append(service.engine.hold._coming)
        if refused:
            raise QueueFullError(1, retry_after_s=1)
        return submit(request, arrived_s=arrived_s)

    monkeypatch.setattr(service.engine, "submit", watched)
    status = client.post("/v1/completions", json={"model": "tiny", "prompt": "the", "max_tokens": 1}).status_code
    assert status == (429 if refused else 200)
    assert coming == [1]
    assert service.engine.hold._coming == 0
