"""Which replica has seen the beginning of a prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lts_ray.runtime.runtime import BLOCK_TOKENS
from serve.routing.prefix_index import PrefixIndex
from tests.serve.policies.situations import XL, S

pieces = st.integers(0, 2).map(lambda token: (token,) * (BLOCK_TOKENS // 2))
prompts = st.lists(pieces, min_size=1, max_size=7).map(lambda parts: tuple(token for part in parts for token in part))
submodels = st.sampled_from([None, S.submodel, XL.submodel])
notes = st.tuples(st.sampled_from(["a", "b"]), prompts, submodels)


def whole_blocks(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Of `left`, the tokens in whole blocks with which `right` begins, too; never the last token."""
    count = 0
    while count + BLOCK_TOKENS < len(left) and left[: count + BLOCK_TOKENS] == right[: count + BLOCK_TOKENS]:
        count += BLOCK_TOKENS
    return count


@given(st.lists(notes, max_size=8), prompts, submodels)
def test_it_says_the_longest_beginning_in_whole_blocks_that_a_replica_has_seen_with_that_submodel(
    sent: list[tuple[str, tuple[int, ...], object]], prompt: tuple[int, ...], submodel: object
) -> None:
    index = PrefixIndex()
    for replica, tokens, writer in sent:
        index.note(replica, tokens, writer)
    shared = index.shared(prompt, submodel)
    for replica in ("a", "b"):
        seen = [tokens for id, tokens, writer in sent if id == replica and writer == submodel]
        assert shared.get(replica, 0) == max((whole_blocks(prompt, tokens) for tokens in seen), default=0)


def prompt_of(token: int, blocks: int) -> tuple[int, ...]:
    return (token,) * (blocks * BLOCK_TOKENS + 1)


def test_what_came_up_longest_ago_is_forgotten_and_of_a_prompt_its_end_first() -> None:
    index = PrefixIndex(blocks=4)
    index.note("a", prompt_of(1, 3), None)
    index.note("a", prompt_of(2, 2), None)
    assert index.shared(prompt_of(1, 3), None) == {"a": 2 * BLOCK_TOKENS}
    index.note("a", prompt_of(1, 1), None)
    index.note("a", prompt_of(3, 2), None)
    assert index.shared(prompt_of(1, 3), None) == {"a": BLOCK_TOKENS}
    assert index.shared(prompt_of(2, 2), None) == {"a": BLOCK_TOKENS}


def test_a_replica_that_has_gone_is_forgotten() -> None:
    index = PrefixIndex()
    index.note("a", prompt_of(1, 1), None)
    index.note("b", prompt_of(1, 1), None)
    index.forget("a")
    index.forget("never seen")
    assert index.shared(prompt_of(1, 1), None) == {"b": BLOCK_TOKENS}
