"""Text of a growing token sequence, piece by piece."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence

import tokenizers

from lts_ray.text.spelling import Spelling

KEPT = 4
"""Tokens that are decoded again with each new one, so that it is not taken for a text's first, and that hold the whole
of an unfinished character."""
LONGEST_RUN = 64
"""Bytes after which a run of byte tokens goes out though it has not ended: a text may have nothing else."""
BROKEN = "\ufffd"
_Utf8 = getincrementaldecoder("utf-8")


class TextStream:
    """The pieces, with what `finish` returns, are what the tokenizer decodes all tokens to.

    What a later token may change is held back: an unfinished character, and a run of byte tokens until another token
    ends it, since one broken byte makes U+FFFD of each byte of its run.
    """

    def __init__(self, backend: tokenizers.Tokenizer, spelling: Spelling, prompt: Sequence[int] = ()) -> None:
        """prompt: what the text goes on from, and is no part of it."""
        self._backend, self._spelling = backend, spelling
        self._run = 0  # byte tokens at the window's end whose text is not decided
        self._is_broken = False  # whether a run goes on whose every byte is U+FFFD
        self._utf8 = _Utf8()
        self._window: list[int] = []
        self._sent = 0  # of the characters of the window's text
        if prompt:
            self._go_on_from([token for token in prompt[-LONGEST_RUN:] if spelling.is_shown(token)])

    def step(self, token: int) -> str:
        """The text that `token` decides."""
        if not self._spelling.is_shown(token):
            return ""
        byte = self._spelling.byte_of.get(token)
        if byte is not None:
            return self._step_byte(token, byte)
        self._run, self._is_broken = 0, False
        self._utf8.reset()
        self._window.append(token)
        text = self._text(self._window)
        end = len(text) - text.endswith(BROKEN)
        piece, self._sent = text[self._sent : end], max(self._sent, end)
        if len(self._window) > 2 * KEPT:
            self._restart(self._window[-KEPT:])
        return piece

    @property
    def undecided(self) -> str:
        """Whole characters that are text if no byte follows them."""
        unfinished = len(self._utf8.getstate()[0])
        if self._run == unfinished:
            return ""
        return self._text(self._window[: len(self._window) - unfinished])[self._sent :]

    def finish(self) -> str:
        """The rest, when no more tokens come: an unfinished character comes out as the tokenizer decodes it."""
        text = self._text(self._window)
        piece, self._sent = text[self._sent :], len(text)
        return piece

    def _step_byte(self, token: int, byte: int) -> str:
        if self._is_broken:
            return BROKEN
        self._window.append(token)
        self._run += 1
        try:
            self._utf8.decode(bytes([byte]))
        except UnicodeDecodeError:
            self._is_broken = True
            return self._release([token])
        if self._run >= LONGEST_RUN and not self._utf8.getstate()[0]:
            return self._release([] if self._spelling.plain is None else [self._spelling.plain])
        return ""

    def _release(self, window: list[int]) -> str:
        """All of the run, and what stands for all that came before what follows."""
        piece = self._text(self._window)[self._sent :]
        self._run = 0
        self._utf8.reset()
        self._restart(window)
        return piece

    def _restart(self, window: list[int]) -> None:
        """With a text that has gone out, but for an unfinished character."""
        self._window = window
        text = self._text(window)
        self._sent = len(text) if self._is_broken else len(text) - text.endswith(BROKEN)

    def _go_on_from(self, shown: Sequence[int]) -> None:
        """Of a prompt's end only a character that it leaves unfinished is in the text.

        A run of bytes there is decided: the text's own bytes begin a new one.
        """
        byte_of, start = self._spelling.byte_of, len(shown)
        while start and shown[start - 1] in byte_of:
            start -= 1
        before, run = list(shown[max(0, start - KEPT) : start]), shown[start:]
        if not run:
            unfinished = _unfinished(b"".join(map(self._spelling.bytes_of, before)))
            self._window, self._sent = before, len(self._text(before)) - bool(unfinished)
            return
        if not before and self._spelling.plain is not None:
            before = [self._spelling.plain]
        self._run = len(_unfinished(bytes(byte_of[token] for token in run)))
        rest = run[len(run) - self._run :]
        self._utf8.decode(bytes(byte_of[token] for token in rest))
        self._window, self._sent = [*before, *rest], len(self._text(before))

    def _text(self, tokens: Sequence[int]) -> str:
        return self._backend.decode(list(tokens), skip_special_tokens=True)


def _unfinished(text: bytes) -> bytes:
    """The bytes at the end that begin a character."""
    decoder = _Utf8(errors="replace")
    decoder.decode(text)
    return decoder.getstate()[0]
