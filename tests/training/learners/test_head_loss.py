"""The chunked loss and its gradients are those of torch's own functions on whole logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.training.learners import head_loss as module
from lts_ray.training.learners.head_loss import Teaching, chunk_tokens, head_loss

SHARES, PORTIONS = [0.5, 0.2, 0.3], [0.0, 0.7, 1.0]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole chunks and a rest."""
    monkeypatch.setattr(module, "CHUNK_TOKENS", 4)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch() -> tuple[Tensor, Tensor, Tensor, Teaching]:
    hidden = drawn(3, 10, 8, seed=0).requires_grad_()
    head = drawn(17, 8, seed=1).requires_grad_()
    targets = torch.randint(17, (10,), generator=torch.Generator().manual_seed(2))
    return hidden, head, targets, Teaching(hidden=drawn(10, 6, seed=3), head=drawn(17, 6, seed=4), portions=PORTIONS)


def expected(hidden: Tensor, head: Tensor, targets: Tensor, teaching: Teaching | None) -> tuple[Tensor, list[Tensor]]:
    total, losses = hidden.new_zeros(()), []
    for index, share in enumerate(SHARES):
        logits = functional.linear(hidden[index], head).float()
        losses.append(functional.cross_entropy(logits, targets))
        portion = 0.0 if teaching is None else teaching.portions[index]
        total = total + share * (1 - portion) * losses[-1]
        if teaching is not None:
            taught = functional.log_softmax(functional.linear(teaching.hidden, teaching.head).float(), dim=-1)
            divergence = functional.kl_div(logits.log_softmax(-1), taught, reduction="batchmean", log_target=True)
            total = total + share * portion * divergence
    return total, losses


@pytest.mark.parametrize("by_compiler", [False, True])
@pytest.mark.parametrize("taught", [False, True], ids=["text", "teacher"])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_losses_and_gradients_are_torchs(
    taught: bool, factor: float, by_compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """by_compiler: as it would be compiled, but run as it is."""
    monkeypatch.setattr(module, "compiled", lambda function: function)
    hidden, head, targets, teaching = batch()
    chosen = teaching if taught else None
    total, losses = head_loss(hidden, head, targets, SHARES, chosen, by_compiler=by_compiler)
    wanted, each = expected(hidden, head, targets, chosen)
    torch.testing.assert_close(total, wanted)
    torch.testing.assert_close(losses, torch.stack(each))
    found = torch.autograd.grad(total * factor, [hidden, head])
    torch.testing.assert_close(found, torch.autograd.grad(wanted * factor, [hidden, head]))
    assert not losses.requires_grad


def test_hopeless_and_certain_words_have_finite_losses() -> None:
    """A probability of the target that vanishes in float32 is no infinity."""
    hidden = torch.tensor([[[1.0], [1.0]]])
    head = torch.tensor([[0.0], [200.0]])
    _, losses = head_loss(hidden, head, torch.tensor([0, 1]), [1.0])
    torch.testing.assert_close(losses, torch.tensor([100.0]))


def test_sums_stay_in_float32_under_autocast() -> None:
    hidden, head, targets, teaching = batch()
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = head_loss(hidden, head, targets, SHARES, teaching)
        wanted, each = expected(hidden, head, targets, teaching)
    torch.testing.assert_close(losses, torch.stack(each), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, wanted, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(total, [hidden, head])
    torch.testing.assert_close(found, torch.autograd.grad(wanted, [hidden, head]), atol=5e-3, rtol=0.05)
    assert [each.dtype for each in found] == [torch.float32] * 2


@pytest.mark.parametrize("learning", [(True, False), (False, True), (False, False)], ids=str)
def test_what_is_frozen_costs_no_gradient(learning: tuple[bool, bool]) -> None:
    hidden, head, targets, _ = batch()
    inputs = [each.detach().requires_grad_(learns) for each, learns in zip((hidden, head), learning, strict=True)]
    total, _ = head_loss(inputs[0], inputs[1], targets, SHARES)
    torch.testing.assert_close(total.detach(), expected(hidden, head, targets, None)[0].detach())
    assert total.requires_grad == any(learning)
    if any(learning):
        total.backward()  # type: ignore[no-untyped-call]
    assert tuple(each.grad is not None for each in inputs) == learning


def test_a_chunk_suits_a_cpus_cache_or_a_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert chunk_tokens("cpu", 2048) == chunk_tokens("cpu", 50_000) == 256
    assert [chunk_tokens("cuda", words) for words in (2048, 50_000, 10**7)] == [131_072, 5_120, 256]
