from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.text.spelling import Spelling
from lts_ray.text.tokenizer import train_tokenizer
from tests.tokenizer_kinds import KINDS

BYTES = train_tokenizer(["abc"], vocab_size=257)


@given(st.text(max_size=20))
def test_the_bytes_of_the_tokens_are_the_texts_bytes(text: str) -> None:
    spelling = BYTES.spelling
    assert b"".join(map(spelling.bytes_of, BYTES.encode(text))) == text.encode()


def test_every_token_has_a_name_of_its_own() -> None:
    """Or two alternatives of a place would be one. No text by themselves: the bytes from 0x80 on."""
    spelling = BYTES.spelling
    names = [spelling.name_of(token) for token in range(BYTES.vocab_size)]
    assert len(set(names)) == len(names)
    byte = BYTES.encode("é")[0]
    assert (spelling.name_of(byte), spelling.text_of(byte), spelling.bytes_of(byte)) == (
        "bytes:\\xc3",
        "\ufffd",
        b"\xc3",
    )


def test_sentencepiece_tokens_are_spelled_with_their_blanks_and_bytes() -> None:
    """Decoded alone such a token loses its blank, and a byte is no text."""
    vocabulary = {"<unk>": 0, "<0xE2>": 1, "▁the": 2, "re": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    spelling = Spelling(backend)
    assert [spelling.bytes_of(token) for token in (1, 2, 3, 99)] == [b"\xe2", b" the", b"re", b""]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_what_tokens_stand_for_joins_to_their_text(kind: str, data: st.DataObject) -> None:
    """But for the blank that a text's first token loses, and for runs of bytes that are broken somewhere."""
    tokenizer = KINDS[kind]
    text = data.draw(st.text("é漢😀a. the", max_size=12))
    tokens = tokenizer.encode(text)
    joined = b"".join(map(tokenizer.spelling.bytes_of, tokens)).decode()
    before = tokenizer.spelling.plain
    assert joined == tokenizer.backend.decode([before, *tokens], skip_special_tokens=False).removeprefix(
        tokenizer.decode([before])
    )


def test_words_and_their_parts_are_told_apart() -> None:
    def texts(kind: str, *names: str) -> list[str]:
        tokenizer = KINDS[kind]
        return [tokenizer.spelling.text_of(tokenizer.backend.token_to_id(name)) for name in names]

    assert texts("word_piece", "the", "##ing", ".", "[SEP]") == [" the", "ing", ".", " [SEP]"]
    assert texts("metaspace", "▁the", "a", "</s>") == [" the", "a", "</s>"]
    assert texts("llama_2", "▁the", "a", "▁", "</s>", "<0x0A>") == [" the", "a", " ", "</s>", "\n"]
    assert texts("byte_level", "<|endoftext|>") == ["<|endoftext|>"]
