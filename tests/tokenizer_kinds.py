"""A tokenizer of each kind that checkpoints have, built small: how each decodes is its kind's own."""

from __future__ import annotations

from dataclasses import replace

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from lts_ray.text.tokenizer import Tokenizer, train_tokenizer

SPECIAL = ("<s>", "</s>")
WORDS = ("a", "b", "▁", "▁a", "▁the", "é", "▁漢", "\ufffd", "▁▁", ".")


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen: tokens are bytes, some of them several, that end within a character."""
    return train_tokenizer(["é漢字😀 the the é"], vocab_size=266)


def byte_fallback(*strip: object) -> Tokenizer:
    """Llama 2 and Mistral, which strip a text's first blank; without that Gemma."""
    names = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {name: token for token, name in enumerate(names)}
    backend = Backend(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens(list(SPECIAL))
    return Tokenizer(backend, eos_id=2, settings={})


def llama_2() -> Tokenizer:
    return byte_fallback(decoders.Strip(" ", 1, 0))


def metaspace() -> Tokenizer:
    """T5, XGLM."""
    vocabulary = [(name, -1.0) for name in ("<unk>", *SPECIAL, *WORDS)]
    backend = Backend(models.Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(list(SPECIAL))
    return Tokenizer(backend, eos_id=2, settings={})


def word_piece() -> Tokenizer:
    """BERT, with blanks removed before full stops."""
    names = ["[UNK]", "[CLS]", "[SEP]", "the", "##ing", "##é", "a", ".", "漢", "##s", "'", "n't"]
    backend = Backend(models.WordPiece({name: token for token, name in enumerate(names)}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=True)
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    return Tokenizer(backend, eos_id=2, settings={})


def end_of_word() -> Tokenizer:
    """The first GPT's: a token says that its word ends."""
    names = ["<unk>", *SPECIAL, "the</w>", "a", "b</w>", "é", "</w>"]
    backend = Backend(models.BPE({name: token for token, name in enumerate(names)}, [], unk_token="<unk>"))
    backend.decoder = decoders.BPEDecoder()
    backend.add_special_tokens(list(SPECIAL))
    return Tokenizer(backend, eos_id=2, settings={})


def with_beginnings(tokenizer: Tokenizer, first: str) -> Tokenizer:
    """Puts it before each text, as OPT's and Llama's tokenizers put theirs."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    token = backend.token_to_id(first)
    backend.post_processor = TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, token)]
    )
    return replace(tokenizer, backend=backend, settings={**tokenizer.settings, "bos_token": first})


KINDS = {kind.__name__: kind() for kind in (byte_level, byte_fallback, llama_2, metaspace, word_piece, end_of_word)}
