"""The adaptive embedding and softmax, against a loop over tokens, brute force and torch's own adaptive softmax."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.tied_logits import AdaptiveSoftmax

VOCABULARY, CUTOFFS = 50, (12, 20, 37)
SPLIT = Architecture(d_model=16, n_head=(1,), d_inner=(1,), d_embed=16, div_val=2)
SHAPES = {
    "one table": replace(SPLIT, div_val=1),
    "one narrow table": replace(SPLIT, div_val=1, d_embed=6),
    "a table for each cluster": SPLIT,
    "wide tables": replace(SPLIT, d_embed=27, div_val=3),
}
all_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def build(
    shape: Architecture, cutoffs: tuple[int, ...] = CUTOFFS, *, scale: float = 1.0
) -> tuple[AdaptiveEmbedding, AdaptiveSoftmax]:
    embedding = AdaptiveEmbedding(shape, vocab_size=VOCABULARY, cutoffs=cutoffs, scale=scale)
    head = AdaptiveSoftmax(shape, embedding)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*embedding.parameters(), *head.parameters()):
            parameter.normal_(std=0.5, generator=generator)
    return embedding.double(), head.double()


def some_hidden(rows: int = 4, length: int = 5) -> torch.Tensor:
    return torch.randn(rows, length, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cluster_of(word: int) -> int:
    return sum(word >= cutoff for cutoff in CUTOFFS)


def projected(embedding: AdaptiveEmbedding, word: int) -> torch.Tensor:
    """The word's row of its cluster, times the cluster's projection, from the modules' own parameters."""
    cluster = cluster_of(word)
    if len(embedding.tables) == 1:
        row, projection = embedding.tables[0].weight[word], 0
    else:
        row, projection = embedding.tables[cluster].weight[word - (0, *CUTOFFS)[cluster]], cluster
    return embedding.projections[projection].weight @ row if len(embedding.projections) else row


@all_shapes
def test_each_word_is_its_row_projected_and_scaled(shape: Architecture) -> None:
    embedding, _ = build(shape, scale=4.0)
    words = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(2)).view(5, 10)
    x = embedding(words)
    for place in [(row, column) for row in range(5) for column in range(10)]:
        torch.testing.assert_close(x[place], 4 * projected(embedding, int(words[place])))


@all_shapes
def test_the_log_probabilities_are_those_of_the_two_steps_by_brute_force(shape: Architecture) -> None:
    """Word by word: p(word) = p(cluster) · p(word | cluster); the tails score with the word's embedding itself."""
    embedding, head = build(shape)
    hidden = some_hidden(1, 1)
    h = hidden.flatten()
    assert head.clusters is not None
    own = h if head.projection is None else head.projection.weight @ h
    logits = {}
    for word in range(VOCABULARY):
        if cluster_of(word) == 0:
            logits[word] = embedding.tables[0].weight[word] @ own + head.bias[word]
        else:
            logits[word] = projected(embedding, word) @ h + head.bias[word]
    clusters = head.clusters(own)
    frequent = torch.stack([logits[word] for word in range(CUTOFFS[0])])
    below = torch.cat([frequent, clusters]).exp().sum()
    expected = []
    for word in range(VOCABULARY):
        cluster = cluster_of(word)
        p = logits[word].exp() / below
        if cluster:
            siblings = torch.stack([logits[each] for each in range(VOCABULARY) if cluster_of(each) == cluster])
            p = clusters[cluster - 1].exp() / below * logits[word].exp() / siblings.exp().sum()
        expected.append(p.log())
    torch.testing.assert_close(head(hidden, embedding).flatten(), torch.stack(expected))


@all_shapes
@pytest.mark.parametrize("cutoffs", [(), (12,), CUTOFFS], ids=str)
def test_the_probabilities_of_all_words_sum_to_one(shape: Architecture, cutoffs: tuple[int, ...]) -> None:
    embedding, head = build(shape, cutoffs)
    total = head(some_hidden(), embedding).exp().sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_torch_computes_the_same_adaptive_softmax() -> None:
    """torch's has no biases in the tails and no projection before its first matrix: those are folded in here."""
    embedding, head = build(SPLIT)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(16, VOCABULARY, CUTOFFS, div_value=2, head_bias=True).double()
    frequent = CUTOFFS[0]
    assert head.projection is not None
    assert head.clusters is not None
    with torch.no_grad():
        head.bias[frequent:] = 0
        first = torch.cat([embedding.table(0), head.clusters.weight])
        theirs.head.weight.copy_(first @ head.projection.weight)
        theirs.head.bias.copy_(torch.cat([head.bias[:frequent], head.clusters.bias]))
        for cluster, tail in enumerate(theirs.tail, start=1):
            tail[0].weight.copy_(embedding.projections[cluster].weight.T)
            tail[1].weight.copy_(embedding.table(cluster))
    hidden = some_hidden()
    targets = torch.arange(20).view(4, 5) * 2
    torch.testing.assert_close(head(hidden, embedding).flatten(0, 1), theirs.log_prob(hidden.flatten(0, 1)))
    expected = theirs(hidden.flatten(0, 1), targets.flatten()).loss
    torch.testing.assert_close(head.loss(hidden, targets, embedding).double(), expected, atol=1e-6, rtol=1e-6)


def test_the_loss_holds_where_a_cluster_has_no_token() -> None:
    embedding, head = build(SPLIT)
    hidden, targets = some_hidden(1, 3), torch.tensor([[1, 49, 11]])
    expected = -head(hidden, embedding)[0, torch.arange(3), targets[0]].mean()
    torch.testing.assert_close(head.loss(hidden, targets, embedding).double(), expected, atol=1e-6, rtol=1e-6)


def test_the_head_ties_its_words_to_the_embedding() -> None:
    """No table is counted twice, and a gradient of the head reaches all of them."""
    embedding, head = build(SPLIT)
    tables = {name for name, _ in embedding.named_parameters()}
    assert {name for name, _ in head.named_parameters()} == {
        "bias",
        "clusters.weight",
        "clusters.bias",
        "projection.weight",
    }
    head.loss(some_hidden(1, 4), torch.tensor([[0, 15, 30, 45]]), embedding).backward()
    reached = {name for name, parameter in embedding.named_parameters() if parameter.grad is not None}
    assert reached == tables - {"projections.0.weight"}  # the frequent words' output projection is the head's own


def test_cutoffs_that_the_vocabulary_does_not_reach_are_left_out() -> None:
    assert AdaptiveEmbedding(SPLIT, vocab_size=20, cutoffs=CUTOFFS).bounds == (0, 12, 20)
    assert AdaptiveEmbedding(SPLIT, vocab_size=5, cutoffs=CUTOFFS).n_cutoffs == 0


def test_an_impossible_division_is_refused() -> None:
    with pytest.raises(LtsRayError, match="d_embed 16 is too narrow to be divided by div_val 4 for each of 4 clusters"):
        AdaptiveEmbedding(replace(SPLIT, div_val=4), vocab_size=VOCABULARY, cutoffs=CUTOFFS)
    with pytest.raises(LtsRayError, match="cutoffs must grow and lie inside the vocabulary of 50; got 20, 12"):
        AdaptiveEmbedding(SPLIT, vocab_size=VOCABULARY, cutoffs=(20, 12))
