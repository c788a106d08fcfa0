"""Which replicas of a big fleet a router is shown: drawn at random within each kind, the less loaded half of the draw.

It knows ids, kinds and counts alone, so that nothing else needs to be made of those that are not shown. A draw takes
time for those that are shown, not for those that there are; so do coming and going.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

SHOWN = 16
"""So many replicas are all shown; of more, about so many."""
FEW = 2
"""Of each kind so many are shown at least, where it has them."""
DRAWN = 2
"""So many are drawn for each that is shown."""
AHEAD = 4
"""Of those that are to be shown ahead of the others, the most."""


class Shortlist:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._kinds: dict[str, list[str]] = {}
        self._fellows: dict[str, list[str]] = {}
        """Of each replica all ids of its kind, and its place among them."""
        self._places: dict[str, int] = {}
        self._shares: list[tuple[list[str], int]] | None = None
        """Of each kind its ids and how many are shown; None once a replica has come or gone."""

    def __len__(self) -> int:
        return len(self._fellows)

    def __contains__(self, id: str) -> bool:
        return id in self._fellows

    @property
    def are_many(self) -> bool:
        """Whether not all are shown."""
        return len(self._fellows) > SHOWN

    def join(self, id: str, kind: str) -> None:
        """A replica that is known already stays where it is."""
        if id not in self._fellows:
            ids = self._fellows[id] = self._kinds.setdefault(kind, [])
            self._places[id] = len(ids)
            ids.append(id)
            self._shares = None

    def leave(self, id: str) -> None:
        """Unknown ids are no error."""
        if id in self._fellows:
            ids, place = self._fellows.pop(id), self._places.pop(id)
            last = ids.pop()
            if last != id:
                ids[place], self._places[last] = last, place
            self._shares = None

    def draw(self, load: Callable[[str], float | None], *, ahead: Sequence[str] = ()) -> list[str]:
        """Ids. Of few replicas all, in the order in which they came.

        load: of a replica; None where it takes no request: it is not shown. ahead: replicas that are shown whatever is
        drawn, those first that matter most.
        """
        if not self.are_many:
            return [id for id in self._fellows if load(id) is not None]
        if self._shares is None:
            self._shares = self._shared_out()
        shown = dict.fromkeys([id for id in ahead if id in self._fellows and load(id) is not None][:AHEAD])
        chances = iter(self._rng.random(DRAWN * sum([share for _, share in self._shares])).tolist())
        places = self._places
        for ids, share in self._shares:
            left, drawn = len(ids), []
            for number in range(min(DRAWN * share, left)):
                # Each that is drawn changes places with the last one that is not, so that none is drawn twice.
                place, left = int(next(chances) * left), left - 1
                id, other = ids[place], ids[left]
                ids[place], ids[left] = other, id
                places[other], places[id] = place, left
                if (loaded := load(id)) is not None:
                    drawn.append((loaded, number, id))
            drawn.sort()
            shown.update(dict.fromkeys([id for _, _, id in drawn[:share]]))
        return list(shown)

    def _shared_out(self) -> list[tuple[list[str], int]]:
        self._kinds = {kind: ids for kind, ids in self._kinds.items() if ids}
        total = len(self._fellows)
        return [(ids, min(len(ids), max(FEW, SHOWN * len(ids) // total))) for ids in self._kinds.values()]
