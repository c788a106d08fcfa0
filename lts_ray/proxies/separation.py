"""Proxies that ask how differently an untrained model treats the sequences of a batch (Mellor et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lts_ray.errors import LtsRayError
from lts_ray.proxies.live_model import LiveModel

EPSILON = 1e-5
ACTIVATIONS = (functional.relu, torch.relu, functional.gelu, functional.silu)


def jacob_cov(subject: LiveModel, tokens: Tensor) -> float:
    """-Σ (log(v + k) + 1 / (v + k)) over the eigenvalues v of the correlation between sequences' Jacobians.

    A Jacobian is that of the scores' sum with respect to the embedding's output, for tokens themselves have no
    derivative. tokens: [B, T].
    """
    _check(tokens)
    model = subject.copy()
    inputs: list[Tensor] = []

    def start_here(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        inputs.append(output.detach().requires_grad_())
        return inputs[-1].clone()  # what counts arithmetic cannot follow a leaf through modules

    model.get_submodule(subject.embedding).register_forward_hook(start_here)
    (jacobian,) = torch.autograd.grad(model(tokens).sum(), inputs)  # [B, T, D]
    correlation = torch.corrcoef(jacobian.flatten(1).double())
    if not correlation.isfinite().all():
        raise LtsRayError("jacob_cov has no value: a sequence's Jacobian does not vary, or holds a number not finite")
    spectrum = torch.linalg.eigvalsh(correlation) + EPSILON
    return -float((spectrum.log() + 1 / spectrum).sum())


def relu_log_det(subject: LiveModel, tokens: Tensor) -> float:
    """log |det K|, where K counts the neurons that are on, or off, in both of two sequences (NASWOT's score).

    A neuron at every place in time is one neuron, on where what enters its activation is above 0: for a ReLU the
    definition itself. Minus infinity where two sequences switch alike. tokens: [B, T].
    """
    _check(tokens)
    model = subject.copy()
    with torch.no_grad(), _Switches(rows=len(tokens)) as seen:
        subject.hidden(model, tokens)
    if not seen.any:
        raise LtsRayError("relu_log_det needs ReLU, GELU or SiLU activations; the model ran none")
    return float(torch.linalg.slogdet(seen.agreement).logabsdet)


class _Switches(TorchFunctionMode):
    """Counts, for every two rows of a batch, the neurons that are on in both or off in both."""

    def __init__(self, *, rows: int) -> None:
        super().__init__()
        self.any = False
        self.agreement = torch.zeros(rows, rows, dtype=torch.float64)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in ACTIVATIONS:
            self.any = True
            on = (args[0].detach() > 0).flatten(1).float()
            agreement = on @ on.T + (1 - on) @ (1 - on).T  # [B, B]
            self.agreement += agreement.double().cpu()
        return func(*args, **(kwargs or {}))


def _check(tokens: Tensor) -> None:
    if tokens.dim() != 2 or len(tokens) < 2:
        raise LtsRayError(
            f"this proxy compares sequences: it needs tokens [B, T] with B of 2 or more; got {list(tokens.shape)}"
        )
