"""What a request's text becomes: special tokens as the tokenizer has them, chats as transformers renders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from transformers import AutoTokenizer

from lts_ray.text.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from serve.http.api import create_app
from serve.http.service import Service
from tests.chat_templates import FAMILIES
from tests.tokenizer_kinds import KINDS, with_beginnings

USER = {"role": "user", "content": "a b"}


@dataclass(frozen=True)
class Endpoint:
    client: TestClient
    tokenizer: Tokenizer
    theirs: Any
    """The same folder, as transformers loads it."""

    def ask(self, path: str, **fields: Any) -> Response:
        return self.client.post(f"/v1/{path}", json={"model": "tiny", "temperature": 0, "max_tokens": 6, **fields})

    def completion(self, prompt: Any, **fields: Any) -> dict[str, Any]:
        return self.ask("completions", prompt=prompt, **fields).raise_for_status().json()

    def chat(self, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return self.ask("chat/completions", messages=messages, **fields).raise_for_status().json()


@pytest.fixture(scope="module")
def endpoint(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """With Llama 2's tokenizer and template, both of which begin a text."""
    folder: Path = tmp_path_factory.mktemp("llama")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": FAMILIES["Llama 2"], "add_bos_token": False}
    save_tokenizer(with_beginnings(replace(KINDS["llama_2"], settings=settings), "<s>"), folder)
    tokenizer = load_tokenizer(folder)
    with TestClient(create_app(replace(service, tokenizer=tokenizer))) as client:
        yield Endpoint(client, tokenizer, AutoTokenizer.from_pretrained(folder))


def same(answer: dict[str, Any], other: dict[str, Any]) -> bool:
    texts = [
        each["choices"][0].get("text", each["choices"][0].get("message", {}).get("content")) for each in (answer, other)
    ]
    return texts[0] == texts[1] and answer["usage"] == other["usage"]


@pytest.mark.parametrize("given", [{}, {"add_special_tokens": None}, {"add_special_tokens": True}], ids=str)
def test_a_completions_prompt_begins_as_with_transformers(endpoint: Endpoint, given: dict[str, Any]) -> None:
    """The post-processor decides; the configuration's add_bos_token has no say beside a tokenizer.json."""
    ids = endpoint.theirs("a b").input_ids
    assert ids[0] == 1
    answer = endpoint.completion("a b", **given)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert same(answer, endpoint.completion(ids))
    two = endpoint.completion(["a b", "b"], **given)
    assert two["usage"]["prompt_tokens"] == len(ids) + len(endpoint.theirs("b").input_ids)


def test_special_tokens_can_be_left_to_the_client(endpoint: Endpoint) -> None:
    ids = endpoint.theirs("a b", add_special_tokens=False).input_ids
    answer = endpoint.completion("a b", add_special_tokens=False)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert same(answer, endpoint.completion(ids))
    assert endpoint.completion([1, 1, 4])["usage"]["prompt_tokens"] == 3  # nothing is added to ids


def test_an_empty_prompt_is_its_special_tokens(endpoint: Endpoint) -> None:
    assert endpoint.completion("")["usage"]["prompt_tokens"] == 1
    assert endpoint.ask("completions", prompt="", add_special_tokens=False).status_code == 400


def test_a_chat_begins_once(endpoint: Endpoint) -> None:
    ids = endpoint.theirs.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    assert ids.count(1) == 1
    answer = endpoint.chat(USER)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["choices"][0]["message"]["content"] == endpoint.completion(ids)["choices"][0]["text"]
    twice = endpoint.chat(USER, add_special_tokens=True)
    assert twice["usage"]["prompt_tokens"] == len(ids) + 1


def test_the_room_in_the_context_counts_what_is_added(endpoint: Endpoint) -> None:
    context = 64
    text = "a" * (context - 1)  # a token each: with the first one nothing is left
    assert endpoint.ask("completions", prompt=text).json()["error"]["code"] == "context_length_exceeded"
    assert endpoint.completion(text, add_special_tokens=False, max_tokens=1)["usage"]["prompt_tokens"] == context - 1


def test_a_streamed_completion_keeps_the_blank_at_its_border(endpoint: Endpoint) -> None:
    """A client appends it to its prompt: a word that begins with a blank keeps it."""
    the = endpoint.tokenizer.backend.token_to_id("\u2581the")
    bias = {"logit_bias": {str(the): 100}, "max_tokens": 2}
    assert endpoint.completion("a", **bias)["choices"][0]["text"] == " the the"
    chat = endpoint.chat(USER, **bias)
    assert chat["choices"][0]["message"]["content"] == " the the"


def test_a_message_is_gone_on_with_as_with_transformers(endpoint: Endpoint) -> None:
    begun = {"role": "assistant", "content": "b "}
    ids = endpoint.theirs.apply_chat_template([USER, begun], continue_final_message=True, return_dict=False)
    for fields in ({}, {"add_generation_prompt": False}):
        assert endpoint.chat(USER, begun, continue_final_message=True, **fields)["usage"]["prompt_tokens"] == len(ids)
    refused = endpoint.ask("chat/completions", messages=[USER], continue_final_message=True, add_generation_prompt=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "continue_final_message")


def test_a_templates_refusal_is_a_400_in_its_words(endpoint: Endpoint) -> None:
    refused = endpoint.ask("chat/completions", messages=[USER, USER])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    assert "Conversation roles must alternate" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("Qwen 3", {"enable_thinking": False}),
        ("Llama 3", {"date_string": "1 May 2000", "tools": [{"a": 1}]}),
        ("documents", {"documents": [{"title": "a", "text": "b"}]}),
    ],
)
def test_what_a_template_reads_besides_can_be_given(
    endpoint: Endpoint, service: Service, family: str, fields: dict[str, Any]
) -> None:
    template = FAMILIES[family]
    tokenizer = replace(endpoint.tokenizer, settings={**endpoint.tokenizer.settings, "chat_template": template})
    text = endpoint.theirs.apply_chat_template(
        [USER], chat_template=template, add_generation_prompt=True, tokenize=False, **fields
    )
    given: list[str] = []

    class Listening(Tokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            given.append(text)
            return [4]

    listening = Listening(tokenizer.backend, tokenizer.eos_id, tokenizer.settings)
    with TestClient(create_app(replace(service, tokenizer=listening))) as client:
        body = {"model": "tiny", "messages": [USER], "max_tokens": 1, "chat_template_kwargs": fields}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert given == [text]


@pytest.mark.parametrize("given", [[], "a", {"messages": []}, {"add_generation_prompt": True}], ids=str)
def test_variables_that_cannot_be_the_templates_are_refused(endpoint: Endpoint, given: Any) -> None:
    refused = endpoint.ask("chat/completions", messages=[USER], chat_template_kwargs=given)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template_kwargs")
