"""What every backbone promises: the cache, the loss, causality and the counts, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.gpt2 import GPT2
from lts_ray.models.backbones.opt import OPT
from lts_ray.models.backbones.transformer_xl import TransformerXL

VOCABULARY = 40
SHAPE = Architecture(d_model=16, n_head=(2, 8, 4), d_inner=(24, 40, 17), d_embed=16)
SPLIT = replace(SHAPE, d_embed=24, div_val=2)
NARROW = replace(SHAPE, d_embed=12)
CUTOFFS = (10, 25)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
Make = Callable[[], Backbone]

BACKBONES: dict[str, Make] = {
    "gpt2-plain": lambda: GPT2(SHAPE, vocab_size=VOCABULARY, context_length=24, adaptive=False),
    "gpt2-adaptive": lambda: GPT2(SHAPE, vocab_size=VOCABULARY, context_length=24, cutoffs=CUTOFFS),
    "gpt2-projected": lambda: GPT2(NARROW, vocab_size=VOCABULARY, context_length=24, cutoffs=CUTOFFS),
    "gpt2-split": lambda: GPT2(SPLIT, vocab_size=VOCABULARY, context_length=24, cutoffs=CUTOFFS),
    "opt": lambda: OPT(SHAPE, vocab_size=VOCABULARY, context_length=24),
    "transformer-xl": lambda: TransformerXL(SHAPE, vocab_size=VOCABULARY, memory_length=24),
    "transformer-xl-split": lambda: TransformerXL(SPLIT, vocab_size=VOCABULARY, memory_length=24, cutoffs=CUTOFFS),
}
all_backbones = pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
with_positions = pytest.mark.parametrize("make", [BACKBONES["gpt2-split"], BACKBONES["opt"]], ids=["gpt2", "opt"])


def build(make: Make, *, seed: int = 0) -> Backbone:
    """With biases and norms away from 0 and 1, so that no sum forgets one unseen."""
    model = make()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return model.eval()


def some_tokens(rows: int, length: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@all_backbones
def test_decoding_with_a_cache_gives_the_scores_of_the_whole_sequence(make: Make) -> None:
    model, tokens = build(make), some_tokens(3, 20)
    cache = model.empty_cache(rows=3, length=20)
    with torch.inference_mode():
        parts = [model(part, cache=cache) for part in tokens.split([7, 3, 2, *[1] * 8], dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), **CLOSE)
    assert cache.lengths.tolist() == [20] * 3


@all_backbones
def test_a_cache_may_be_rewound_and_emptied(make: Make) -> None:
    model, tokens = build(make), some_tokens(2, 12)
    cache = model.empty_cache(rows=2, length=16)
    with torch.inference_mode():
        whole = model(tokens, cache=cache)
        model(some_tokens(2, 3, seed=2), cache=cache)
        cache.lengths.fill_(11)
        torch.testing.assert_close(model(tokens[:, 11:], cache=cache), whole[:, 11:], **CLOSE)
        cache.lengths.zero_()
        torch.testing.assert_close(model(tokens, cache=cache), whole, **CLOSE)


@all_backbones
def test_the_last_scores_alone_are_the_last_of_all(make: Make) -> None:
    model, tokens = build(make), some_tokens(2, 9)
    with torch.inference_mode():
        last = model(tokens, last_only=True)
        assert last.shape == (2, 1, VOCABULARY)
        torch.testing.assert_close(last, model(tokens)[:, -1:], **CLOSE)


@all_backbones
def test_no_token_sees_a_later_one_and_every_token_sees_the_first(make: Make) -> None:
    model, tokens = build(make), some_tokens(1, 10)
    later, first = tokens.clone(), tokens.clone()
    later[:, 6:] = (later[:, 6:] + 1) % VOCABULARY
    first[:, 0] = (first[:, 0] + 1) % VOCABULARY
    with torch.inference_mode():
        scores = model(tokens)
        torch.testing.assert_close(model(later)[:, :6], scores[:, :6], **CLOSE)
        assert ((model(first) - scores).abs().amax(dim=-1) > 1e-4).all()


@all_backbones
def test_the_loss_and_its_gradients_are_those_of_cross_entropy_over_all_scores(make: Make) -> None:
    model, tokens, targets = build(make), some_tokens(2, 15), some_tokens(2, 15, seed=2)
    parameters = list(model.parameters())
    expected = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    loss = model.loss(tokens, targets)
    torch.testing.assert_close(loss, expected, **CLOSE)
    wanted = torch.autograd.grad(expected, parameters)
    for gradient, want in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        torch.testing.assert_close(gradient, want, **CLOSE)


@all_backbones
def test_every_parameter_has_a_gradient_even_when_its_words_do_not_occur(make: Make) -> None:
    """Data-parallel training waits for the gradient of each parameter."""
    model = build(make).train()
    model.loss(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64)).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@all_backbones
def test_training_works_under_autocast(make: Make) -> None:
    model, tokens, targets = build(make).train(), some_tokens(2, 15), some_tokens(2, 15, seed=2)
    expected = model.loss(tokens, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, targets)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=0, rtol=0.05)


@all_backbones
def test_the_counts_cover_every_parameter_once(make: Make) -> None:
    model = make()
    counts = model.parameter_counts()
    assert set(counts) == {"embedding", "decoder", "head"}
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())


@all_backbones
def test_fresh_weights_depend_on_the_generator_alone_and_predict_nothing_yet(make: Make) -> None:
    first, second = make(), make()
    for model in (first, second):
        model.initialize(torch.Generator().manual_seed(3))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    with torch.inference_mode():
        nats = first.loss(some_tokens(4, 20), some_tokens(4, 20, seed=2))
    assert abs(float(nats) - torch.log(torch.tensor(VOCABULARY)).item()) < 0.7  # clusters start equally likely


@all_backbones
def test_a_model_and_its_cache_work_in_bfloat16(make: Make) -> None:
    model, tokens = build(make), some_tokens(2, 8)
    with torch.inference_mode():
        expected = model(tokens).softmax(dim=-1)
        model = model.to(torch.bfloat16)
        cache = model.empty_cache(rows=2, length=8)
        scores = torch.cat([model(tokens[:, :7], cache=cache), model(tokens[:, 7:], cache=cache)], dim=1)
    assert scores.dtype == torch.bfloat16
    assert (scores.float().softmax(dim=-1) - expected).abs().mean() < 0.01


def row_of(cache: BackboneCache, row: int) -> BackboneCache:
    """A cache of one row that shares the memory of a larger one."""
    one = slice(row, row + 1)
    return BackboneCache(keys=cache.keys[:, one], values=cache.values[:, one], lengths=cache.lengths[one])


@with_positions
def test_rows_of_different_length_share_a_step(make: Make) -> None:
    """A row that replaces a longer one must not see what that one left there; in steps of one token and of three."""
    model, long, short, more = build(make), some_tokens(1, 15), some_tokens(1, 5, seed=2), some_tokens(2, 4, seed=3)
    cache = model.empty_cache(rows=2, length=24)
    with torch.inference_mode():
        model(long, cache=row_of(cache, 0))
        model(long, cache=row_of(cache, 1))
        cache.lengths[1] = 0
        model(short, cache=row_of(cache, 1))
        together = torch.cat([model(more[:, :1], cache=cache), model(more[:, 1:], cache=cache)], dim=1)
        for row, held in enumerate((long, short)):
            alone = model(torch.cat([held, more[row : row + 1]], dim=1))[0, -4:]
            torch.testing.assert_close(together[row], alone, **CLOSE)
    assert cache.lengths.tolist() == [19, 9]


@with_positions
def test_too_many_tokens_are_refused(make: Make) -> None:
    model = make()
    with pytest.raises(LtsRayError, match="25 tokens do not fit: the context is 24"):
        model(some_tokens(1, 25))
    with pytest.raises(LtsRayError, match="11 tokens do not fit: the context is 10"):
        model(some_tokens(1, 11), cache=model.empty_cache(rows=1, length=10))
    with pytest.raises(LtsRayError, match="1 rows of tokens do not fit a cache of 2 rows"):
        model(some_tokens(1, 4), cache=model.empty_cache(rows=2, length=10))


@pytest.mark.parametrize(
    "make",
    [
        lambda shape: GPT2(shape, vocab_size=VOCABULARY, context_length=24),
        lambda shape: TransformerXL(shape, vocab_size=VOCABULARY, memory_length=24),
        lambda shape: OPT(shape, vocab_size=VOCABULARY, context_length=24),
    ],
    ids=["gpt2", "transformer-xl", "opt"],
)
def test_heads_that_do_not_divide_the_model_are_refused(make: Callable[[Architecture], Backbone]) -> None:
    with pytest.raises(LtsRayError, match="layer 1 has 3 heads for d_model 16"):
        make(replace(SHAPE, n_head=(2, 3, 4)))
