"""A checkpoint's chat template: from a conversation to the prompt's text, as `apply_chat_template` of transformers.

The sandbox keeps a template from the machine, not from its time: one that loops for ever, does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lts_ray.errors import LtsRayError

LONGEST = 2**24
"""Characters of a prompt: many times what a context holds. A template that writes more has lost its way."""
MARK = "<<<THE MESSAGE GOES ON>>> "
"""Stands behind a message that is to be gone on with. Its blank tells whether the template strips messages."""


class GenerationBlock(Extension):
    """`{% generation %}` marks what an assistant wrote, which matters to training alone."""

    tags = {"generation"}  # noqa: RUF012, as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class ChatTemplate:
    def __init__(self, source: str) -> None:
        self._source = source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        """variables: special tokens, and what else the template reads, such as tools.

        add_generation_prompt: the answer's beginning follows. continue_final_message: the text ends where the last
        message's does, which is gone on with.
        Raises LtsRayError for what the template refuses, or fails at.
        """
        given = [
            {name: self._content(value) if name == "content" else value for name, value in message.items()}
            for message in messages
        ]
        begun = given[-1].get("content") if given and continue_final_message else None
        if begun is not None:
            given[-1]["content"] = _marked(begun)
        context = {"tools": None, "documents": None, **variables}
        context |= {"messages": given, "add_generation_prompt": add_generation_prompt}
        pieces, length = [], 0
        try:
            for piece in self._compiled.generate(context):
                pieces.append(piece)
                length += len(piece)
                if length > LONGEST:
                    raise TemplateError(f"it writes more than {LONGEST} characters")
            text = "".join(pieces)
            text.encode()
        except Exception as error:  # a template can fail as any program can
            reason = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise LtsRayError(f"the chat template cannot render these messages: {' '.join(reason.split())}") from None
        return text if begun is None else _before_mark(text, begun)

    @cached_property
    def _compiled(self) -> Template:
        return ENVIRONMENT.from_string(self._source)

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether it has a loop over a message's content, and so takes a list of parts."""
        tree = ENVIRONMENT.parse(self._source)
        named = {
            assigned.target.name
            for assigned in tree.find_all(nodes.Assign)
            if isinstance(assigned.target, nodes.Name) and _is_content(assigned.node)
        }
        loops = [loop.iter for loop in tree.find_all(nodes.For)]
        return any(_is_content(each) or (isinstance(each, nodes.Name) and each.name in named) for each in loops)

    def _content(self, content: str | Sequence[str]) -> object:
        """Of a message, a text or the texts of its parts."""
        if isinstance(content, str):
            return content
        return [{"type": "text", "text": text} for text in content] if self._reads_parts else "".join(content)


def _is_content(node: nodes.Node) -> bool:
    """`message.content`, `message['content']`."""
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _marked(content: Any) -> Any:
    if isinstance(content, str):
        return content + MARK
    return [*content[:-1], {**content[-1], "text": content[-1]["text"] + MARK}]


def _before_mark(text: str, begun: Any) -> str:
    place = text.rfind(MARK.strip())
    last = begun if isinstance(begun, str) else begun[-1]["text"]
    if place < 0 or last.strip() not in text:
        raise LtsRayError("the chat template leaves out the last message, which continue_final_message goes on with")
    return text[:place] if text.startswith(MARK, place) else text[:place].rstrip()


def _refuse(message: str) -> NoReturn:
    """What templates call for messages that they do not take, such as two of one role in a row."""
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja's own, which writes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


ENVIRONMENT = _environment()
