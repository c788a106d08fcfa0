"""Proxies that sum what each weight or channel means to the loss, or to the signal, of an untrained model.

Definitions of Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (2021), on the decoder's linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lts_ray.proxies.live_model import LiveModel

LINEARISED = (functional.layer_norm, functional.rms_norm, functional.relu, torch.relu, functional.gelu)


def snip(subject: LiveModel, tokens: Tensor) -> float:
    """Σ |w · dL/dw|: how much the loss would change, to first order, without each weight. tokens: [B, T]."""
    weights, gradients = _gradients(subject, tokens)
    return sum(float((w * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))


def grad_norm(subject: LiveModel, tokens: Tensor) -> float:
    """The sum over layers of the Euclidean norm of dL/dW. tokens: [B, T]."""
    _, gradients = _gradients(subject, tokens)
    return sum(float(gradient.norm()) for gradient in gradients)


def fisher(subject: LiveModel, tokens: Tensor) -> float:
    """Σ over a layer's output channels of ½ · mean over sequences of (Σ over time of a · dL/da)². tokens: [B, T]."""
    model = subject.copy()
    with _LinearOutputs(subject.weights(model), rows=len(tokens)) as seen:
        loss = subject.loss(model, tokens)
    gradients = torch.autograd.grad(loss, seen.outputs)
    products = [(a * g).sum(dim=1) for a, g in zip(seen.outputs, gradients, strict=True)]  # [B, channels]
    return sum(float(0.5 * product.detach().square().mean(dim=0).sum()) for product in products)


def synflow(subject: LiveModel, tokens: Tensor) -> float:
    """Σ w · dR/dw, where R is the sum of the decoder's output for ones as its input and |w| as weights.

    No data: tokens [B, T] only give the length. Double precision, for R grows by orders of magnitude with each layer.
    """
    model = subject.copy(torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model.get_submodule(subject.embedding).register_forward_hook(lambda _module, _inputs, out: torch.ones_like(out))
    if subject.positions is not None:
        model.get_submodule(subject.positions).register_forward_hook(lambda _module, _inputs, out: out * 0)
    weights = subject.weights(model)
    with _SignalFlow():
        signal = subject.hidden(model, tokens[:1]).sum()
    gradients = torch.autograd.grad(signal, weights, materialize_grads=True, allow_unused=True)
    return sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True))


def _gradients(subject: LiveModel, tokens: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The decoder's weights, and the loss's gradients with respect to them."""
    model = subject.copy()
    weights = subject.weights(model)
    gradients = torch.autograd.grad(subject.loss(model, tokens), weights, materialize_grads=True)
    return [weight.detach() for weight in weights], gradients


class _SignalFlow(TorchFunctionMode):
    """Makes a decoder linear in its signal: norms and activations pass it on, a gate (SiLU) is open.

    Attention gives the values themselves. Nothing is lost: where all tokens are alike, so are their values, and any
    weighted mean of them is one of them; queries and keys change nothing. Computed, the weights' derivatives would be
    differences of huge numbers that should be equal.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in LINEARISED:
            return args[0]
        if func is functional.silu:
            return torch.ones_like(args[0])
        if func is functional.scaled_dot_product_attention:
            query, _, value = args[:3]  # [B, n_head, T, d_head], [B, n_kv_head, S, d_head]
            return value[..., -query.shape[-2] :, :].repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return func(*args, **(kwargs or {}))


class _LinearOutputs(TorchFunctionMode):
    """Keeps what comes out of every product with one of the weights, also where no module's forward makes it."""

    def __init__(self, weights: Sequence[nn.Parameter], *, rows: int) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self._weights = {id(weight) for weight in weights}
        self._rows = rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.linear:
            weight = args[1]
            is_ours = id(weight) in self._weights or id(weight._base) in self._weights  # a slice's base is the whole
            if is_ours and result.dim() == 3 and len(result) == self._rows:  # relative positions have no rows
                self.outputs.append(result)
        return result
