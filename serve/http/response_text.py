"""Text of a response as its tokens arrive: unfinished characters and possible stop strings are held back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

from lts_ray.text.tokenizer import Tokenizer


class ResponseText:
    """`push` tokens as they come, and send what it returns; `finish` returns the rest. A stop string is never sent."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self.ends: list[int] = []  # where, in the text, the text of each token ends
        self.released = 0  # tokens whose whole text has been sent; once a stop string came, those that have sent any
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._stream = tokenizer.stream()
        self._tokens: list[int] = []
        self._decoded = ""  # all text so far, held back or not
        self._sent = 0  # characters of it that went out

    def push(self, token: int) -> str:
        """The text that may be sent now. After it, `stopped` says whether a stop string was reached."""
        self._tokens.append(token)
        self._decoded += self._stream.step(token) or ""
        self.ends.append(len(self._decoded))
        return self._release(final=False)

    def finish(self) -> str:
        """The rest, when no more tokens come: an unfinished character comes out as the tokenizer decodes it."""
        whole = self._tokenizer.decode(self._tokens)
        if not self.stopped and whole.startswith(self._decoded):
            self._decoded = whole
        return self._release(final=True)

    def starts(self, first: int, last: int) -> tuple[int, ...]:
        """Where in the text the tokens `first` … `last` - 1 begin."""
        return tuple(self.ends[place - 1] if place else 0 for place in range(first, last))

    def _release(self, *, final: bool) -> str:
        if self.stopped:
            return ""
        end = len(self._decoded)
        if self._stops:
            places = [at for stop in self._stops if (at := self._decoded.find(stop, self._sent)) >= 0]
            self.stopped = bool(places)
            end = min(places) if places else end if final else end - self._possible_stop()
        text = self._decoded[self._sent : end]
        self._sent = end
        if final and not self.stopped:
            self.released = len(self.ends)
        else:
            self._count_released()
        return text

    def _count_released(self) -> None:
        while self.released < len(self.ends) and self.ends[self.released] <= self._sent:
            self.released += 1
        begun = self.ends[self.released - 1] if self.released else 0
        if self.stopped and begun < self._sent:  # the rest of the next token's text is the stop string's
            self.released += 1

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        pending = self._decoded[self._sent :]
        lengths = (n for stop in self._stops for n in range(min(len(stop) - 1, len(pending)), 0, -1))
        return max((n for n in lengths if any(stop.startswith(pending[-n:]) for stop in self._stops)), default=0)


class Spelling:
    """Single tokens as text, for log probabilities: one may be a part of a character, which is no text by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        spelled = self._known.get(token)
        if spelled is None:
            spelled = self._known[token] = self._spell(self._backend.id_to_token(token) or "")
        return spelled

    def text_of(self, token: int) -> str:
        """With U+FFFD for what is no text."""
        return self.bytes_of(token).decode(errors="replace")

    def name_of(self, token: int) -> str:
        """Unlike its text no other token's: in OpenAI's spelling, `bytes:\\xe2\\x82` for what is no text."""
        spelled = self.bytes_of(token)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)

    def _spell(self, name: str) -> bytes:
        if self._bytes_by_character is not None and all(character in self._bytes_by_character for character in name):
            return bytes(self._bytes_by_character[character] for character in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):  # SentencePiece's single bytes
            return bytes([int(name[3:5], 16)])
        return name.replace("▁", " ").encode()

    @cached_property
    def _bytes_by_character(self) -> dict[str, int] | None:
        """Byte-level BPE writes each byte as one printable character: GPT-2's table. None for other tokenizers."""
        decoder = self._backend.decoder
        if decoder is None or '"ByteLevel"' not in json.dumps(json.loads(decoder.__getstate__())):
            return None
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(0x100) if byte not in printable]
        return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
