"""The model computes what transformers' ViT computes, nests, and mixes submodels in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.translator import activation_name
from lts_ray.models.vit.matvit import MatViT, in_patches
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.models.vit.vit_extract import extract_vit
from lts_ray.models.vit.vit_translator import to_ours, to_theirs
from lts_ray.submodel import Submodel
from tests.vision.make import CONFIG, make_pixels, make_vit

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
submodels = st.builds(lambda widths: Submodel(tuple(widths)), st.lists(st.integers(1, 32), min_size=3, max_size=3))
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no biases of queries": {"qkv_bias": False},
    "another activation": {"activation": "gelu_tanh", "layer_norm_eps": 1e-3},
    "gray, with oblong patches that leave a rest": {"channels": 1, "image_size": (7, 9), "patch_size": (2, 3)},
    "heads of their own size": {"head_dim": 6, "n_head": 3},
}


def theirs(config: MatViTConfig) -> ViTForImageClassification:
    found: ViTConfig = ViTConfig(
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        intermediate_size=config.widths[0],
        image_size=list(config.image_size),
        patch_size=list(config.patch_size),
        num_channels=config.channels,
        num_labels=len(config.labels),
        qkv_bias=config.qkv_bias,
        layer_norm_eps=config.layer_norm_eps,
        hidden_act=activation_name(config.activation),
    )
    if config.head_dim is not None:
        found.head_dim = config.head_dim
    return ViTForImageClassification(found).eval()


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_the_universal_model_computes_what_transformers_does(changes: dict[str, Any]) -> None:
    ours = make_vit(**changes)
    reference = theirs(ours.config)
    state = reference.state_dict()
    assert to_ours(state).keys() == ours.state_dict().keys()
    reference.load_state_dict({name: ours.state_dict()[key] for name in state for key in to_ours({name: state[name]})})
    pixels = make_pixels(5, ours.config)
    with torch.inference_mode():
        found = reference(pixels)
        torch.testing.assert_close(ours(pixels, submodel=ours.config.universal), found.logits, **CLOSE)
        encoded = reference.vit(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(ours.encode(pixels, submodel=ours.config.universal), encoded, **CLOSE)


def test_names_go_to_the_hub_and_back() -> None:
    state = make_vit().state_dict()
    assert to_ours(to_theirs(state)).keys() == state.keys()


@pytest.mark.parametrize("widths", [(4, 4, 4), (32, 1, 7)], ids=["uniform", "per layer"])
def test_a_submodel_computes_what_its_extract_computes(widths: tuple[int, ...]) -> None:
    model, pixels = make_vit(), make_pixels(5)
    smaller = extract_vit(model, Submodel(widths))
    with torch.inference_mode():
        sliced = model(pixels, submodel=Submodel(widths))
        torch.testing.assert_close(smaller(pixels, submodel=smaller.config.universal), sliced, **CLOSE)
        assert (sliced - model(pixels, submodel=model.config.universal)).abs().max() > 0.01
    assert sum(each.numel() for each in smaller.parameters()) == model.config.params(Submodel(widths))


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_parameters_are_counted_from_the_shape(changes: dict[str, Any]) -> None:
    model = make_vit(**changes)
    assert sum(each.numel() for each in model.parameters()) == model.config.params(model.config.universal)


@given(chosen=st.lists(submodels, min_size=1, max_size=5))
def test_an_image_gets_what_it_would_get_alone(chosen: list[Submodel]) -> None:
    model, pixels = make_vit(), make_pixels(len(chosen))
    with torch.inference_mode():
        together = model(pixels, submodel=chosen)
        alone = [model(image[None], submodel=each)[0] for image, each in zip(pixels, chosen, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), **CLOSE)


def test_a_fan_is_every_submodel_alone_with_its_gradients() -> None:
    pixels, names = make_pixels(3), ("XL", "S", "M")
    once, apart = make_vit(), make_vit()
    chosen = [once.config.trained[name] for name in names]
    fanned = once.fan_out(pixels, chosen)
    alone = torch.cat([apart.encode(pixels, submodel=each) for each in chosen])
    torch.testing.assert_close(fanned, alone, **CLOSE)
    weights = torch.randn(fanned.shape, generator=torch.Generator().manual_seed(5))
    for model, found in ((once, fanned), (apart, alone)):
        functional.mse_loss(found, weights).backward()  # type: ignore[no-untyped-call]
        assert model.patches.weight.grad is not None
    for a, b in zip(once.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, **CLOSE)


def test_submodels_are_read_as_those_of_language_models() -> None:
    assert CONFIG.submodel("M").widths == (8, 8, 8)
    assert CONFIG.submodel("0.5").widths == (16, 16, 16)
    assert CONFIG.submodel("S,L,30").widths == (4, 16, 30)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("XXL", "unknown submodel 'XXL'"),
        ("4,4", "has 2 widths, but the model has 3 layers"),
        ("4,4,33", "layer 2 has 32 neurons; the submodel asks for 33"),
        ("4,0,4", "layer 1 cannot have width 0"),
        ("4/2,4,4", "heads, but this model's do not nest"),
    ],
)
def test_a_submodel_that_there_is_not_is_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(LtsRayError, match=problem) as error:
        CONFIG.submodel(text)
    assert "\n" not in str(error.value)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(LtsRayError, match=r"\(3, 6, 4\); got \(1, 6, 4\)"):
        make_vit()(torch.zeros(2, 1, 6, 4), submodel=CONFIG.universal)
    with pytest.raises(LtsRayError, match="3 submodels for 2 rows"):
        make_vit()(make_pixels(2), submodel=[CONFIG.universal] * 3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_head": 3}, "d_model 16 does not divide among 3 heads"),
        ({"patch_size": (8, 2)}, "patches of"),
        ({"labels": ()}, "labels is empty"),
        ({"widths": ()}, "widths is empty"),
        ({"widths": (32, 0)}, "widths.1 must be at least 1; got 0"),
        ({"pixel_std": (0.5, 0.5)}, "for each of 3 channels"),
        ({"pixel_std": (0.0,)}, "pixel_std.0 must be above 0; got 0.0"),
        ({"granularities": {"S": 0.5}}, "end at 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(LtsRayError, match=problem):
        MatViT(make_vit(**changes).config)


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (7, 10)], ids=str)
def test_a_product_with_the_patches_is_the_convolution(size: tuple[int, int]) -> None:
    """Rows and columns past the last whole patch are left out by both."""
    generator = torch.Generator().manual_seed(0)
    images, weight = torch.randn(2, 3, 7, 10, generator=generator), torch.randn(5, 3, *size, generator=generator)
    wanted = functional.conv2d(images, weight, stride=size).flatten(2).transpose(1, 2)
    torch.testing.assert_close(in_patches(images, size) @ weight.flatten(1).t(), wanted)
