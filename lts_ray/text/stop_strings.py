"""Stop strings in a text that comes piece by piece: the automaton of Aho and Corasick (1975), a step a character.

However many strings there are, and however much of them the text keeps beginning, a text of n characters takes fewer
than 2 n moves.
"""

from __future__ import annotations

from array import array
from functools import lru_cache


class StopStrings:
    """A state is a number, 0 at first: the longest beginning of a stop string that the text ends with."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.ended = array("I", [0])
        """By state: characters of the longest stop string that the text ends with; 0: none."""
        self.possible = array("I", [0])
        """By state: characters of the longest end of the text that more of it may make a stop string."""
        self._moves: dict[tuple[int, str], int] = {}
        self._shorter = array("I", [0])
        """By state: the longest beginning of a stop string that its own ends with, itself left out."""
        states = [0] * len(stops)
        for depth in range(max(map(len, stops), default=0)):  # so that a state comes after all shorter ones
            for place, stop in enumerate(stops):
                if depth < len(stop):
                    states[place] = self._extend(states[place], stop[depth])
                if depth == len(stop) - 1:
                    self.ended[states[place]] = len(stop)
        depths = array("I", [0]) * len(self.ended)
        for (state, _), longer in self._moves.items():
            depths[longer] = depths[state] + 1
        inner = {state for state, _ in self._moves}
        for state in range(1, len(depths)):
            self.possible.append(depths[state] if state in inner else self.possible[self._shorter[state]])

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        moves = self._moves
        while (longer := moves.get((state, character))) is None:
            if not state:
                return 0
            state = self._shorter[state]
        return longer

    def _extend(self, state: int, character: str) -> int:
        longer = self._moves.get((state, character))
        if longer is None:
            shorter = self.step(self._shorter[state], character) if state else 0
            longer = self._moves[state, character] = len(self.ended)
            self._shorter.append(shorter)
            self.ended.append(self.ended[shorter])
        return longer


stop_strings = lru_cache(maxsize=16)(StopStrings)
"""The choices of a request share one, and requests with the same stop strings."""
