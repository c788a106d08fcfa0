"""The oracle is transformers' own `apply_chat_template`, over the templates of well-known families."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import lts_ray.text.chat_template
from lts_ray.errors import LtsRayError
from lts_ray.text.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from tests.chat_templates import FAMILIES

BACKEND = train_tokenizer(["the law"], vocab_size=257).backend
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
BACKEND.add_special_tokens([*SPECIAL.values(), "<image>", "<audio>"])
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Of a place; <never> & é",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
USER = {"role": "user", "content": " What's <b>peace</b>? & é\n"}
ASSISTANT = {"role": "assistant", "content": "<think>\nwell\n</think>\n\nNo war. "}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, ASSISTANT, {"role": "user", "content": "And war?"}],
    "ends with the assistant": [USER, {"role": "assistant", "content": "It is when "}],
    "begins with the assistant": [ASSISTANT, USER],
    "two in a row": [USER, USER],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "asks": {"add_generation_prompt": True},
    "only renders": {"add_generation_prompt": False},
    "goes on": {"add_generation_prompt": False, "continue_final_message": True},
    "tools": {"add_generation_prompt": True, "tools": TOOLS},
    "documents": {"add_generation_prompt": True, "documents": [{"title": "a", "text": "b"}]},
    "variables": {
        "add_generation_prompt": True,
        "enable_thinking": False,
        "date_string": "1 May 2000",
        "bos_token": "B",
    },
}
NAMED = ("add_generation_prompt", "continue_final_message")


class NoonClock(datetime):
    """Or the day could end between two renderings."""

    @classmethod
    def now(cls, tz: Any = None) -> NoonClock:
        return cls(2024, 2, 9, 12)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transformers.utils.chat_template_utils, lts_ray.text.chat_template):
        monkeypatch.setattr(module, "datetime", NoonClock)


def ours(template: object) -> Tokenizer:
    return Tokenizer(BACKEND, eos_id=0, settings={**SPECIAL, "chat_template": template})


def render(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """None: refused."""
    given = {name: value for name, value in options.items() if name in NAMED}
    variables = {name: value for name, value in options.items() if name not in NAMED}
    try:
        return tokenizer.render_chat(messages, variables=variables, **given)
    except LtsRayError:
        return None


def expected(
    theirs: PreTrainedTokenizerFast, messages: Sequence[dict[str, Any]], options: dict[str, Any]
) -> str | None:
    try:
        return str(theirs.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, ValueError):
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_template_renders_as_with_transformers(family: str) -> None:
    template = FAMILIES[family]
    tokenizer = ours(template)
    theirs = PreTrainedTokenizerFast(tokenizer_object=BACKEND, chat_template=template, **SPECIAL)
    texts = []
    for said, messages in CONVERSATIONS.items():
        for asked, options in OPTIONS.items():
            found, right = render(tokenizer, messages, options), expected(theirs, messages, options)
            assert found == right, (said, asked)
            texts.append(found)
    assert len({*texts} - {None}) > 5


@pytest.mark.parametrize("family", ["Llama 2", "Mistral 1", "Gemma"])
def test_what_a_template_refuses_is_said_in_its_words(family: str) -> None:
    messages = CONVERSATIONS["two in a row" if family != "Gemma" else "system"]
    with pytest.raises(LtsRayError, match=r"cannot render these messages: (Conversation roles must|System role not)"):
        ours(FAMILIES[family]).render_chat(messages)


def test_parts_of_text_stay_parts_where_the_template_has_a_loop_over_them() -> None:
    """Elsewhere they are one text: such a template would write down the list."""
    whole = [{"role": "user", "content": "the law "}]
    for family, template in FAMILIES.items():
        if family != "documents":
            parts = [{"role": "user", "content": ("the ", "law ")}]
            found, as_one = (ours(template).render_chat(each) for each in (parts, whole))
            assert found == (as_one.replace("the law", "thelaw") if family == "Gemma 3" else as_one)
    theirs = PreTrainedTokenizerFast(tokenizer_object=BACKEND, chat_template=FAMILIES["Gemma 3"], **SPECIAL)
    given = [{"role": "user", "content": [{"type": "text", "text": text} for text in ("the ", "law ")]}]
    parts = [{"role": "user", "content": ("the ", "law ")}]
    for options in (OPTIONS["asks"], OPTIONS["goes on"]):
        assert render(ours(FAMILIES["Gemma 3"]), parts, options) == expected(theirs, given, options)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content.nothing() }}", "has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{% for %}", "Expected an expression"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute '__class__' .* is unsafe"),
        ("{{ messages.append(1) }}", "is not safely callable|unsafe"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ '1234567890' * 99 }}{% endfor %}{% endfor %}",
            "more than 16777216",
        ),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
        ("{{ '\ud800' }}", "UnicodeEncodeError"),
    ],
    ids=["attribute", "division", "syntax", "sandbox", "mutation", "size", "recursion", "surrogate"],
)
def test_a_template_that_fails_is_one_line(template: str, reason: str) -> None:
    with pytest.raises(LtsRayError, match=f"cannot render these messages: .*({reason})") as found:
        ours(template).render_chat([USER])
    assert "\n" not in str(found.value)


def test_a_message_that_the_template_drops_cannot_be_gone_on_with() -> None:
    for template in ("nothing", "{{ messages[0].content[3:] }}"):
        with pytest.raises(LtsRayError, match="leaves out the last message"):
            ours(template).render_chat([{"role": "assistant", "content": "abcdef"}], continue_final_message=True)


DEFAULT, TOOL_USE = "default{{ bos_token }}", "tools{{ tools | length }}"


def write_config(folder: Path, template: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))


@pytest.mark.parametrize("place", ["config", "list", "file", "folder"])
def test_templates_are_found_where_transformers_finds_them(place: str, tmp_path: Path) -> None:
    """A file of its own wins over the configuration; of several, tools have theirs."""
    save_tokenizer(ours("old"), tmp_path)
    if place == "config":
        write_config(tmp_path, DEFAULT)
    if place == "list":
        write_config(tmp_path, [{"name": "tool_use", "template": TOOL_USE}, {"name": "default", "template": DEFAULT}])
    if place in ("file", "folder"):
        (tmp_path / "chat_template.jinja").write_text(DEFAULT)
    if place == "folder":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(TOOL_USE)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    save_tokenizer(loaded, tmp_path / "again")
    for tokenizer in (loaded, load_tokenizer(tmp_path / "again")):
        for asked in ("asks", "tools"):
            found = render(tokenizer, [USER], OPTIONS[asked])
            assert found == expected(theirs, [USER], OPTIONS[asked])
            assert found == ("tools1" if asked == "tools" and place in ("list", "folder") else "default<s>")


def test_a_processors_template_is_read_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    save_tokenizer(ours(None), tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": DEFAULT}))
    assert load_tokenizer(tmp_path).render_chat([USER]) == "default<s>"


def test_several_templates_without_a_default_are_named() -> None:
    with pytest.raises(LtsRayError, match="chat templates named rag, tool_use, but none named default"):
        ours([{"name": "rag", "template": "a"}, {"name": "tool_use", "template": "b"}]).render_chat([USER])


def test_special_tokens_have_the_names_that_transformers_gives_them(tmp_path: Path) -> None:
    save_tokenizer(ours("a"), tmp_path)
    path = tmp_path / "tokenizer_config.json"
    more = {
        "unk_token": {"__type": "AddedToken", "content": "<unk>", "lstrip": False, "normalized": False},
        "image_token": "<image>",
        "extra_special_tokens": {"audio_token": "<audio>"},
        "add_bos_token": True,
        "sep_token": None,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    assert load_tokenizer(tmp_path).special_tokens == dict(AutoTokenizer.from_pretrained(tmp_path).special_tokens_map)
