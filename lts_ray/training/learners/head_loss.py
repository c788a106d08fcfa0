"""The output matrix and the loss in one: the logits of a few tokens at a time, never of all.

With 50 thousand words, the logits of four granularities are far larger than the model. Here each chunk's gradient is
formed where its logits are, in the forward pass, and nothing is kept but the gradients of the hidden states and of the
matrix. With a small vocabulary the chunks stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lts_ray.torch_compiler import compiled

CHUNK_TOKENS = 256
"""On a CPU: enough to make good use of a matrix that is read once a chunk, few enough for a cache: 2 MB with 2048
words."""
CHUNK_BYTES = 2**30
"""On a GPU: of a chunk's logits in float32. Kernels are few and large, and it is little beside what a pass keeps."""


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """A granularity's loss is (1 - portion) · cross-entropy + portion · KL(teacher ‖ granularity), in nats a token."""

    hidden: Tensor
    """The teacher's hidden states, [N, d_teacher]."""
    head: Tensor
    """The teacher's output matrix, [V, d_teacher]."""
    portions: Sequence[float]
    """Of each granularity, how much its loss heeds the teacher."""


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    shares: Sequence[float],
    teaching: Teaching | None = None,
    *,
    by_compiler: bool = False,
) -> tuple[Tensor, Tensor]:
    """Σ share · loss over the granularities, and the cross-entropy of each, detached: a scalar and [G].

    hidden: [G, N, d_model], of the same N tokens. head: [V, d_model]. targets: [N], int64. All means are over tokens.
    by_compiler: torch compiles what is done to a chunk's logits, where no teacher is heeded.
    """
    given = hidden, head, targets, tuple(shares), teaching, by_compiler
    total, losses = _HeadLoss.apply(*given)  # type: ignore[no-untyped-call]
    return total, losses


def chunk_tokens(device: str, vocab_size: int) -> int:
    """Whose logits are there at one time. device: its type."""
    return CHUNK_TOKENS if device != "cuda" else max(CHUNK_TOKENS, CHUNK_BYTES // (4 * vocab_size) // 256 * 256)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        shares: tuple[float, ...],
        teaching: Teaching | None,
        by_compiler: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):  # the products are cast here, the sums must not be
            inputs, wanted = (hidden.detach().to(dtype), head.detach().to(dtype)), ctx.needs_input_grad[:2]
            total, losses, gradients = _computed(*inputs, targets, shares, teaching, wanted, by_compiler)
        ctx.gradients = [None if g is None else g.to(x.dtype) for g, x in zip(gradients, (hidden, head), strict=True)]
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # In place, and by a tensor: reading its value would wait for a GPU.
        scaled = [gradient if gradient is None else gradient.mul_(grad_total) for gradient in ctx.gradients]
        ctx.gradients = [None, None]
        return *scaled, None, None, None, None


def _computed(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    shares: Sequence[float],
    teaching: Teaching | None,
    wanted: tuple[bool, bool],
    by_compiler: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
    """The total, the cross-entropies, and the total's gradients for hidden and head, where wanted."""
    grad_hidden = torch.empty_like(hidden) if wanted[0] else None
    grad_head = torch.zeros_like(head, dtype=torch.float32) if wanted[1] else None
    portions = [0.0] * len(shares) if teaching is None else list(teaching.portions)
    crosses, divergences = hidden.new_zeros(2, len(shares), dtype=torch.float32)
    count, size = len(targets), chunk_tokens(hidden.device.type, len(head))
    for start in range(0, count, size):
        chunk = slice(start, start + size)
        at = targets[chunk, None]  # [C, 1]
        taught = None
        if teaching is not None and any(portions):
            taught = torch.softmax(_logits(teaching.hidden[chunk].to(hidden.dtype), teaching.head.to(hidden.dtype)), -1)
        for index, (share, portion) in enumerate(zip(shares, portions, strict=True)):
            x = hidden[index, chunk]
            if by_compiler and portion == 0:
                loss, gradient = compiled(_untaught)(x @ head.t(), at)
                crosses[index] += loss
                if grad_hidden is not None:
                    torch.mm(gradient, head, out=grad_hidden[index, chunk]).mul_(share / count)
                if grad_head is not None:
                    grad_head.add_(gradient.t() @ x, alpha=share / count)
                continue
            logits = _logits(x, head)  # [C, V]
            p = torch.softmax(logits, dim=-1)
            # Of the likeliest word, whose probability cannot vanish: log Σ exp = logit - log p.
            norms = logits.amax(dim=1) - p.amax(dim=1).log()
            crosses[index] += (norms - logits.gather(1, at)[:, 0]).sum()
            learns = taught is not None and portion > 0
            if taught is not None and learns:
                # Σ t (log t - logit) + log Σ exp
                divergences[index] += (torch.special.entr(taught).neg_().sub_(taught * logits)).sum() + norms.sum()
            if not any(wanted):
                continue
            # The gradient of the logits, over share / N: p - (1 - portion) · target - portion · teacher.
            p.scatter_add_(1, at, p.new_full(at.shape, portion - 1))
            if taught is not None and learns:
                p.sub_(taught, alpha=portion)
            gradient = p.mul_(share / count).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(gradient, head, out=grad_hidden[index, chunk])
            if grad_head is not None:
                grad_head += gradient.t() @ x
    losses = crosses / count
    weighted = [  # by plain numbers: a tensor of them would have to be copied to the device
        share * ((1 - portion) * loss + portion * divergence)
        for share, portion, loss, divergence in zip(shares, portions, losses, divergences / count, strict=True)
    ]
    return torch.stack(weighted).sum(), losses, (grad_hidden, grad_head)


def _untaught(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy and its gradient, in the logits' dtype. logits: [C, V]; at: [C, 1]."""
    exact = logits.float()
    norms = exact.logsumexp(1, keepdim=True)
    words = torch.arange(exact.shape[1], device=at.device)
    gradient = (exact - norms).exp() - (words == at).float()  # to be fused: on its own it would be another matrix
    return (norms - exact.gather(1, at)).sum(), gradient.to(logits.dtype)


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    """[C, d], [V, d] to [C, V], float32."""
    return (hidden @ head.t()).float()
