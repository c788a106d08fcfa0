"""Text of a response as its tokens arrive: unfinished characters and possible stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence

from lts_ray.tokenizer import Tokenizer


class ResponseText:
    """`push` each token and send what it returns; `finish` returns what is left. A stop string is never sent."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._stream = tokenizer.stream()
        self._tokens: list[int] = []
        self._decoded = ""  # all text so far, held back or not
        self._sent = 0  # characters of it that went out

    def push(self, token: int) -> str:
        """The text that may be sent now. After it, `stopped` says whether a stop string was reached."""
        self._tokens.append(token)
        self._decoded += self._stream.step(token) or ""
        return self._release(final=False)

    def finish(self) -> str:
        """The rest, when no more tokens come: an unfinished character comes out as the tokenizer decodes it."""
        whole = self._tokenizer.decode(self._tokens)
        if not self.stopped and whole.startswith(self._decoded):
            self._decoded = whole
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        if self.stopped:
            return ""
        found = [at for stop in self._stops if (at := self._decoded.find(stop, self._sent)) >= 0]
        if found:
            self.stopped = True
            end = min(found)
        else:
            end = len(self._decoded) if final else len(self._decoded) - self._possible_stop()
        text = self._decoded[self._sent : end]
        self._sent = end
        return text

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        pending = self._decoded[self._sent :]
        lengths = (n for stop in self._stops for n in range(min(len(stop) - 1, len(pending)), 0, -1))
        return max((n for n in lengths if any(stop.startswith(pending[-n:]) for stop in self._stops)), default=0)
