"""Every field that OpenAI's own client can send: served, taken without an effect, or refused by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_type_hints

import pytest
from fastapi.testclient import TestClient
from openai.types import chat
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams

from serve.http.request_schemas import ChatRequest, CompletionRequest, GenerationRequest
from serve.http.unused_fields import NEUTRAL, UnusedFields

PATHS = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatRequest}
PARAMS: dict[str, type] = {"/v1/completions": CompletionParams, "/v1/chat/completions": ChatParams}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "tiny", "prompt": "the nation", "temperature": 0, "max_tokens": 4},
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the war"}],
        "temperature": 0,
        "max_tokens": 4,
    },
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}


@dataclass(frozen=True)
class Field:
    """taken: values that change no answer. refused: values that ask for what is not offered."""

    taken: tuple[object, ...] = ()
    refused: tuple[object, ...] = ()
    served: bool = False
    needed: bool = False


SERVED = Field(served=True)
FIELDS: dict[str, Field] = {
    "audio": Field(refused=({"voice": "alloy", "format": "wav"},)),
    "best_of": Field(taken=(1,), refused=(2,)),
    "echo": Field(taken=(False,), refused=(True,)),
    "frequency_penalty": Field(taken=(0, 0.0), served=True),
    "function_call": Field(taken=("none", "auto"), refused=({"name": "look_up"},)),
    "functions": Field(taken=([],), refused=([{"name": "look_up"}],)),
    "logit_bias": Field(taken=({},), served=True),
    "logprobs": SERVED,
    "max_completion_tokens": SERVED,
    "max_tokens": SERVED,
    "messages": Field(served=True, needed=True),
    "metadata": Field(taken=({}, {"user": "a", "trace": "b"}), refused=("a", {"a": 1})),
    "modalities": Field(taken=(["text"],), refused=(["text", "audio"],)),
    "model": Field(served=True, needed=True),
    "moderation": Field(refused=({"model": "omni-moderation-latest"},)),
    "n": Field(taken=(1,), served=True),
    "parallel_tool_calls": Field(taken=(True, False), refused=("yes",)),
    "prediction": Field(taken=({"type": "content", "content": "a"},), refused=("a",)),
    "presence_penalty": Field(taken=(0, 0.0), served=True),
    "prompt": Field(served=True, needed=True),
    "prompt_cache_key": Field(taken=("a",), refused=(1,)),
    "prompt_cache_options": Field(taken=({"mode": "implicit"},), refused=("implicit",)),
    "prompt_cache_retention": Field(taken=("in_memory", "24h"), refused=(24,)),
    "reasoning_effort": Field(taken=("none",), refused=("low", "high")),
    "response_format": Field(taken=({"type": "text"},), refused=({"type": "json_object"},)),
    "safety_identifier": Field(taken=("a",), refused=(1,)),
    "seed": SERVED,
    "service_tier": Field(taken=("auto", "default", "flex", "priority"), refused=(1,)),
    "stop": Field(taken=([],), served=True),
    "store": Field(taken=(True, False), refused=("yes",)),
    "stream": Field(taken=(False,), served=True),
    "stream_options": SERVED,
    "suffix": Field(taken=("",), refused=("the end",)),
    "temperature": SERVED,
    "tool_choice": Field(taken=("none", "auto"), refused=("required",)),
    "tools": Field(taken=([],), refused=([TOOL],)),
    "top_logprobs": Field(taken=(0,), served=True),
    "top_p": Field(taken=(1, 1.0), served=True),
    "user": Field(taken=("a", ""), refused=(1,)),
    "verbosity": Field(taken=("medium",), refused=("low", "high")),
    "web_search_options": Field(refused=({},)),
}
"""By hand, from OpenAI's reference."""

CHAT_ONLY: dict[str, Field] = {
    "add_generation_prompt": Field(taken=(True,), served=True),
    "chat_template": Field(refused=("{{ messages }}",)),
    "chat_template_kwargs": Field(taken=({},), served=True),
    "continue_final_message": Field(taken=(False,), served=True),
}
VLLM: dict[str, Field] = {
    "add_special_tokens": SERVED,
    "allowed_token_ids": Field(refused=([1],)),
    "bad_words": Field(taken=([],), refused=(["a"],)),
    "cache_salt": Field(refused=("a",)),
    "documents": Field(taken=([],), refused=([{"text": "a"}],)),
    "ignore_eos": Field(taken=(False,), served=True),
    "include_stop_str_in_output": Field(taken=(False,), refused=(True,)),
    "length_penalty": Field(taken=(1, 1.0), refused=(2.0,)),
    "min_p": Field(taken=(0, 0.0), served=True),
    "min_tokens": Field(taken=(0,), served=True),
    "priority": Field(taken=(0, 3, -1), refused=(0.5, "high", True), served=True),
    "prompt_logprobs": Field(refused=(1,)),
    "repetition_penalty": Field(taken=(1, 1.0), served=True),
    "return_token_ids": Field(taken=(False,), refused=(True,)),
    "return_tokens_as_token_ids": Field(taken=(False,), refused=(True,)),
    "session_id": Field(taken=("a",), refused=(1,)),
    "skip_special_tokens": Field(taken=(True,), refused=(False,)),
    "spaces_between_special_tokens": Field(taken=(True,), refused=(False,)),
    "stop_token_ids": Field(taken=([],), refused=([1],)),
    "structured_outputs": Field(refused=({"choice": ["a"]},)),
    "top_k": Field(taken=(-1, 0), served=True),
    "truncate_prompt_tokens": Field(refused=(5,)),
    "use_beam_search": Field(taken=(False,), refused=(True,)),
}
"""What load generators and vLLM's users send besides."""


def fields_of(path: str) -> dict[str, Field]:
    own = {name: FIELDS[name] for name in get_type_hints(PARAMS[path])}
    return own | VLLM | (CHAT_ONLY if path == "/v1/chat/completions" else {})


def cases(what: str) -> list[tuple[str, str, object]]:
    return [
        (path, name, value)
        for path in PATHS
        for name, field in fields_of(path).items()
        for value in getattr(field, what)
    ]


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_openais_client_has_a_place_in_the_table(path: str) -> None:
    """A new version of the client that has a new field fails here, and the field is decided on."""
    assert not get_type_hints(PARAMS[path]).keys() - FIELDS.keys()
    for name, field in fields_of(path).items():
        kind = PATHS[path]
        assert field.served == (
            name in kind.model_fields and name not in UnusedFields.model_fields and name != "best_of"
        )
        assert field.served or name in UnusedFields.model_fields.keys() | NEUTRAL.keys()
        assert field.served or field.refused


@pytest.fixture(scope="module")
def plain(client: TestClient) -> dict[str, Any]:
    return {path: client.post(path, json=body).json()["choices"] for path, body in BODIES.items()}


@pytest.mark.parametrize(("path", "name", "value"), cases("taken"), ids=str)
def test_what_changes_no_answer_is_taken(
    client: TestClient, plain: dict[str, Any], path: str, name: str, value: object
) -> None:
    response = client.post(path, json=BODIES[path] | {name: value})
    assert (response.status_code, response.json()["choices"]) == (200, plain[path])


@pytest.mark.parametrize("path", PATHS)
def test_null_is_taken_for_every_field_that_may_be_left_out(
    client: TestClient, plain: dict[str, Any], path: str
) -> None:
    """One by one, since null for max_tokens changes an answer; then all that do not, in one request."""
    kept = BODIES[path].keys()
    nulls = {name: None for name, field in fields_of(path).items() if not field.needed and name not in kept}
    response = client.post(path, json=BODIES[path] | nulls)
    assert (response.status_code, response.json().get("choices")) == (200, plain[path])
    for name in ("temperature", "max_tokens"):
        assert client.post(path, json=BODIES[path] | {"max_completion_tokens": 4, name: None}).status_code == 200


@pytest.mark.parametrize(("path", "name", "value"), cases("refused"), ids=str)
def test_what_would_change_an_answer_and_is_not_offered_is_refused_by_name(
    client: TestClient, path: str, name: str, value: object
) -> None:
    response = client.post(path, json=BODIES[path] | {name: value})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"].split(".")[0] == name
    assert name in error["message"]


ROLES = {
    "developer": chat.ChatCompletionDeveloperMessageParam,
    "system": chat.ChatCompletionSystemMessageParam,
    "user": chat.ChatCompletionUserMessageParam,
    "assistant": chat.ChatCompletionAssistantMessageParam,
}
MESSAGE_FIELDS: dict[str, Field] = {
    "audio": Field(taken=(None,), refused=({"id": "a"},)),
    "content": Field(served=True, needed=True),
    "function_call": Field(taken=(None,), refused=({"name": "look_up", "arguments": "{}"},)),
    "name": SERVED,
    "refusal": Field(taken=(None,), refused=("no",)),
    "role": Field(served=True, needed=True),
    "tool_calls": Field(taken=(None, []), refused=([{"id": "a", "type": "function", "function": {}}],)),
    # Not in the client's types, but in what it answers, and so in what is sent back; the last is of older harnesses.
    "annotations": Field(taken=(None, []), refused=([{"type": "url_citation"}],)),
    "reasoning": Field(taken=(None,), refused=("because",)),
    "reasoning_content": Field(taken=(None,), refused=("because",)),
    "type": Field(taken=(None, "text"), refused=("image",)),
}


def test_every_field_of_a_message_of_openais_client_has_a_place_in_the_table() -> None:
    for kind in ROLES.values():
        assert not get_type_hints(kind).keys() - MESSAGE_FIELDS.keys()


def ask(client: TestClient, **fields: object) -> Any:
    messages = [{"role": "user", "content": "peace"}, {"role": "assistant", "content": "a"} | fields]
    return client.post(
        "/v1/chat/completions",
        json=BODIES["/v1/chat/completions"] | {"messages": [*messages, {"role": "user", "content": "the war"}]},
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_message_may_have_whatever_says_nothing(client: TestClient, role: str) -> None:
    expected = ask(client, role=role).json()["choices"]
    for name, field in MESSAGE_FIELDS.items():
        for value in field.taken:
            assert ask(client, role=role, **{name: value}).json()["choices"] == expected, name
        for value in field.refused:
            response = ask(client, role=role, **{name: value})
            assert (response.status_code, response.json()["error"]["param"]) == (400, f"messages[1].{name}")


def test_a_name_reaches_the_chat_template_and_nothing_else() -> None:
    """As with vLLM and transformers: a template that knows of names writes them."""
    body = ChatRequest.model_validate(
        {
            "model": "tiny",
            "messages": [{"role": "user", "name": "ann", "content": "a"}, {"role": "user", "content": "b"}],
        }
    )
    assert [message.to_template() for message in body.messages] == [
        {"role": "user", "name": "ann", "content": "a"},
        {"role": "user", "content": "b"},
    ]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "refusal", "refusal": "a"},
    ],
    ids=str,
)
def test_parts_of_text_are_text_whatever_they_say_to_a_cache(
    client: TestClient, role: str, part: dict[str, Any]
) -> None:
    assert ask(client, role=role, content=[part]).json()["choices"] == ask(client, role=role).json()["choices"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://a"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "a"}},
        {"type": "text", "text": "a", "colour": 1},
        {"type": "text", "refusal": "a"},
        {"type": "text", "text": None},
        {"type": "text"},
        {},
        "a",
    ],
    ids=str,
)
def test_a_part_that_is_no_text_is_refused_by_its_messages_name(client: TestClient, part: object) -> None:
    response = ask(client, content=[{"type": "text", "text": "a"}, part])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages[1].content")


PROMPTS: list[tuple[str, object, int]] = [
    ("text", "the nation", 1),
    ("a list of one", ["the nation"], 1),
    ("ids", [5, 6, 7], 1),
    ("a list of one list of ids", [[5, 6, 7]], 1),
    ("texts", ["the nation", "the war", "the people", "peace"], 4),
    ("lists of ids", [[5, 6], [7], [8, 9], [10]], 4),
    ("the same text again", ["peace"] * 4, 4),
]


@pytest.mark.parametrize(("prompt", "choices"), [each[1:] for each in PROMPTS], ids=[each[0] for each in PROMPTS])
def test_each_prompt_of_a_list_is_answered_by_itself(client: TestClient, prompt: object, choices: int) -> None:
    body = client.post("/v1/completions", json=BODIES["/v1/completions"] | {"prompt": prompt}).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(choices))


@pytest.mark.parametrize(
    "prompt", [[], [[]], [""], ["a", ""], [[1], []], ["a", [1]], [[1], "a"], [1, "a"], [1, [2]], [1.5], [True], {}, 1]
)
def test_a_prompt_that_is_none_is_refused_by_name(client: TestClient, prompt: object) -> None:
    response = client.post("/v1/completions", json=BODIES["/v1/completions"] | {"prompt": prompt})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")


def test_stream_options_need_a_stream_and_null_ones_do_not(client: TestClient) -> None:
    for path, body in BODIES.items():
        assert client.post(path, json=body | {"stream_options": None}).status_code == 200
        assert client.post(path, json=body | {"stream": True, "stream_options": {}}).status_code == 200
        refused = client.post(path, json=body | {"stream_options": {"include_usage": True}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream_options")


def test_an_unknown_name_is_refused_whatever_its_value(client: TestClient) -> None:
    """A field that is spelt wrong must not be dropped in silence."""
    for value in (None, 0, "a"):
        response = client.post("/v1/completions", json=BODIES["/v1/completions"] | {"max_token": value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "max_token")


def test_no_field_is_both_served_and_without_effect() -> None:
    """Else the table of those without effect would say what is no longer so."""
    assert not NEUTRAL.keys() & (UnusedFields.model_fields.keys() | GenerationRequest.model_fields.keys())
    both = CompletionRequest.model_fields.keys() & ChatRequest.model_fields.keys()
    assert not NEUTRAL.keys() & both
