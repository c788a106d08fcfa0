"""Transformer-XL against the paper's formula written as loops, and its cache against a memory of hidden states."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.relative_attention import RelativeAttention, Window, distance_table, shift
from lts_ray.models.backbones.transformer_xl import TransformerXL

VOCABULARY = 40
SHAPE = Architecture(d_model=16, n_head=(2, 8, 4), d_inner=(24, 40, 17), d_embed=16)
CLOSE = {"atol": 1e-9, "rtol": 1e-7}


def build(memory_length: int) -> TransformerXL:
    model = TransformerXL(SHAPE, vocab_size=VOCABULARY, memory_length=memory_length)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.double().eval()


def some_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def attend_in_loops(attention: RelativeAttention, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """The paper's four terms for each row, head, query and key. x: [B, T, D]; memory: hidden states, [B, M, D]."""
    rows, length, d_model = x.shape
    n_head, d_head = attention.n_head, attention.d_head
    frequencies = [1 / 10_000 ** (2 * pair / d_model) for pair in range(d_model // 2)]
    w_q, w_k, w_v = attention.qkv.weight.chunk(3)
    sequence = torch.cat([memory, x], dim=1)
    out = torch.zeros_like(x)
    for row in range(rows):
        for head in range(n_head):
            part = slice(head * d_head, (head + 1) * d_head)
            u, v = attention.content_bias[head], attention.distance_bias[head]
            for i in range(length):
                q = w_q[part] @ x[row, i]
                scores, values = [], []
                for j in range(memory.shape[1] + i + 1):
                    angles = [(memory.shape[1] + i - j) * frequency for frequency in frequencies]
                    sinusoid = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles]).to(x)
                    k, r = w_k[part] @ sequence[row, j], attention.distances.weight[part] @ sinusoid
                    scores.append((q @ k + q @ r + u @ k + v @ r) / d_head**0.5)
                    values.append(w_v[part] @ sequence[row, j])
                out[row, i, part] = torch.stack(scores).softmax(dim=0) @ torch.stack(values)
    return out @ attention.out.weight.T


def pass_with_hidden_states(
    model: TransformerXL, tokens: torch.Tensor, memories: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """One segment as the paper has it: each layer's inputs are kept, and read again by the next segment."""
    x = 4 * model.embedding.tables[0].weight[tokens]  # sqrt(d_model)
    kept = []
    for block, memory in zip(model.layers, memories, strict=True):
        kept.append(torch.cat([memory, x], dim=1)[:, max(0, memory.shape[1] + x.shape[1] - model.memory_length) :])
        x = block.attention_norm(x + attend_in_loops(block.attention, x, memory))
        x = block.feed_forward_norm(x + block.feed_forward(x))
    return model.head(x, model.embedding), kept


@pytest.mark.parametrize(("length", "memory"), [(1, 0), (1, 4), (5, 0), (5, 3), (3, 7)], ids=str)
def test_the_shift_is_a_view_with_each_score_at_its_key(length: int, memory: int) -> None:
    keys = memory + length
    scores = torch.randn(2, 3, length, keys + 1, generator=torch.Generator().manual_seed(0))
    shifted = shift(scores)
    assert shifted.untyped_storage().data_ptr() == scores.untyped_storage().data_ptr()
    for i in range(length):
        for j in range(memory + i + 1):
            distance = memory + i - j
            torch.testing.assert_close(shifted[..., i, j], scores[..., i, keys - 1 - distance], atol=0, rtol=0)


@pytest.mark.parametrize(("length", "memory"), [(1, 0), (1, 9), (6, 0), (4, 3)], ids=str)
def test_attention_is_the_papers_formula_for_every_query_and_key(length: int, memory: int) -> None:
    """Both ways of forming the distance scores: for a few queries and for many."""
    attention = build(4).layers[0].attention
    x = torch.randn(2, length + memory, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    past, now = x.split([memory, length], dim=1)
    model = build(memory_length=memory)
    cache = model.empty_cache(rows=2, length=length + memory)
    with torch.no_grad():
        _, k, v = attention.qkv(past).chunk(3, dim=-1)
        cache.keys[0, :, :memory], cache.values[0, :, :memory] = k, v
        window = Window(
            start=memory,
            memory=memory,
            distances=distance_table(length + memory, 16).double(),
            mask=torch.full((length, length + memory), float("-inf"), dtype=torch.float64).triu(memory + 1),
        )
        actual = attention(now, window, cache=cache, layer=0)
        torch.testing.assert_close(actual, attend_in_loops(attention, now, past), atol=1e-6, rtol=1e-6)


def test_few_queries_and_many_score_distances_alike() -> None:
    attention = RelativeAttention(16, 4).double()
    distances = distance_table(30, 16).double()
    many = torch.randn(2, 4, 40, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        together = attention._distance_scores(many, distances)
        one_by_one = [attention._distance_scores(query, distances) for query in many[:1].split(1, dim=2)]
    torch.testing.assert_close(torch.cat(one_by_one, dim=2), together[:1], **CLOSE)


@pytest.mark.parametrize("segments", [[6], [2, 2, 2], [3, 1, 1, 4], [1] * 9], ids=str)
@pytest.mark.parametrize("capacity", [6, 7, 20])
def test_the_cache_is_a_memory_of_hidden_states_that_slides_when_full(segments: list[int], capacity: int) -> None:
    """With two tokens of memory, a cache that is too short for all tokens gives what a long one gives."""
    model, tokens = build(memory_length=2), some_tokens(2, sum(segments))
    cache = model.empty_cache(rows=2, length=capacity)
    memories = [torch.zeros(2, 0, 16, dtype=torch.float64)] * SHAPE.n_layer
    with torch.no_grad():
        for part in tokens.split(segments, dim=1):
            expected, memories = pass_with_hidden_states(model, part, memories)
            torch.testing.assert_close(model(part, cache=cache), expected, atol=1e-5, rtol=1e-5)


def test_a_window_that_slides_forgets_what_is_past_its_reach() -> None:
    """One layer sees `memory_length` back; three layers see three times that, and nothing before."""
    model, tokens = build(memory_length=2), some_tokens(2, 12)
    tokens[1, -7:] = tokens[0, -7:]  # the last token sees 3 * 2 tokens back
    cache = model.empty_cache(rows=2, length=3)
    with torch.no_grad():
        for part in tokens.split(1, dim=1):
            scores = model(part, cache=cache)
    torch.testing.assert_close(scores[0], scores[1], **CLOSE)
    assert cache.lengths.tolist() == [3, 3]


def test_a_segment_longer_than_the_memory_is_one_whole_pass() -> None:
    """Past the precomputed distances too."""
    long, short, tokens = build(memory_length=40), build(memory_length=3), some_tokens(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(short(tokens), long(tokens), **CLOSE)


def test_gradients_flow_through_the_segment_and_not_into_its_memory() -> None:
    """The loss of the second segment has the gradients of the same segment over a memory of constants."""
    model, tokens, targets = build(memory_length=4), some_tokens(2, 10), some_tokens(2, 10).roll(3)
    cache = model.empty_cache(rows=2, length=14)
    for part in (slice(0, 5), slice(5, 10)):
        loss = model.loss(tokens[:, part], targets[:, part], cache=cache)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    memories = [torch.zeros(2, 0, 16, dtype=torch.float64)] * SHAPE.n_layer
    with torch.no_grad():
        _, memories = pass_with_hidden_states(model, tokens[:, :5], memories)
        wanted_cache = model.empty_cache(rows=2, length=14)
        model(tokens[:, :5], cache=wanted_cache)
    assert not cache.keys.requires_grad
    torch.testing.assert_close(cache.keys[:, :, :5], wanted_cache.keys[:, :, :5], **CLOSE)
    frozen = model.loss(tokens[:, 5:], targets[:, 5:], cache=wanted_cache)
    for gradient, want in zip(gradients, torch.autograd.grad(frozen, parameters), strict=True):
        torch.testing.assert_close(gradient, want, **CLOSE)


def test_a_cache_of_uneven_rows_or_too_short_for_the_segment_is_refused() -> None:
    model, tokens = build(memory_length=4), some_tokens(2, 5)
    cache = model.empty_cache(rows=2, length=8)
    with torch.no_grad():
        model(tokens, cache=cache)
        with pytest.raises(LtsRayError, match="5 tokens and the 4 before them do not fit a cache of 8 tokens"):
            model(tokens, cache=cache)
        cache.lengths[1] = 2
        with pytest.raises(LtsRayError, match=r"rows of one length.*got lengths \[5, 2\]"):
            model(tokens[:, :1], cache=cache)


def test_the_parameters_are_those_of_the_published_formula() -> None:
    """By hand: 376 + 17 f a layer; 19,997, 20,000, 160,000 and 67,738 words of 64, 16, 4 and 1 columns; projections
    8 * (64 + 16 + 4 + 1); in the head a bias a word, three clusters of 64 + 1, and a projection of 8 * 64."""
    shape = Architecture(d_model=8, n_head=(2, 4), d_inner=(12, 20), d_embed=64, div_val=4)
    with torch.device("meta"):
        model = TransformerXL(shape, vocab_size=267_735, memory_length=192)
    assert model.parameter_counts() == {
        "embedding": 1_279_808 + 320_000 + 640_000 + 67_738 + 680,
        "decoder": 580 + 716,
        "head": 267_735 + 195 + 512,
    }


def test_an_impossible_shape_is_refused() -> None:
    with pytest.raises(LtsRayError, match="memory_length must be 0 or more; got -1"):
        TransformerXL(SHAPE, vocab_size=VOCABULARY, memory_length=-1)
    with pytest.raises(LtsRayError, match="needs an even d_model; got 15"):
        TransformerXL(replace(SHAPE, d_model=15, n_head=(3, 5, 1)), vocab_size=VOCABULARY, memory_length=4)
