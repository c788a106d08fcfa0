"""Several choices and prompts in one request, and log probabilities: on the real engine with a tiny model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from lts_ray.models.matformer.matformer import MatFormer
from serve.engine.response import Response
from serve.http.request_schemas import CompletionRequest, RequestHeaders
from serve.http.service import Service
from serve.policies.request import Request

PROMPTS = ["the nation", "of the people", "war"]
DRAWN = {"model": "tiny", "prompt": PROMPTS[0], "temperature": 1.5, "seed": 40, "max_tokens": 10}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "the war"}], "temperature": 1, "seed": 3}


def ask(client: TestClient, path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    response = client.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: TestClient, path: str = "/v1/completions", **fields: Any) -> list[dict[str, Any]]:
    response = client.post(path, json=fields | {"stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_each_choice_is_what_its_seed_alone_would_give(client: TestClient) -> None:
    body = ask(client, **DRAWN, n=4)
    alone = [ask(client, **DRAWN | {"seed": 40 + n}) for n in range(4)]
    assert [choice["text"] for choice in body["choices"]] == [each["choices"][0]["text"] for each in alone]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in body["choices"]}) > 1
    assert body["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == sum(each["usage"]["completion_tokens"] for each in alone)


@pytest.mark.parametrize("leaves_after", [1, 2, 3])
def test_the_event_loop_gets_its_turn_between_the_choices_of_a_request(
    service: Service, monkeypatch: pytest.MonkeyPatch, leaves_after: int
) -> None:
    """Judging one takes a while. A client that leaves in the middle leaves nothing behind."""
    body = CompletionRequest.model_validate(DRAWN | {"n": 3})
    queued: list[int] = []
    cancelled: list[str] = []

    def submit(request: Request, *, arrived_s: float) -> Response:
        queued.append(turns)
        return Response(arrived_s=arrived_s, cancel=cancelled.append)

    monkeypatch.setattr(service.engine, "submit", submit)
    turns = 0

    async def main() -> None:
        nonlocal turns
        task = asyncio.create_task(service.submit(body, RequestHeaders(), request_id="-", arrived_s=0.0))
        while len(queued) < leaves_after:
            turns += 1
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert queued == sorted(set(queued))
    assert len(queued) == leaves_after
    assert len(cancelled) == (leaves_after if leaves_after < 3 else 0)  # all are queued: nothing is to be undone here


def test_the_report_of_several_choices_has_one_for_each(client: TestClient) -> None:
    body = ask(client, **DRAWN, n=3)
    assert body["lts"].keys() == {"choices"}
    assert [report.keys() for report in body["lts"]["choices"]] == [ask(client, **DRAWN)["lts"].keys()] * 3
    tokens = sum(sum(report["tokens"].values()) for report in body["lts"]["choices"])
    assert tokens == body["usage"]["completion_tokens"]


def test_several_prompts_are_answered_one_after_the_other_each_as_it_would_be_alone(client: TestClient) -> None:
    body = ask(client, **DRAWN | {"prompt": PROMPTS[:2]}, n=2)
    alone = [ask(client, **DRAWN | {"prompt": prompt}, n=2) for prompt in PROMPTS[:2]]
    assert [each["text"] for each in body["choices"]] == [one["text"] for each in alone for one in each["choices"]]
    assert [each["index"] for each in body["choices"]] == list(range(4))
    assert body["usage"]["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in alone)


def test_prompts_of_token_ids_may_be_several_too(client: TestClient, service: Service) -> None:
    ids = [service.tokenizer.encode(prompt) for prompt in PROMPTS]
    fields = DRAWN | {"temperature": 0}
    assert ask(client, **fields | {"prompt": ids})["choices"] == ask(client, **fields | {"prompt": PROMPTS})["choices"]


@pytest.mark.parametrize("usage", [False, True], ids=["", "usage"])
@pytest.mark.parametrize("kind", ["completions", "chat/completions"])
def test_a_stream_of_several_choices_is_the_whole_answer_in_pieces(client: TestClient, kind: str, usage: bool) -> None:
    fields = (DRAWN if kind == "completions" else CHAT) | {"max_tokens": 10, "n": 3}
    whole = ask(client, f"/v1/{kind}", **fields)
    chunks = stream(client, f"/v1/{kind}", **fields, **({"stream_options": {"include_usage": True}} if usage else {}))
    texts, reasons = ["", "", ""], [[], [], []]
    for chunk in chunks[: -1 if usage else None]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"] if kind == "completions" else choice["delta"].get("content", "")
        reasons[choice["index"]].append(choice["finish_reason"])
        assert chunk.get("usage", "absent") == (None if usage else "absent")
    for index, choice in enumerate(whole["choices"]):
        assert texts[index] == (choice["text"] if kind == "completions" else choice["message"]["content"])
        assert reasons[index] == [None] * (len(reasons[index]) - 1) + [choice["finish_reason"]]
    assert [each["tokens"] for each in chunks[-1]["lts"]["choices"]] == [
        each["tokens"] for each in whole["lts"]["choices"]
    ]
    assert not any("lts" in chunk for chunk in chunks[:-1])
    if usage:
        assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])


def model_logprobs(universal: MatFormer, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """[tokens, vocab_size], from one forward over the whole text."""
    with torch.inference_mode():
        logits = universal(torch.tensor([[*prompt, *tokens]]), submodel=universal.config.universal)[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)


@pytest.fixture(scope="module")
def ascii_only(service: Service) -> dict[str, Any]:
    """A random model writes halves of characters, which these tests would only be in the way of."""
    spelling = service.tokenizer.spelling
    odd = [token for token in range(300) if not spelling.bytes_of(token).isascii()]
    return {"logit_bias": {str(token): -100 for token in odd}}


def test_log_probabilities_of_a_completion_are_the_models(
    client: TestClient, service: Service, universal: MatFormer, ascii_only: dict[str, Any]
) -> None:
    """In completions' shape: parallel lists, and the chosen token always among those told."""
    body = ask(client, **DRAWN | {"temperature": 0.7}, logprobs=3, min_tokens=10, **ascii_only)
    told, text = body["choices"][0]["logprobs"], body["choices"][0]["text"]
    assert "".join(told["tokens"]) == text
    assert all(text.startswith(token, at) for token, at in zip(told["tokens"], told["text_offset"], strict=True))
    ids = [service.tokenizer.backend.token_to_id(token.replace(" ", "Ġ")) for token in told["tokens"]]
    expected = model_logprobs(universal, service.tokenizer.encode(PROMPTS[0]), ids)
    assert told["token_logprobs"] == pytest.approx(
        [float(row[id]) for row, id in zip(expected, ids, strict=True)], abs=1e-3
    )
    for row, tops, token in zip(expected, told["top_logprobs"], told["tokens"], strict=True):
        assert sorted(tops.values(), reverse=True)[:3] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert len(tops) in (3, 4)
        assert token in tops


def test_log_probabilities_of_a_chat_have_bytes_and_their_own_shape(
    client: TestClient, ascii_only: dict[str, Any]
) -> None:
    fields = CHAT | {"max_tokens": 8, "logprobs": True} | ascii_only
    (choice,) = ask(client, "/v1/chat/completions", **fields, top_logprobs=2)["choices"]
    content = choice["logprobs"]["content"]
    assert bytes(byte for each in content for byte in each["bytes"]).decode() == choice["message"]["content"]
    for each in content:
        assert len(each["top_logprobs"]) == 2
        assert each["top_logprobs"][0]["logprob"] >= each["top_logprobs"][1]["logprob"]
        assert each["logprob"] <= each["top_logprobs"][0]["logprob"] + 1e-6
    (alone,) = ask(client, "/v1/chat/completions", **fields)["choices"]
    assert [each["logprob"] for each in alone["logprobs"]["content"]] == [each["logprob"] for each in content]
    assert all(each["top_logprobs"] == [] for each in alone["logprobs"]["content"])


def test_log_probabilities_stop_where_the_text_stops(client: TestClient, ascii_only: dict[str, Any]) -> None:
    fields = DRAWN | {"logprobs": 0} | ascii_only
    whole = ask(client, **fields)["choices"][0]
    offsets = whole["logprobs"]["text_offset"]
    stop = whole["text"][offsets[4] : offsets[4] + 2]
    cut = ask(client, **fields, stop=stop)["choices"][0]
    kept = [at for at in offsets if at < len(cut["text"])]
    assert cut["logprobs"]["tokens"] == whole["logprobs"]["tokens"][: len(kept)]
    assert 0 < len(kept) < len(offsets)


@pytest.mark.parametrize("stop", [None, " "], ids=["", "stop"])
def test_streamed_log_probabilities_are_those_of_the_whole_answer(client: TestClient, stop: str | None) -> None:
    fields = DRAWN | {"logprobs": 2, "n": 2, "stop": stop}
    whole = ask(client, **fields)
    chunks = stream(client, **fields)
    for choice in whole["choices"]:
        parts = [
            chunk["choices"][0]["logprobs"]
            for chunk in chunks
            if chunk["choices"][0]["index"] == choice["index"] and chunk["choices"][0]["logprobs"]
        ]
        assert {key: [each for part in parts for each in part[key]] for key in choice["logprobs"]} == choice["logprobs"]


def test_without_log_probabilities_the_field_is_null(client: TestClient) -> None:
    assert ask(client, **DRAWN)["choices"][0]["logprobs"] is None
    assert ask(client, "/v1/chat/completions", **CHAT)["choices"][0]["logprobs"] is None
