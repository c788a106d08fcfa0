"""What single tokens stand for: their bytes, which need not be text, and which of them a text does not show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property

import tokenizers


class Spelling:
    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._known: dict[int, bytes] = {}
        state = None if backend.decoder is None else json.dumps(json.loads(backend.decoder.__getstate__()))
        self._is_byte_level = state is not None and '"ByteLevel"' in state
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(token for token, how in added.items() if how.special)
        self.byte_of: Mapping[int, int] = {}
        """Of the tokens that are a single byte each, where what has no token of its own is written with such."""
        if state is not None and '"ByteFallback"' in state:
            named = {byte: backend.token_to_id(f"<0x{byte:02X}>") for byte in range(0x100)}
            self.byte_of = {token: byte for byte, token in named.items() if token is not None}

    def is_shown(self, token: int) -> bool:
        """False for special tokens, and for ids beyond the vocabulary: decoding leaves them out."""
        return token not in self._special and self._backend.id_to_token(token) is not None

    @cached_property
    def plain(self) -> int | None:
        """A token that is text by itself, to decode others behind: the first of a text may lose its blank."""
        ids = (token for token in range(self._backend.get_vocab_size()) if token not in self.byte_of)
        return next((token for token in ids if self._backend.decode([token]).strip(" \ufffd")), None)

    def bytes_of(self, token: int) -> bytes:
        spelled = self._known.get(token)
        if spelled is None:
            spelled = self._known[token] = self._spell(token)
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

    def _spell(self, token: int) -> bytes:
        name = self._backend.id_to_token(token) or ""
        if self._is_byte_level and all(character in BYTE_OF_CHARACTER for character in name):
            return bytes(BYTE_OF_CHARACTER[character] for character in name)
        if token in self.byte_of:
            return bytes([self.byte_of[token]])
        before = [] if self.plain is None else [self.plain]
        both = self._backend.decode([*before, token], skip_special_tokens=False)
        return both[len(self._backend.decode(before, skip_special_tokens=False)) :].encode()


def _bytes_of_characters() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_OF_CHARACTER = _bytes_of_characters()
"""Byte-level BPE writes each byte as one printable character: GPT-2's table."""
