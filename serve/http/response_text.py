"""Text of a response as its tokens arrive: unfinished characters and possible stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence

from lts_ray.text.stop_strings import StopStrings, stop_strings
from lts_ray.text.tokenizer import Tokenizer


class ResponseText:
    """`push` tokens as they come, and send what it returns; `finish` returns the rest. A stop string is never sent."""

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), *, prompt: Sequence[int] = (), min_tokens: int = 0
    ) -> None:
        """prompt: what the text goes on from: a blank at its beginning is kept. min_tokens: a stop string that ends
        with so many tokens, or before, is text like any other; as in vLLM, one that ends later may begin before.
        """
        self.stopped = False
        self.ends: list[int] = []  # where, in the text, the text of each token ends
        self.released = 0  # tokens whose whole text has been sent; once a stop string came, those that have sent any
        self._stops = stop_strings(tuple(stops)) if stops else None
        self._state, self._min_tokens = 0, min_tokens
        self._stream = tokenizer.stream(prompt)
        self._held = ""  # text that is decided and did not go out
        self._sent = 0  # characters that did

    def push(self, token: int) -> str:
        """The text that may be sent now. After it, `stopped` says whether a stop string was reached."""
        new = self._stream.step(token)
        undecided = self._stream.undecided
        self.ends.append(self._sent + len(self._held) + len(new) + len(undecided))
        return self._release(new, undecided)

    def finish(self) -> str:
        """The rest, when no more tokens come: an unfinished character comes out as the tokenizer decodes it."""
        return self._release(self._stream.finish(), final=True)

    def starts(self, first: int, last: int) -> tuple[int, ...]:
        """Where in the text the tokens `first` … `last` - 1 begin."""
        return tuple(self.ends[place - 1] if place else 0 for place in range(first, last))

    def _release(self, new: str, undecided: str = "", *, final: bool = False) -> str:
        """undecided: text if the response ends here, as it does where a stop string is in it."""
        if self.stopped:
            return ""
        start, kept = None, 0
        if self._stops is not None:
            start = self._stop_in(self._stops, new, undecided)
            kept = 0 if final else self._stops.possible[self._state]
        self.stopped = start is not None
        text = self._held + new + (undecided if self.stopped else "")
        end = len(text) - kept if start is None else start - self._sent
        text, self._held = text[:end], text[end:]
        self._sent += end
        if final and not self.stopped:
            self.released = len(self.ends)
        else:
            self._count_released()
        return text

    def _stop_in(self, stops: StopStrings, new: str, undecided: str) -> int | None:
        """Where in the text the first stop string begins that ends in what is new."""
        if len(self.ends) <= self._min_tokens:
            first = float("inf")
        else:
            first = self.ends[self._min_tokens - 1] if self._min_tokens else 0
        place, state = self._sent + len(self._held), self._state
        for part, is_decided in ((new, True), (undecided, False)):
            for character in part:
                state = stops.step(state, character)
                place += 1
                if stops.ended[state] and place > first:
                    return place - stops.ended[state]
            if is_decided:
                self._state = state
        return None

    def _count_released(self) -> None:
        while self.released < len(self.ends) and self.ends[self.released] <= self._sent:
            self.released += 1
        begun = self.ends[self.released - 1] if self.released else 0
        if self.stopped and begun < self._sent:  # the rest of the next token's text is the stop string's
            self.released += 1
