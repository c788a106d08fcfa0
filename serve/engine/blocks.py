"""Which sequence holds which blocks of the KV cache, and which blocks have a prompt's beginning. Numbers, no memory.

A block that is complete, and written by one submodel like all before it, gets a key: the block before it, its tokens
and that submodel, precision included. A sequence that starts with the same tokens at the same one holds it too. Blocks
that no sequence holds stay in place until others need the room, the longest unused first. A holder of a block holds all
before it and lets go of the last one first, so no block is evicted before those that follow it: a key may name its
predecessor by number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.submodel import Submodel

Key = tuple[int, tuple[int, ...], Submodel]
"""The block before it (ROOT for the first), the block's tokens, the submodel that wrote them."""
ROOT = -1


def blocks_needed(places: int) -> int:
    return -(-places // BLOCK_TOKENS)


def blocks_for_batch(rows: int, longest: int) -> int:
    """So many that `rows` sequences of up to `longest` tokens never wait for one: one for each is kept free beside."""
    return rows * (blocks_needed(longest) + 1)


@dataclass(slots=True, eq=False)
class _Sequence:
    table: tuple[int, ...]
    """Its blocks, in order."""
    complete: int
    """How many of them have a key, so that others may hold them."""
    writer: Submodel
    chain: bool
    """Whether the next complete block gets a key: not after two submodels have written."""


class Blocks:
    """Sequences go by ids of the caller's. A block is free, or kept for its contents, or held by some."""

    def __init__(self, n_blocks: int, *, prefix_cache: bool = True) -> None:
        self.n_blocks = n_blocks
        self._prefix_cache = prefix_cache
        self._free = list(reversed(range(n_blocks)))
        self._kept: OrderedDict[int, None] = OrderedDict()  # the longest unused first
        self._holders = [0] * n_blocks
        self._keys: list[Key | None] = [None] * n_blocks
        self._by_key: dict[Key, int] = {}
        self._sequences: dict[int, _Sequence] = {}

    @property
    def available(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._free) + len(self._kept)

    def table(self, id: int) -> tuple[int, ...]:
        return self._sequences[id].table

    def open(self, id: int, tokens: Sequence[int], writer: Submodel, *, spare: int = 0) -> int | None:
        """Give a sequence blocks for all of `tokens`, those first that hold its beginning as `writer` writes it.

        Returns how many of its tokens these hold: never all of them, for the last one's logits are wanted. None, and
        nothing taken, where fewer than `spare` blocks would be left over.
        """
        shared = self._shared(tokens, writer) if self._prefix_cache else []
        missing = blocks_needed(len(tokens)) - len(shared)
        kept = sum(not self._holders[block] for block in shared)
        if missing + kept + spare > self.available:
            return None
        for block in shared:
            self._hold(block)
        fresh = [self._take() for _ in range(missing)]
        self._sequences[id] = _Sequence((*shared, *fresh), len(shared), writer, self._prefix_cache)
        return len(shared) * BLOCK_TOKENS

    def grow(self, id: int, places: int) -> bool:
        """See that the sequence has blocks for so many places. False, and nothing taken, where there are too few."""
        sequence = self._sequences[id]
        missing = blocks_needed(places) - len(sequence.table)
        if missing <= 0:
            return True
        if missing > self.available:
            return False
        sequence.table += tuple(self._take() for _ in range(missing))
        return True

    def wrote(self, id: int, tokens: Sequence[int], places: int, writer: Submodel) -> None:
        """The sequence's places up to `places` hold its `tokens`; those that are new were written by `writer`.

        A block that another sequence has completed with the same contents meanwhile takes the place of this one's own.
        One whose last token is not known yet (`pending`) waits for the next call.
        """
        sequence = self._sequences[id]
        if not sequence.chain:
            return
        if writer is not sequence.writer and writer != sequence.writer:
            sequence.chain = False
            return
        while (stop := (sequence.complete + 1) * BLOCK_TOKENS) <= places and tokens[stop - 1] >= 0:
            self._complete(sequence, tokens)

    def close(self, id: int) -> None:
        """Let go of all of the sequence's blocks. Those with a key are kept for others."""
        for block in reversed(self._sequences.pop(id).table):
            self._release(block)

    def forget(self) -> None:
        """What blocks hold is in doubt: nothing that has been written until now is for others any more."""
        self._free += self._kept
        self._kept.clear()
        self._by_key.clear()
        self._keys = [None] * self.n_blocks
        for sequence in self._sequences.values():
            sequence.chain = False

    def _shared(self, tokens: Sequence[int], writer: Submodel) -> list[int]:
        """The blocks that have the tokens' beginning already, as `writer` writes it."""
        shared: list[int] = []
        before = ROOT
        for start in range(0, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):  # not the block that ends with the last token
            block = self._by_key.get((before, tuple(tokens[start : start + BLOCK_TOKENS]), writer))
            if block is None:
                break
            shared.append(block)
            before = block
        return shared

    def _complete(self, sequence: _Sequence, tokens: Sequence[int]) -> None:
        index, table = sequence.complete, sequence.table
        start = index * BLOCK_TOKENS
        key = (table[index - 1] if index else ROOT, tuple(tokens[start : start + BLOCK_TOKENS]), sequence.writer)
        sequence.complete += 1
        block = self._by_key.setdefault(key, table[index])
        if block == table[index]:
            self._keys[block] = key
            return
        self._hold(block)
        self._release(table[index])
        sequence.table = (*table[:index], block, *table[index + 1 :])

    def _hold(self, block: int) -> None:
        if not self._holders[block]:
            del self._kept[block]
        self._holders[block] += 1

    def _take(self) -> int:
        """A block without contents; the caller has seen that there is one."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._kept.popitem(last=False)
            key, self._keys[block] = self._keys[block], None
            assert key is not None
            del self._by_key[key]
        self._holders[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if self._keys[block] is None:
            self._free.append(block)
        else:
            self._kept[block] = None
