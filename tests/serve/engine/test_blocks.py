"""Blocks against a twin of the cache's memory, which knows what each place was computed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.submodel import Submodel
from serve.engine.blocks import Blocks, blocks_needed

WIDE, NARROW, ROUNDED = Submodel((8,)), Submodel((4,)), Submodel((8,), precision="int4")
N = BLOCK_TOKENS

Place = tuple[tuple[int, Submodel], ...]
"""What the keys and values at a place depend on: all tokens up to it, and at which width each was run."""


@dataclass
class Cache:
    """The twin: runs pieces of sequences as a runtime would, and reads back what a sequence's blocks hold."""

    blocks: Blocks
    memory: dict[tuple[int, int], Place] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    history: dict[int, list[tuple[int, Submodel]]] = field(default_factory=dict)
    reused: dict[int, int] = field(default_factory=dict)

    def open(self, id: int, tokens: Sequence[int], writer: Submodel = WIDE, *, spare: int = 0) -> bool:
        found = self.blocks.open(id, tokens, writer, spare=spare)
        if found is None:
            return False
        assert found < len(tokens)
        self.tokens[id] = list(tokens)
        self.history[id] = [(token, writer) for token in tokens[:found]]
        self.reused[id] = found
        self.check()
        return True

    def write(self, id: int, n: int, writer: Submodel = WIDE) -> None:
        """Run the next n tokens; once all are run, the sequence goes on with its own number."""
        tokens, history, table = self.tokens[id], self.history[id], self.blocks.table(id)
        n = min(n, len(tokens) - len(history))
        for place in range(len(history), len(history) + n):
            history.append((tokens[place], writer))
            self.memory[table[place // N], place % N] = tuple(history)
        self.blocks.wrote(id, tokens, len(history), writer)
        self.check()
        if len(history) == len(tokens) and self.blocks.grow(id, len(tokens) + 1):
            tokens.append(id)

    def close(self, id: int) -> None:
        self.blocks.close(id)
        del self.tokens[id], self.history[id], self.reused[id]
        self.check()

    def check(self) -> None:
        tables = [self.blocks.table(id) for id in self.tokens]
        for id, table in zip(self.tokens, tables, strict=True):
            assert len(table) == blocks_needed(len(self.tokens[id]))
            assert len(set(table)) == len(table)
            for place in range(len(self.history[id])):
                assert self.memory[table[place // N], place % N] == tuple(self.history[id][: place + 1])
        holders = Counter(block for table in tables for block in table)
        assert self.blocks.available == self.blocks.n_blocks - len(holders)
        for id, table in zip(self.tokens, tables, strict=True):
            # What is not complete is still written to, so it has one holder.
            assert all(holders[block] == 1 for block in table[len(self.history[id]) // N :])


WORDS = [[word] * N for word in range(3)]
ACTIONS = st.one_of(
    st.tuples(
        st.just("open"),
        st.lists(st.sampled_from(WORDS), max_size=3),
        st.integers(1, N),
        st.sampled_from([WIDE, NARROW]),
    ),
    st.tuples(st.just("write"), st.integers(0, 9), st.integers(1, 40), st.sampled_from([WIDE, NARROW])),
    st.tuples(st.just("close"), st.integers(0, 9)),
)


@given(n_blocks=st.integers(1, 12), prefix_cache=st.booleans(), actions=st.lists(ACTIONS, max_size=30))
def test_every_sequence_reads_what_it_would_have_written_alone(
    n_blocks: int, prefix_cache: bool, actions: list[tuple[object, ...]]
) -> None:
    """And no block is lost, held twice by one, or written while two hold it: `check` runs after every action."""
    cache = Cache(Blocks(n_blocks, prefix_cache=prefix_cache))
    opened = 0
    for action in actions:
        alive = list(cache.tokens)
        match action:
            case ("open", list(words), int(tail), Submodel() as writer):
                tokens = [token for word in words for token in word] + [9] * tail
                opened += 1
                if not cache.open(opened, tokens, writer):
                    assert cache.blocks.available < blocks_needed(len(tokens))
            case ("write", int(index), int(n), Submodel() as writer) if alive:
                cache.write(alive[index % len(alive)], n, writer)
            case ("close", int(index)) if alive:
                cache.close(alive[index % len(alive)])
    for id in list(cache.tokens):
        cache.close(id)
    assert cache.blocks.available == n_blocks
    assert cache.open(0, [8] * (n_blocks * N))  # whatever was kept makes room for one that needs all


def test_a_prompt_seen_before_is_held_again_but_for_its_last_token() -> None:
    cache = Cache(Blocks(8))
    prompt = list(range(2 * N))
    cache.open(1, prompt)
    cache.write(1, 2 * N)
    cache.open(2, prompt)
    assert cache.reused[2] == N  # the second block ends with the last token
    cache.open(3, [*prompt, 0])
    assert cache.reused[3] == 2 * N
    cache.open(4, [*prompt[:-1], 0, 0])
    assert cache.reused[4] == N
    assert cache.blocks.table(3)[:2] == cache.blocks.table(1)[:2]


@pytest.mark.parametrize("other", [NARROW, ROUNDED], ids=["width", "precision"])
def test_another_width_or_precision_shares_nothing(other: Submodel) -> None:
    cache = Cache(Blocks(8))
    cache.open(1, [5] * 20, WIDE)
    cache.write(1, 20, WIDE)
    cache.open(2, [5] * 20, other)
    assert cache.reused[2] == 0


@pytest.mark.parametrize("other", [NARROW, ROUNDED], ids=["width", "precision"])
def test_what_two_wrote_is_not_shared_and_nothing_after_it(other: Submodel) -> None:
    cache = Cache(Blocks(16))
    prompt = [5] * (4 * N)
    cache.open(1, prompt)
    cache.write(1, N)
    cache.write(1, 3, other)
    cache.write(1, 3 * N)  # wide again: the third block is all wide, but it looks at the second
    cache.close(1)
    cache.open(2, prompt)
    assert cache.reused[2] == N


def test_two_that_write_the_same_at_once_end_with_one_copy() -> None:
    cache = Cache(Blocks(8))
    prompt = [5] * (2 * N + 1)
    cache.open(1, prompt)
    cache.open(2, prompt)
    assert cache.blocks.available == 2
    cache.write(1, len(prompt))
    cache.write(2, len(prompt))
    assert cache.blocks.table(1)[:2] == cache.blocks.table(2)[:2]
    assert cache.blocks.available == 4


def test_the_longest_unused_goes_first_and_its_end_before_its_beginning() -> None:
    cache = Cache(Blocks(6))
    old, new = [1] * (2 * N + 1), [2] * (2 * N + 1)
    for id, prompt in enumerate([old, new]):
        cache.open(id, prompt)
        cache.write(id, len(prompt))
    for id in range(2):
        cache.close(id)
    cache.open(2, [3] * 3 * N)  # two are free, one more is needed
    cache.close(2)
    for prompt, kept in [(old, N), (new, 2 * N)]:
        cache.open(9, prompt)
        assert cache.reused[9] == kept
        cache.close(9)


def test_too_few_blocks_take_nothing_and_change_nothing() -> None:
    cache = Cache(Blocks(4))
    cache.open(1, [1] * 2 * N)
    cache.write(1, 2 * N)  # and grows by a third block
    assert not cache.open(2, [1] * 2 * N, spare=1)
    assert not cache.blocks.grow(1, 5 * N)
    assert cache.blocks.available == 1
    assert cache.open(2, [1] * 2 * N)  # the first block is the other's
    assert cache.blocks.available == 0


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    cache = Cache(Blocks(4, prefix_cache=False))
    for id in range(2):
        cache.open(id, [1] * 2 * N)
        cache.write(id, 2 * N)
        assert cache.reused[id] == 0
        cache.close(id)


def test_what_is_in_doubt_is_for_nobody_else_any_more() -> None:
    blocks = Blocks(12)
    cache = Cache(blocks)
    for id in (1, 2):
        cache.open(id, [7] * 3 * N)
        cache.write(id, 3 * N)
    cache.close(2)
    blocks.forget()
    cache.open(3, [7] * 3 * N)
    assert cache.reused[3] == 0
    cache.write(1, 1)  # goes on with what it has
    for id in (1, 3):
        cache.close(id)
    assert blocks.available == 12
    cache.open(4, [7] * 3 * N)
    assert cache.reused[4] == 0


def test_a_block_whose_last_token_is_to_come_waits_for_it() -> None:
    blocks, tokens = Blocks(8), [*range(N - 1), -1, 5]
    blocks.open(1, tokens, WIDE)
    blocks.wrote(1, tokens, N, WIDE)
    assert blocks.open(2, [*range(N), 9], WIDE) == 0
    tokens[N - 1] = N - 1
    blocks.wrote(1, tokens, N, WIDE)
    assert blocks.open(3, [*range(N), 9], WIDE) == N
