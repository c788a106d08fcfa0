from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from serve.text import ResponseText

BYTES = train_tokenizer(["abc"], vocab_size=257)


def pieces(tokenizer: Tokenizer, tokens: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    text, out = ResponseText(tokenizer, stops), []
    for token in tokens:
        out.append(text.push(token))
        if text.stopped:
            break
    return [*out, text.finish()], text.stopped


@given(st.text(max_size=30))
def test_the_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(BYTES, BYTES.encode(text))[0]) == text


@given(st.lists(st.integers(1, 256), max_size=20))
def test_bytes_that_are_no_text_come_out_as_the_tokenizer_decodes_them(tokens: list[int]) -> None:
    assert "".join(pieces(BYTES, tokens)[0]) == BYTES.decode(tokens)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    """Oracle: the first end of any stop string, and the earliest start among those that end there."""
    sent, stopped = pieces(BYTES, BYTES.encode(text), tuple(stops))
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert stopped == bool(ends)
    seen = text[: ends[0]] if ends else text
    starts = [len(seen) - len(stop) for stop in stops if seen.endswith(stop)] if ends else [len(text)]
    assert "".join(sent) == text[: min(starts)]


def test_what_may_become_a_stop_string_is_held_back_until_it_is_clear() -> None:
    assert pieces(BYTES, BYTES.encode("a12b"), ("123",)) == (["a", "", "", "12b", ""], False)
    assert pieces(BYTES, BYTES.encode("a12"), ("123",)) == (["a", "", "", "12"], False)


@pytest.mark.parametrize("text", ["é", "漢字", "a😀b"])
def test_a_character_comes_out_whole(text: str, model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir)
    sent, _ = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(sent) == text
    assert "\ufffd" not in "".join(sent)
