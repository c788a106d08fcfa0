"""A member inside the supernet is the plain backbone that is taken out of it: its scores, its loss, its gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_checkpoint import load_backbone, save_backbone
from lts_ray.models.backbones.backbone_config import BACKBONES
from lts_ray.models.backbones.supernet import Supernet
from lts_ray.models.backbones.supernet_config import SupernetConfig
from tests.models.backbones.supernets import DEEP, SMALL, WIDE, make_supernet, supernet_config

NAMES = ("small", "wide", "deep")
all_backbones = pytest.mark.parametrize("backbone", BACKBONES)
all_members = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_supernet_is_as_deep_and_as_wide_as_any_member_layer_by_layer() -> None:
    fused = supernet_config("gpt2").fused.architecture
    assert fused == Architecture(d_model=24, n_head=(1, 1, 1), d_inner=(40, 56, 32), d_embed=24, div_val=4)


@all_backbones
@all_members
def test_a_member_computes_what_its_checkpoint_computes(
    backbone: str, name: str, tokens: Tensor, tmp_path: Path
) -> None:
    """Through the folder, as every other verb reads it. Close, not equal: a part of a matrix is added up otherwise."""
    supernet = make_supernet(supernet_config(backbone))
    config = supernet.config.configs[name]
    save_backbone(supernet.extract(name), config, tmp_path)
    alone = load_backbone(tmp_path)
    assert alone.config == config
    with torch.inference_mode():
        inside, outside = supernet.using(name, lambda member: member(tokens)), alone.model(tokens)
        torch.testing.assert_close(inside, outside, atol=1e-4, rtol=1e-4)
        loss = supernet.loss(name, tokens[:, :-1], tokens[:, 1:])
        torch.testing.assert_close(loss, alone.model.loss(tokens[:, :-1], tokens[:, 1:]), atol=1e-5, rtol=1e-5)


@all_backbones
def test_members_are_different_models(backbone: str, tokens: Tensor) -> None:
    """Without which equality with the extract would say little."""
    supernet = make_supernet(supernet_config(backbone))
    losses = [float(supernet.loss(name, tokens[:, :-1], tokens[:, 1:]).detach()) for name in NAMES]
    assert min(abs(losses[0] - losses[1]), abs(losses[1] - losses[2]), abs(losses[0] - losses[2])) > 1e-3


@pytest.mark.parametrize(("backbone", "vocab_size"), [("opt", 300), ("gpt2", 20_010), ("transformer-xl", 20_010)])
def test_gradients_of_a_member_are_those_of_its_extract_and_nothing_else_has_any(
    backbone: str, vocab_size: int, tokens: Tensor
) -> None:
    """With a vocabulary of two clusters, where the backbone has them."""
    supernet = make_supernet(supernet_config(backbone, vocab_size=vocab_size))
    alone = supernet.extract("deep").train()
    supernet.loss("deep", tokens[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
    alone.loss(tokens[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
    found = {name: each.grad for name, each in supernet.weights.named_parameters() if each.grad is not None}
    wanted = {name: each.grad for name, each in alone.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        expected = by_hand(name, grad, 24, 16)[tuple(slice(size) for size in grad_shape(name, wanted[name]))]
        torch.testing.assert_close(expected.reshape(wanted[name].shape), wanted[name], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(grad.abs().sum(), wanted[name].abs().sum(), atol=1e-3, rtol=1e-3)


def grad_shape(name: str, value: Tensor) -> tuple[int, ...]:
    return (value.numel(),) if name.endswith(("content_bias", "distance_bias")) else tuple(value.shape)


def by_hand(name: str, value: Tensor, whole: int, d_model: int) -> Tensor:
    """What is cut from first rows and columns: of stacked matrices, their three blocks of rows put together again."""
    if "qkv" in name:
        return torch.cat([value[start : start + d_model] for start in (0, whole, 2 * whole)])
    return value.flatten() if name.endswith(("content_bias", "distance_bias")) else value


@all_backbones
@all_members
def test_a_members_weights_are_the_first_layers_rows_and_columns(backbone: str, name: str) -> None:
    supernet = make_supernet(supernet_config(backbone))
    shared, d_model = supernet.weights.state_dict(), supernet.config.members[name].d_model
    own = supernet.extract(name).state_dict()
    assert own.keys() == supernet.config.configs[name].skeleton().state_dict().keys()
    for key, value in own.items():
        source = by_hand(key, shared[key], 24, d_model)
        expected = source[tuple(slice(size) for size in grad_shape(key, value))].reshape(value.shape)
        assert torch.equal(value, expected), key


def test_an_extract_shares_no_memory_with_the_supernet(tokens: Tensor) -> None:
    supernet = make_supernet(supernet_config("gpt2"))
    alone = supernet.extract("deep")
    before = alone(tokens)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    assert torch.equal(alone(tokens), before)


@all_backbones
def test_the_parameters_are_those_of_one_backbone(backbone: str) -> None:
    """Members have none of their own, before a call and after it."""
    supernet = make_supernet(supernet_config(backbone))
    supernet.loss("deep", torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))
    count = sum(parameter.numel() for parameter in supernet.parameters())
    assert count == sum(parameter.numel() for parameter in supernet.config.fused.build().parameters())
    assert all(name.startswith("weights.") for name in supernet.state_dict())


@all_backbones
def test_members_put_back_make_the_same_members(backbone: str) -> None:
    source = make_supernet(supernet_config(backbone))
    copy = make_supernet(source.config, seed=1)
    for name in NAMES:
        copy.fill(name, source.extract(name).state_dict())
    for name in NAMES:
        wanted = source.extract(name).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in copy.extract(name).state_dict().items())


def test_a_member_as_large_as_the_supernet_runs_on_the_weights_themselves() -> None:
    config = replace(
        supernet_config("gpt2"), members={"small": replace(SMALL, div_val=4), "deep": replace(DEEP, div_val=4)}
    )
    supernet = Supernet(config)
    held = dict(supernet.weights.named_parameters())
    assert all(value.data_ptr() == held[key].data_ptr() for key, value in supernet.cut("deep").items())


@pytest.mark.parametrize("d_embed", [8, 40])
@pytest.mark.parametrize("backbone", ["gpt2", "transformer-xl"])
def test_members_with_one_embedding_width_for_all_share_its_projections(
    backbone: str, d_embed: int, tokens: Tensor
) -> None:
    members = {"wide": replace(WIDE, d_embed=d_embed), "deep": replace(DEEP, d_embed=d_embed)}
    config = SupernetConfig(backbone=backbone, members=members, vocab_size=300, context_length=32)
    supernet = make_supernet(config)
    with torch.inference_mode():
        for name in members:
            alone: Backbone = supernet.extract(name)
            inside = supernet.using(name, lambda member: member(tokens))
            torch.testing.assert_close(inside, alone(tokens), atol=1e-4, rtol=1e-4)


def test_a_configuration_survives_json() -> None:
    config = supernet_config("transformer-xl")
    assert SupernetConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "at least two architectures; got none"),
        ({"a": SMALL}, "at least two architectures; got a$"),
        ({"a": SMALL, "b": replace(WIDE, div_val=4)}, r"differ in div_val .* \(a: 1, b: 4\)"),
        ({"a": SMALL, "b": replace(WIDE, d_embed=8)}, r"differ in d_embed .* \(a: d_model, b: 8\)"),
        ({"a": replace(SMALL, d_embed=4), "b": replace(WIDE, d_embed=8)}, r"differ in d_embed .* \(a: 4, b: 8\)"),
        ({"a": SMALL, "../b": WIDE}, r"is to be that of a folder: give '\.\./b' another"),
        ({"a": SMALL, "": WIDE}, "is to be that of a folder: give '' another"),
        ({"a": SMALL, 7: WIDE}, "is to be that of a folder: give 7 another"),
    ],
)
def test_what_cannot_be_fused_is_one_clear_line(members: dict[str, Architecture], message: str) -> None:
    with pytest.raises(LtsRayError, match=message) as caught:
        SupernetConfig(backbone="gpt2", members=members, vocab_size=300, context_length=32)
    assert "\n" not in str(caught.value)


def test_a_member_that_no_backbone_can_be_is_refused_without_building_it() -> None:
    config = supernet_config("gpt2")
    wrong = replace(config, members={**config.members, "odd": replace(WIDE, div_val=4, n_head=(5, 5))})
    with pytest.raises(LtsRayError, match="multiple of every n_head; layer 0 has 5"):
        wrong.skeleton()
    with pytest.raises(LtsRayError, match="unknown backbone 'lstm'"):
        replace(config, backbone="lstm")
