"""Which beginnings of prompts a replica has seen lately, so that requests with the same one can go there again.

A guess at what its KV cache holds: as there, only whole blocks count, and only for the submodel that wrote them.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.submodel import Submodel


@dataclass(kw_only=True)
class PrefixIndex:
    blocks: int = 4096
    """The most that are remembered of a replica; those go first that came up longest ago, and of a prompt its last."""
    _seen: defaultdict[str, OrderedDict[int, None]] = field(default_factory=lambda: defaultdict(OrderedDict))
    """Chained hashes of blocks, by the replica's id."""

    def note(self, replica: str, tokens: Sequence[int], submodel: Submodel | None) -> None:
        """A prompt was sent there. submodel: None where the replica chooses."""
        seen = self._seen[replica]
        for block in reversed(list(_chain(tokens, submodel, len(tokens) - BLOCK_TOKENS + 1))):
            seen[block] = None
            seen.move_to_end(block)
        while len(seen) > self.blocks:
            seen.popitem(last=False)

    def shared(self, tokens: Sequence[int], submodel: Submodel | None) -> dict[str, int]:
        """How many of the prompt's first tokens each replica has seen: never all, for the last one is always run."""
        shared: dict[str, int] = {}
        left = list(self._seen.items())
        for count, block in enumerate(_chain(tokens, submodel, len(tokens) - BLOCK_TOKENS), start=1):
            left = [(replica, seen) for replica, seen in left if block in seen]
            if not left:
                break
            shared.update((replica, count * BLOCK_TOKENS) for replica, _ in left)
        return shared

    def forget(self, replica: str) -> None:
        self._seen.pop(replica, None)


def _chain(tokens: Sequence[int], submodel: Submodel | None, stop: int) -> Iterator[int]:
    """A number for each whole block that starts before `stop`: of it and all before it."""
    chained = hash(submodel)
    for start in range(0, stop, BLOCK_TOKENS):
        chained = hash((chained, tuple(tokens[start : start + BLOCK_TOKENS])))
        yield chained
