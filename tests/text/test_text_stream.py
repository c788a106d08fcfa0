from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.text.text_stream import KEPT, LONGEST_RUN
from lts_ray.text.tokenizer import Tokenizer
from tests.tokenizer_kinds import KINDS

LLAMA = KINDS["llama_2"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def ids_of(tokenizer: Tokenizer, *, most: int = 25) -> st.SearchStrategy[list[int]]:
    """Of all its tokens, some that are none, and often those that cut characters and runs."""
    known = tokenizer.vocab_size
    odd = [token for name in ("0A", "C3", "A9", "FF") if (token := tokenizer.backend.token_to_id(f"<0x{name}>"))]
    late = st.integers(max(0, known - 12), known - 1)  # words, where the others are bytes
    one = st.integers(0, known - 1) | late | st.sampled_from([0, 1, 2, known, 10**6, *odd])
    whole = st.text("é漢😀a \n", max_size=4).map(tokenizer.encode)
    return st.lists(one.map(lambda token: [token]) | whole, max_size=most).map(lambda parts: [*chain(*parts)])


def streamed(tokenizer: Tokenizer, tokens: list[int], prompt: list[int] | None = None) -> list[str]:
    stream = tokenizer.stream(prompt or [])
    return [*(stream.step(token) for token in tokens), stream.finish()]


@each_kind
@given(st.data())
def test_the_pieces_are_what_all_tokens_decode_to(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    tokens = data.draw(ids_of(tokenizer))
    assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


@each_kind
@given(st.data())
def test_no_piece_waits_longer_than_it_must(kind: str, data: st.DataObject) -> None:
    """After each token all of its text is out, but for a last U+FFFD, which may become a character, and bytes."""
    tokenizer = KINDS[kind]
    tokens = data.draw(ids_of(tokenizer))
    stream, sent = tokenizer.stream(), ""
    for place, token in enumerate(tokens, 1):
        sent += stream.step(token)
        if tokenizer.spelling.is_shown(token) and token not in tokenizer.spelling.byte_of:
            assert sent == tokenizer.decode(tokens[:place]).removesuffix("\ufffd")


@each_kind
@given(st.data())
def test_a_text_goes_on_from_its_prompt(kind: str, data: st.DataObject) -> None:
    """As both decode together, so that a word's blank is kept. Prompts of text: they end in whole characters."""
    tokenizer = KINDS[kind]
    prompt = tokenizer.encode(data.draw(st.text("é漢😀a .", max_size=12)))
    tokens = data.draw(ids_of(tokenizer))
    before = tokenizer.decode(prompt)
    if any(prompt) and prompt[-1] in tokenizer.spelling.byte_of:
        tokens = [tokenizer.vocab_size - 1, *tokens]  # a broken byte would break the prompt's own run
    assert before + "".join(streamed(tokenizer, tokens, prompt)) == tokenizer.decode([*prompt, *tokens])


def named(*names: str) -> list[int]:
    return [LLAMA.backend.token_to_id(name) for name in names]


def test_a_broken_byte_behind_a_line_break_is_no_error() -> None:
    """As transformers decodes it: each byte of the run is U+FFFD, and the text goes on."""
    assert streamed(LLAMA, named("<0x0A>", "<0xFF>", "a", "▁the")) == ["", "\ufffd\ufffd", "a", " the", ""]


def test_a_run_of_bytes_comes_out_when_a_token_ends_it_or_the_text() -> None:
    assert streamed(LLAMA, named("a", "<0x0A>", "<0x0A>", "b", "<0xC3>", "<0xA9>")) == [
        *("a", "", "", "\n\nb", "", ""),
        "é",
    ]
    stream = LLAMA.stream()
    seen = [(stream.step(token), stream.undecided) for token in named("a", "<0x0A>", "<0xC3>", "<0xA9>", "b")]
    assert seen == [("a", ""), ("", "\n"), ("", "\n"), ("", "\né"), ("\néb", "")]


@pytest.mark.parametrize("kind", ["llama_2", "byte_fallback"])
def test_a_text_of_nothing_but_bytes_streams_too(kind: str) -> None:
    """However long, and as it is decoded: also where nothing comes before it, or a blank."""
    tokenizer = KINDS[kind]
    for text in (" 😀" * 60, "😀" * 60, "a" + "ሰላም" * 40):
        tokens = [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]
        pieces = streamed(tokenizer, tokens)
        assert "".join(pieces) == tokenizer.decode(tokens)
        assert len(list(filter(None, pieces))) >= len(tokens) // (LONGEST_RUN + 4)


def test_a_broken_run_streams_byte_by_byte() -> None:
    tokens = named("<0xFF>", *["<0x0A>"] * (4 * KEPT), "a")
    assert streamed(LLAMA, tokens) == ["\ufffd"] * (len(tokens) - 1) + ["a", ""]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_a_character_that_the_prompt_begins_is_finished_in_the_text(kind: str) -> None:
    tokenizer = KINDS[kind]
    if kind == "byte_level":
        tokens = train_bytes(tokenizer, "a漢b")
    else:
        tokens = [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in "漢".encode()]
        tokens = [*tokenizer.encode("a"), *tokens, *tokenizer.encode("b")]
    cut = len(tokens) - 2
    assert "".join(streamed(tokenizer, tokens[cut:], tokens[:cut])).endswith("漢b")


def train_bytes(tokenizer: Tokenizer, text: str) -> list[int]:
    """A token for each byte."""
    single = {tokenizer.spelling.bytes_of(token): token for token in reversed(range(tokenizer.vocab_size))}
    return [single[bytes([byte])] for byte in text.encode()]
