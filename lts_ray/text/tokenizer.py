"""Text to token ids and back: a thin view of the `tokenizers` library and of the files that transformers reads too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from lts_ray.errors import LtsRayError
from lts_ray.files import make_folder, read_json, read_text, write_json, write_text
from lts_ray.text.chat_template import ChatTemplate
from lts_ray.text.spelling import Spelling
from lts_ray.text.text_stream import TextStream

END_OF_TEXT = "<|endoftext|>"
GENERATION = "generation_config.json"
"""transformers' file of what a model's texts are generated with."""
PLAIN_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""For a model that was trained on plain text and knows no roles: the messages, one after the other."""
OTHER_FORMATS = ("tokenizer.model", "spiece.model", "tekken.json", "tiktoken.model", "vocab.json", "vocab.txt")
SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer folder's contents."""

    backend: tokenizers.Tokenizer
    eos_id: int
    """The token that ends a document."""
    settings: Mapping[str, Any]
    """What tokenizer_config.json says, and says again where the tokenizer is saved: special tokens, the chat template,
    and what only transformers uses."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """What generation_config.json says, and says again; `eos_token_id` there has all that config.json names too."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Any of them ends a response."""
        return frozenset({self.eos_id, *_ids(self.generation)})

    @property
    def chat_template(self) -> str:
        """For a conversation without tools."""
        return self._template_named(None)

    @property
    def is_for_chats(self) -> bool:
        """Whether the folder has a chat template of its own."""
        return _templates(self.settings.get("chat_template")).get("default") not in (None, PLAIN_CHAT_TEMPLATE)

    @cached_property
    def vocab_size(self) -> int:
        """What a model has embeddings for at least: one more than the highest id, added tokens among them."""
        return 1 + max(self.backend.get_vocab().values(), default=-1)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """add_special_tokens: as tokenizer.json's post-processor has them, by which transformers goes too, whatever
        the configuration says of add_bos_token. Not for what a chat template wrote, which has them."""
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except Exception as error:  # the library's only kind, such as for a letter that there is no token for
            raise LtsRayError(f"the tokenizer cannot read this text: {_line(error)}") from None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self.backend.encode_batch(list(texts))]
        except Exception as error:
            raise LtsRayError(f"the tokenizer cannot read these texts: {_line(error)}") from None

    def decode(self, tokens: Sequence[int]) -> str:
        return self.backend.decode(list(tokens), skip_special_tokens=True)

    @cached_property
    def spelling(self) -> Spelling:
        return Spelling(self.backend)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """prompt: what the text goes on from: a blank at its beginning is kept."""
        return TextStream(self.backend, self.spelling, prompt)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for a conversation, by the folder's chat template. See `ChatTemplate.render`."""
        given = {} if variables is None else variables
        source = self._template_named("tool_use" if given.get("tools") is not None else None)
        return _compiled(source).render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens, **given},
        )

    @cached_property
    def special_tokens(self) -> Mapping[str, str]:
        """By their names, as chat templates know them: bos_token and its kind, and those that only this model has."""
        named = {name: _content(self.settings.get(name)) for name in SPECIAL_TOKENS}
        others = self.settings.keys() - set(SPECIAL_TOKENS)
        named |= {name: self.settings[name] for name in others if name.endswith("_token")}
        more = self.settings.get("extra_special_tokens")
        named |= {name: _content(token) for name, token in more.items()} if isinstance(more, dict) else {}
        return {name: token for name, token in named.items() if isinstance(token, str)}

    def _template_named(self, name: str | None) -> str:
        """None, or a name that it has not: the default one."""
        known = _templates(self.settings.get("chat_template"))
        if not known:
            return PLAIN_CHAT_TEMPLATE
        found = known.get(name or "default", known.get("default"))
        if found is None:
            raise LtsRayError(f"the tokenizer has chat templates named {', '.join(known)}, but none named default")
        return found


@lru_cache(maxsize=16)
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source)


def _templates(setting: object) -> dict[str, str]:
    """By name, where one may stand alone."""
    if isinstance(setting, list):
        named = [each for each in setting if isinstance(each, dict)]
        setting = {str(each.get("name")): each.get("template") for each in named}
    elif isinstance(setting, str):
        setting = {"default": setting}
    return {name: text for name, text in setting.items() if isinstance(text, str)} if isinstance(setting, dict) else {}


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
    make_folder(folder)
    write_text(folder / "tokenizer.json", tokenizer.backend.to_str())
    write_json(folder / "tokenizer_config.json", tokenizer.settings)
    if tokenizer.generation:
        write_json(folder / GENERATION, tokenizer.generation)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json and tokenizer_config.json. Raises LtsRayError if they are missing or unusable."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        other = next((name for name in OTHER_FORMATS if (folder / name).is_file()), None)
        raise LtsRayError(
            f"{folder} has no tokenizer.json"
            if other is None
            else f"{folder} has a {other}, but no tokenizer.json, which transformers makes of it: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
        _probe(backend)
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise LtsRayError(
            f"tokenizer {path} is corrupt, or of a newer kind than tokenizers {tokenizers.__version__} reads: "
            f"{_line(error)}"
        ) from None
    backend.no_truncation()  # such settings are meant for batches
    backend.no_padding()
    settings = _read_settings(folder)
    generation, ends = _read_generation(folder)
    end_of_text = _content(settings.get("eos_token"))
    # GPT-2's own folder names it in the model's configuration alone.
    eos_id = next(iter(ends), None) if end_of_text is None else backend.token_to_id(end_of_text)
    if eos_id is None or backend.id_to_token(eos_id) is None:
        raise LtsRayError(f"tokenizer {folder} names no eos_token that it has: {json.dumps(end_of_text)}")
    if not {eos_id, *_ids(generation)}.issuperset(ends):
        generation["eos_token_id"] = ends
    return Tokenizer(backend, eos_id, settings, generation)


def _read_generation(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """generation_config.json, and every token that it or the model's configuration says ends a text."""
    ends: list[int] = []
    read: dict[str, dict[str, Any]] = {}
    for name in ("config.json", GENERATION):
        if (folder / name).is_file():
            read[name] = read_json(folder / name, what="model configuration")
            text = read[name].get("text_config")  # of a model that reads more than text
            ends += [*_ids(read[name]), *(_ids(text) if isinstance(text, dict) else ())]
    return read.get(GENERATION, {}), list(dict.fromkeys(ends))


def _ids(configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """One, several or none. What is no token's id ends nothing."""
    named = configuration.get("eos_token_id")
    return tuple(id for id in (named if isinstance(named, list) else [named]) if type(id) is int and id >= 0)


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with what transformers keeps, or once kept, in files of their own."""
    settings = read_json(folder / "tokenizer_config.json", what="tokenizer configuration")
    names = folder / "special_tokens_map.json"
    if names.is_file() and "added_tokens_decoder" not in settings:  # newer files repeat the names in the configuration
        named = read_json(names, what="special tokens")
        settings |= {name: _plain(value) for name, value in named.items()}
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = {name: read_text(path, what="chat template") for name, path in files.items() if path.is_file()}
    if found.keys() == {"default"}:
        settings["chat_template"] = found["default"]
    elif found:
        settings["chat_template"] = [{"name": name, "template": text} for name, text in found.items()]
    elif settings.get("chat_template") is None and (folder / "chat_template.json").is_file():
        settings["chat_template"] = read_json(folder / "chat_template.json", what="chat template").get("chat_template")
    return settings


def _probe(backend: tokenizers.Tokenizer) -> None:
    """Raises ValueError where the library panics at a text's special tokens: one that its post-processor lacks."""
    try:
        backend.encode("")
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # which is no Exception, and has no name to import
            raise ValueError(str(error)) from None
        raise


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _plain(tokens: object) -> object:
    """Special tokens, one or several, as text: how each is to be split off is in tokenizer.json."""
    return [_plain(token) for token in tokens] if isinstance(tokens, list) else _content(tokens) or tokens


def _content(token: object) -> str | None:
    """The text of a special token, which may stand there with how it is to be split off."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text.encode(errors="ignore").decode() == text else None
