from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.gpt2 import GPT2
from lts_ray.models.backbones.opt import OPT
from lts_ray.models.backbones.transformer_xl import TransformerXL
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.proxies.live_model import LiveModel, live_backbone
from lts_ray.proxies.saliency import fisher, grad_norm, snip, synflow
from lts_ray.proxies.separation import EPSILON, jacob_cov, relu_log_det
from lts_ray.proxies.zero_cost import PROXIES, random_batch, zero_cost_score
from lts_ray.submodel import Submodel
from tests.proxies.models import Chain, live_model_of, live_submodel

NARROW = Architecture(d_model=8, n_head=(2, 4), d_inner=(16, 24), d_embed=8)
WIDE = Architecture(d_model=32, n_head=(2, 4), d_inner=(64, 96), d_embed=32)


def backbone(kind: str, architecture: Architecture = NARROW) -> Backbone:
    model: Backbone
    if kind == "gpt2":
        model = GPT2(architecture, vocab_size=40, context_length=8, cutoffs=(10,))
    elif kind == "opt":
        model = OPT(architecture, vocab_size=40, context_length=8)
    else:
        model = TransformerXL(architecture, vocab_size=40, memory_length=8, cutoffs=(10,))
    model.initialize(torch.Generator().manual_seed(0))
    return model


def batch(vocab_size: int = 40, rows: int = 4, length: int = 6) -> Tensor:
    return random_batch(vocab_size, rows=rows, length=length, generator=torch.Generator().manual_seed(1))


def one_by_one(weight: float) -> tuple[Chain, Tensor]:
    """hidden = weight · 2 for token 0; scores are hidden and 0, so that dL/dhidden for target 0 is p - 1."""
    model = Chain(1, 1, vocab_size=2)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.tensor([[2.0], [5.0]]))
        model.layers[0].weight.fill_(weight)
        model.head.weight.copy_(torch.tensor([[1.0], [0.0]]))
    return model, torch.tensor([[0, 0]])


def test_snip_grad_norm_and_fisher_are_what_one_weight_by_hand_gives() -> None:
    """L = -log σ(2w), so dL/dw = 2 (σ(2w) - 1), and a · dL/da = w · dL/dw; the last token has no target."""
    weight = -0.7
    model, tokens = one_by_one(weight)
    slope = 2 * (1 / (1 + math.exp(-2 * weight)) - 1)
    assert snip(live_model_of(model), tokens) == pytest.approx(abs(weight * slope), rel=1e-5)
    assert grad_norm(live_model_of(model), tokens) == pytest.approx(abs(slope), rel=1e-5)
    assert fisher(live_model_of(model), tokens) == pytest.approx(0.5 * (weight * slope) ** 2, rel=1e-5)


def test_saliencies_are_those_of_plain_backpropagation() -> None:
    model, tokens = Chain(4, 6, 5, vocab_size=7, activation=torch.tanh).eval(), batch(7)
    reference = copy.deepcopy(model)
    outputs: list[Tensor] = []
    for layer in reference.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    scores = reference(tokens)[:, :-1]
    loss = functional.cross_entropy(scores.reshape(-1, 7), tokens[:, 1:].reshape(-1))
    for output in outputs:
        output.retain_grad()
    loss.backward()
    weights = [layer.weight for layer in reference.layers]
    assert snip(live_model_of(model), tokens) == pytest.approx(sum((w * w.grad).abs().sum().item() for w in weights))
    assert grad_norm(live_model_of(model), tokens) == pytest.approx(sum(w.grad.norm().item() for w in weights))
    products = [(output * output.grad).sum(dim=1) for output in outputs]
    expected = sum((0.5 * each**2).mean(dim=0).sum().item() for each in products)
    assert fisher(live_model_of(model), tokens) == pytest.approx(expected)


def test_synflow_of_a_linear_chain_is_the_sum_over_paths_once_for_each_layer() -> None:
    """R = T · Σ over paths of the product of |w|, and Σ w · dR/dw = R for each of the three layers."""
    model, tokens = Chain(2, 3, 4, 2), torch.zeros(5, 6, dtype=torch.int64)
    first, second, third = (layer.weight.detach().double().abs() for layer in model.layers)
    paths = float((third @ second @ first).sum())
    assert synflow(live_model_of(model), tokens) == pytest.approx(3 * 6 * paths)


class Normed(Chain):
    def hidden(self, tokens: Tensor) -> Tensor:
        x = functional.layer_norm(super().hidden(tokens), (self.head.in_features,))
        return functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)[:, 0]


def test_norms_activations_and_attention_pass_synflow_on() -> None:
    """Without this, a norm of ones is 0, and so is everything after it."""
    tokens = torch.zeros(1, 6, dtype=torch.int64)
    plain, other = Chain(2, 3, 4), Normed(2, 3, 4, activation=functional.gelu)
    assert synflow(live_model_of(other), tokens) == pytest.approx(synflow(live_model_of(plain), tokens))


def test_synflow_stays_finite_in_a_deep_model() -> None:
    deep = Architecture(d_model=32, n_head=(2,) * 24, d_inner=(128,) * 24, d_embed=32)
    value = synflow(live_backbone(backbone("gpt2", deep)), batch())
    assert 0 < value < math.inf


def test_jacob_cov_of_a_linear_model_is_the_worst_there_is() -> None:
    """All sequences have one Jacobian: correlations are all 1, and the eigenvalues B, 0, …, 0."""
    tokens = batch(3)
    expected = -(math.log(4 + EPSILON) + 1 / (4 + EPSILON)) - 3 * (math.log(EPSILON) + 1 / EPSILON)
    linear, bent = Chain(3, 5), Chain(3, 8, 8, activation=torch.tanh)
    assert jacob_cov(live_model_of(linear), tokens) == pytest.approx(expected, rel=1e-6)
    assert jacob_cov(live_model_of(bent), tokens) > expected


def test_relu_log_det_is_what_known_activations_give() -> None:
    """Each token switches its own pattern on; |K| of two sequences with n neurons, h of them unlike: n² - (n - h)²."""
    model = Chain(3, 3, activation=functional.relu)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]]))
        model.layers[0].weight.copy_(torch.eye(3))
    tokens = torch.tensor([[0, 1], [1, 2]])  # 110 100 against 100 011: 1 + 3 of 6 unlike
    assert relu_log_det(live_model_of(model), tokens) == pytest.approx(math.log(6**2 - 2**2))
    assert relu_log_det(live_model_of(model), torch.tensor([[0, 1], [0, 1]])) == -math.inf


@pytest.mark.parametrize("kind", ["gpt2", "transformer-xl", "opt"])
@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_leaves_a_backbone_as_it_was(kind: str, name: str) -> None:
    model = backbone(kind).train()
    model.layers.eval()  # modes differ between modules, and must stay so
    next(model.parameters()).requires_grad_(False)
    before = copy.deepcopy(model)
    trained = model.head if kind == "transformer-xl" else model.layers
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    result = zero_cost_score(name, live_backbone(model), batch())
    assert math.isfinite(result.value)
    assert result.flops > 0
    for mine, other in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert mine.requires_grad == other.requires_grad
    ids = {id(parameter) for parameter in trained.parameters()}
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in ids)
        assert parameter.grad is None or torch.equal(parameter.grad, torch.ones_like(parameter))
    for mine, other in zip(model.modules(), before.modules(), strict=True):
        assert mine.training == other.training
        assert not mine._forward_hooks
        assert not mine._forward_pre_hooks
        assert not mine._backward_hooks


@pytest.mark.parametrize("name", PROXIES)
def test_the_same_model_and_tokens_give_the_same_value(name: str) -> None:
    first, second = (zero_cost_score(name, live_backbone(backbone("gpt2")), batch()) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["gpt2", "transformer-xl", "opt"])
def test_the_decoders_linear_layers_are_the_weights(kind: str) -> None:
    model = backbone(kind)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [names[id(weight)] for weight in live_backbone(model).weights(model)]
    assert all(name.startswith("layers.") and name.endswith("weight") for name in found)
    assert len(found) == 2 * (5 if kind == "transformer-xl" else 4)


@pytest.mark.parametrize("name", ["snip", "synflow", "relu_log_det"])
def test_a_wider_backbone_scores_higher(name: str) -> None:
    narrow, wide = (zero_cost_score(name, live_backbone(backbone("opt", each)), batch()) for each in (NARROW, WIDE))
    assert wide.value > narrow.value
    assert wide.flops > narrow.flops


@pytest.mark.parametrize("name", PROXIES)
def test_a_submodel_scores_as_its_extract_does_and_the_universal_model_stays(
    name: str, universal: MatFormer, tokens: Tensor
) -> None:
    submodel = Submodel((16, 8, 64))
    before = copy.deepcopy(universal.state_dict())
    found = zero_cost_score(name, live_submodel(universal, submodel), tokens)
    alone = extract(universal, submodel)
    assert found == zero_cost_score(name, live_submodel(alone, submodel), tokens)
    assert math.isfinite(found.value)
    assert all(torch.equal(value, before[key]) for key, value in universal.state_dict().items())


def test_fisher_sees_the_slices_of_a_submodels_ffn(universal: MatFormer, tokens: Tensor) -> None:
    """Its products are made from slices of the weights, by no module's forward: without them attention alone counts."""
    narrow, wide = (live_submodel(universal, Submodel((width,) * 3)) for width in (8, 64))
    assert fisher(narrow, tokens) != fisher(wide, tokens)
    assert len(narrow.weights(narrow.module)) == 3 * 7


def test_flops_of_a_linear_model_are_those_of_its_matrices() -> None:
    """12 tokens through 2·3·4 and the head 2·4·5; backward: two products a layer, for the first the embedding's too."""
    result = zero_cost_score("snip", live_model_of(Chain(3, 4, vocab_size=5)), batch(5, rows=2, length=6))
    assert result.flops == 12 * (2 * 3 * 4 + 2 * 4 * 5) + 12 * (2 * 3 * 4) + 12 * (2 * 4 * 5)


def test_random_tokens_come_from_the_generator_alone() -> None:
    assert torch.equal(batch(), batch())
    assert batch(7).max() < 7


def test_wrong_input_is_refused() -> None:
    subject = live_model_of(Chain(2, 3))
    with pytest.raises(LtsRayError, match="unknown proxy 'magic'; known: snip"):
        zero_cost_score("magic", subject, batch(3))
    with pytest.raises(LtsRayError, match="T of 2 or more"):
        snip(subject, torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(LtsRayError, match="B of 2 or more"):
        jacob_cov(subject, torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(LtsRayError, match="the model ran none"):
        relu_log_det(subject, batch(3))
    nothing = LiveModel(
        module=nn.Embedding(3, 2),
        embedding="",
        positions=None,
        outside=(),
        hidden=lambda module, tokens: module(tokens),
    )
    with pytest.raises(LtsRayError, match="no linear layer"):
        synflow(nothing, batch(3))
