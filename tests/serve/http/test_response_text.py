from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from serve.http.response_text import ResponseText
from tests.tokenizer_kinds import KINDS

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


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_each_kind_of_tokenizer_gives_its_own_text(kind: str, data: st.DataObject) -> None:
    """Whatever the tokens: those that cut characters, ids that are none, special ones, which say nothing.

    Where a token's text ends is what the tokens up to it decode to, but for a character that is not finished.
    """
    tokenizer = KINDS[kind]
    tokens = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=12))
    response = ResponseText(tokenizer)
    sent = [response.push(token) for token in tokens]
    assert "".join([*sent, response.finish()]) == tokenizer.decode(tokens)
    assert response.released == len(response.ends) == len(tokens)
    for place in range(len(tokens)):
        so_far = tokenizer.decode(tokens[: place + 1])
        assert len(so_far.rstrip("\ufffd")) <= response.ends[place] <= len(so_far)


def test_a_stop_string_of_bytes_ends_the_text_with_its_last_byte() -> None:
    """Although more bytes could make something else of it: none are taken."""
    tokenizer = KINDS["llama_2"]
    ids = [tokenizer.backend.token_to_id(name) for name in ("▁a", "<0x0A>", "<0x0A>", "b")]
    assert pieces(tokenizer, ids, ("\n\n",)) == (["a", "", "", ""], True)
    assert pieces(tokenizer, ids, ("\n\n\n",)) == (["a", "", "", "\n\nb", ""], False)


def test_what_may_become_a_stop_string_is_held_back_until_it_is_clear() -> None:
    assert pieces(BYTES, BYTES.encode("a12b"), ("123",)) == (["a", "", "", "12b", ""], False)
    assert pieces(BYTES, BYTES.encode("a12"), ("123",)) == (["a", "", "", "12"], False)


@pytest.mark.parametrize("text", ["é", "漢字", "a😀b"])
def test_a_character_comes_out_whole(text: str, model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir)
    sent, _ = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(sent) == text
    assert "\ufffd" not in "".join(sent)


@given(st.text("ab漢é", max_size=20), st.lists(st.text("ab漢", min_size=1, max_size=3), max_size=2))
def test_released_tokens_are_those_whose_text_was_sent(text: str, stops: list[str]) -> None:
    """Oracle: token by token, where its text ends; one token is one byte. The last one sent may be cut by a stop."""
    response, sent = ResponseText(BYTES, stops), ""
    tokens = BYTES.encode(text)
    for token in tokens:
        sent += response.push(token)
        ends = [len(bytes(text.encode()[: place + 1]).decode(errors="ignore")) for place in range(len(response.ends))]
        assert response.ends == ends
        assert response.released == sum(end <= len(sent) for end in ends)
        if response.stopped:
            break
    sent += response.finish()
    if not response.stopped:
        assert (sent, response.released) == (text, len(tokens))


def test_a_token_that_a_stop_string_cuts_counts_as_sent(model_dir: Path) -> None:
    """ " nation" is one token; its first letters are in the answer, and so are its log probabilities."""
    tokenizer = load_tokenizer(model_dir)
    tokens = tokenizer.encode("the nation of")
    response = ResponseText(tokenizer, ["ation"])
    sent = "".join(response.push(token) for token in tokens)
    assert (sent, response.stopped) == ("the n", True)
    assert response.starts(0, response.released) == tuple(
        len(tokenizer.decode(tokens[:place])) for place in range(response.released)
    )
    assert response.ends[response.released - 1] >= len(sent) > response.starts(0, response.released)[-1]


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 12),
)
def test_stop_strings_count_from_min_tokens_on_wherever_they_began(
    text: str, stops: list[str], min_tokens: int
) -> None:
    """Oracle: vLLM's rule. The first end of any, beyond the first min_tokens tokens, each of which is one byte here."""
    response, sent = ResponseText(BYTES, stops, min_tokens=min_tokens), []
    for token in BYTES.encode(text):
        sent.append(response.push(token))
        if response.stopped:
            break
    sent.append(response.finish())
    ends = [end for end in range(min_tokens + 1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert response.stopped == bool(ends)
    cut = min(ends[0] - len(stop) for stop in stops if text[: ends[0]].endswith(stop)) if ends else len(text)
    assert "".join(sent) == text[:cut]


def work_of(stops: Sequence[str], text: str, *, choices: int = 1) -> float:
    """Lines of Python that run for a character of a text, of which all but the last stays as it was."""
    responses = [ResponseText(BYTES, stops) for _ in range(choices)]
    tokens, lines = BYTES.encode(text), 0

    def count(frame: FrameType, event: str, given: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        for token in tokens:
            for response in responses:
                response.push(token)
    finally:
        sys.settrace(before)
    assert not any(response.stopped for response in responses)
    return lines / len(tokens) / choices


@pytest.mark.parametrize(
    ("name", "stops", "text"),
    [
        ("half-matched again and again", ["a" * (240 + n) + "b" for n in range(16)], ("a" * 239 + "c") * 6),
        ("matched to the last character", ["a" * 255 + chr(ord("b") + n) for n in range(16)], "a" * 1000),
        ("of two letters by turns", [("ab" * 128)[n : 240 + n] + "c" for n in range(16)], "ab" * 500),
    ],
)
def test_the_work_of_a_token_is_bounded_however_many_stop_strings_are_half_matched(
    name: str, stops: list[str], text: str
) -> None:
    """At the limits: 16 strings of 256 characters, 8 choices. Counted in lines of code, not in time."""
    assert work_of(stops, text, choices=8) < 2 * work_of(["never"], text, choices=8)


def test_the_work_of_a_token_does_not_grow_with_the_text() -> None:
    stops = ["a" * 255 + "b"]
    assert work_of(stops, "a" * 2000) < 1.5 * work_of(stops, "a" * 500)
