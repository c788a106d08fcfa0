"""Text of a response as its tokens arrive: unfinished characters and possible stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence

from lts_ray.text.tokenizer import Tokenizer


class ResponseText:
    """`push` tokens as they come, and send what it returns; `finish` returns the rest. A stop string is never sent."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), *, prompt: Sequence[int] = ()) -> None:
        """prompt: what the text goes on from: a blank at its beginning is kept."""
        self.stopped = False
        self.ends: list[int] = []  # where, in the text, the text of each token ends
        self.released = 0  # tokens whose whole text has been sent; once a stop string came, those that have sent any
        self._stops = tuple(stops)
        self._stream = tokenizer.stream(prompt)
        self._decoded = ""  # all text that is decided, held back or not
        self._sent = 0  # characters of it that went out

    def push(self, token: int) -> str:
        """The text that may be sent now. After it, `stopped` says whether a stop string was reached."""
        self._decoded += self._stream.step(token)
        undecided = self._stream.undecided
        self.ends.append(len(self._decoded) + len(undecided))
        return self._release(undecided)

    def finish(self) -> str:
        """The rest, when no more tokens come: an unfinished character comes out as the tokenizer decodes it."""
        self._decoded += self._stream.finish()
        return self._release(final=True)

    def starts(self, first: int, last: int) -> tuple[int, ...]:
        """Where in the text the tokens `first` … `last` - 1 begin."""
        return tuple(self.ends[place - 1] if place else 0 for place in range(first, last))

    def _release(self, undecided: str = "", *, final: bool = False) -> str:
        """undecided: text if the response ends here, as it does where a stop string is in it."""
        if self.stopped:
            return ""
        end = len(self._decoded)
        if self._stops:
            text = self._decoded + undecided
            places = [at for stop in self._stops if (at := text.find(stop, self._sent)) >= 0]
            self.stopped = bool(places)
            self._decoded = text if places else self._decoded
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
