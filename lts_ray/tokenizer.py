"""Text to token ids and back: a thin view of the `tokenizers` library and of the files that transformers reads too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers.decoders import DecodeStream

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json, write_text

END_OF_TEXT = "<|endoftext|>"
PLAIN_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""For a model that was trained on plain text and knows no roles: the messages, one after the other."""


class TextStream:
    """Text of a growing token sequence, held back while its last bytes are an unfinished character."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str | None:
        """The text that `token` completes, or None."""
        text: str | None = self._stream.step(self._tokenizer, token)
        return text


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer folder's contents. eos_id ends a document, and a response."""

    backend: tokenizers.Tokenizer
    eos_id: int
    chat_template: str = PLAIN_CHAT_TEMPLATE

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        return self.backend.decode(list(tokens), skip_special_tokens=True)

    def stream(self) -> TextStream:
        return TextStream(self.backend)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for a conversation, by the folder's chat template."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            template = environment.from_string(self.chat_template)
            return template.render(messages=list(messages), add_generation_prompt=True, eos_token=END_OF_TEXT)
        except TemplateError as error:
            raise LtsRayError(f"the chat template cannot render these messages: {error}") from None


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
    return Tokenizer(backend, eos_id=0)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", tokenizer.backend.to_str())
    end_of_text = tokenizer.backend.id_to_token(tokenizer.eos_id)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end_of_text,
            "bos_token": end_of_text,
            "clean_up_tokenization_spaces": False,
            "chat_template": tokenizer.chat_template,
        },
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json and tokenizer_config.json. Raises LtsRayError if they are missing or unusable."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise LtsRayError(f"{folder} has no tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise LtsRayError(f"tokenizer {path} is corrupt: {error}") from None
    config = read_json(folder / "tokenizer_config.json", what="tokenizer configuration")
    end_of_text = config.get("eos_token")
    if isinstance(end_of_text, dict):
        end_of_text = end_of_text.get("content")
    eos_id = backend.token_to_id(end_of_text) if isinstance(end_of_text, str) else None
    if eos_id is None:
        raise LtsRayError(f"tokenizer {folder} names no eos_token that it has: {json.dumps(end_of_text)}")
    return Tokenizer(backend, eos_id, _chat_template(folder, config.get("chat_template")))


def _chat_template(folder: Path, inline: object) -> str:
    """transformers keeps the template in a file of its own, and once kept it in the configuration."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return inline if isinstance(inline, str) else PLAIN_CHAT_TEMPLATE
