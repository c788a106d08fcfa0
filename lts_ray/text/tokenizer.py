"""Text to token ids and back: a thin view of the `tokenizers` library and of the files that transformers reads too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json, write_text
from lts_ray.text.spelling import Spelling
from lts_ray.text.text_stream import TextStream

END_OF_TEXT = "<|endoftext|>"
PLAIN_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""For a model that was trained on plain text and knows no roles: the messages, one after the other."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer folder's contents."""

    backend: tokenizers.Tokenizer
    eos_id: int
    """The token that ends a document, and a response."""
    settings: Mapping[str, Any]
    """What tokenizer_config.json says, and says again where the tokenizer is saved: special tokens, the chat template,
    and what only transformers uses."""

    @property
    def chat_template(self) -> str:
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several by name
            template = next((named["template"] for named in template if named["name"] == "default"), None)
        return template if isinstance(template, str) else PLAIN_CHAT_TEMPLATE

    @property
    def is_for_chats(self) -> bool:
        """Whether the folder has a chat template of its own."""
        return self.chat_template != PLAIN_CHAT_TEMPLATE

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        return self.backend.decode(list(tokens), skip_special_tokens=True)

    @cached_property
    def spelling(self) -> Spelling:
        return Spelling(self.backend)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """prompt: what the text goes on from: a blank at its beginning is kept."""
        return TextStream(self.backend, self.spelling, prompt)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for a conversation, by the folder's chat template."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        special = {name: _content(self.settings.get(name)) for name in ("bos_token", "eos_token")}
        known = {name: token for name, token in special.items() if token is not None}
        try:
            template = environment.from_string(self.chat_template)
            return template.render(messages=list(messages), add_generation_prompt=True, **known)
        except TemplateError as error:
            raise LtsRayError(f"the chat template cannot render these messages: {error}") from None


def _refuse(message: str) -> NoReturn:
    """What templates call for messages that they do not take, such as two of one role in a row."""
    raise TemplateError(message)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer; id 0 is the end-of-text token. Every text round-trips."""
    if vocab_size < 257:
        raise LtsRayError(f"vocab_size must be at least 257 (256 bytes and the end of text); got {vocab_size}")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return Tokenizer(
        backend,
        eos_id=0,
        settings={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "bos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": PLAIN_CHAT_TEMPLATE,
        },
    )


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", tokenizer.backend.to_str())
    write_json(folder / "tokenizer_config.json", tokenizer.settings)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json and tokenizer_config.json. Raises LtsRayError if they are missing or unusable."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise LtsRayError(f"{folder} has no tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise LtsRayError(f"tokenizer {path} is corrupt: {error}") from None
    settings = _read_settings(folder)
    end_of_text = _content(settings.get("eos_token"))
    eos_id = _model_eos_id(folder) if end_of_text is None else backend.token_to_id(end_of_text)
    if eos_id is None or backend.id_to_token(eos_id) is None:
        raise LtsRayError(f"tokenizer {folder} names no eos_token that it has: {json.dumps(end_of_text)}")
    return Tokenizer(backend, eos_id, settings)


def _model_eos_id(folder: Path) -> int | None:
    """What the model beside the tokenizer ends a text with: GPT-2's own folder names it nowhere else."""
    config = folder / "config.json"
    eos_id = read_json(config, what="model configuration").get("eos_token_id") if config.is_file() else None
    return eos_id if isinstance(eos_id, int) else None


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with what transformers keeps, or once kept, in files of their own."""
    settings = read_json(folder / "tokenizer_config.json", what="tokenizer configuration")
    names = folder / "special_tokens_map.json"
    if names.is_file() and "added_tokens_decoder" not in settings:  # newer files repeat the names in the configuration
        named = read_json(names, what="special tokens")
        settings |= {name: _plain(value) for name, value in named.items()}
    template = folder / "chat_template.jinja"
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    return settings


def _plain(tokens: object) -> object:
    """Special tokens, one or several, as text: how each is to be split off is in tokenizer.json."""
    return [_plain(token) for token in tokens] if isinstance(tokens, list) else _content(tokens) or tokens


def _content(token: object) -> str | None:
    """The text of a special token, which may stand there with how it is to be split off."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
