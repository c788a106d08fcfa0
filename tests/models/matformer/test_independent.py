"""Independent granularities share all but their FFN blocks, before and after they were saved."""

from __future__ import annotations

import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.independent import IndependentModel, member_config, share
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model


def fresh() -> IndependentModel:
    return IndependentModel.fresh(make_model().config, torch.Generator().manual_seed(0))


def shared_names(model: IndependentModel) -> set[str]:
    """Parameters that S and XL have in common."""
    small, large = (dict(model.member(name).named_parameters()) for name in ("S", "XL"))
    return {name for name in small if small[name] is large[name]}


def test_members_share_every_parameter_outside_their_ffn_blocks() -> None:
    model = fresh()
    names = {name for name, _ in model.member("S").named_parameters()}
    assert shared_names(model) == {name for name in names if ".mlp." not in name}
    own = sum(each.numel() for name, each in model.named_parameters() if ".mlp." in name)
    assert own == 3 * 3 * 32 * (8 + 16 + 32 + 64)  # matrices, layers, d_model, widths
    assert model.names == ["S", "M", "L", "XL"]


def test_a_member_is_a_plain_model_of_its_granularitys_size() -> None:
    model = fresh()
    assert model.member("M").config == member_config(make_model().config, "M")
    assert model.member("M").config.widths == (16, 16, 16)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    outputs = [model.member(name)(tokens, submodel=model.member(name).config.universal) for name in model.names]
    assert not any(torch.allclose(outputs[-1], each) for each in outputs[:-1])


def test_models_of_different_shape_cannot_share() -> None:
    with pytest.raises(LtsRayError, match="differ in more than their FFN blocks"):
        share([MatFormer(member_config(make_model(n_layer=n).config, "XL")) for n in (2, 3)])
