"""The kernels' weights are the model's own memory, and the model computes what it did."""

from __future__ import annotations

import torch

from lts_ray.runtime.cuda.cuda_weights import CudaWeights
from tests.runtime.reference import CONFIGS, random_model


def test_no_weight_is_held_twice_and_the_model_stays_what_it_is() -> None:
    model = random_model(CONFIGS["qwen2"])
    tokens, universal = torch.tensor([[1, 2, 3]]), model.config.universal
    before = model(tokens, submodel=universal)
    weights = [CudaWeights.of(model) for _ in range(2)]  # the second finds joined what the first has joined
    attention = model.layers[0].self_attn
    for name in ("weight", "bias"):
        parts = [getattr(getattr(attention, f"{each}_proj"), name) for each in "qkv"]
        for each in weights:
            joined = each.layers[0].qkv if name == "weight" else each.layers[0].qkv_bias
            assert joined is not None
            assert torch.equal(joined, torch.cat(parts))
            assert joined.data_ptr() == parts[0].data_ptr()
    assert torch.equal(model(tokens, submodel=universal), before)
    storages = {parameter.untyped_storage().data_ptr(): parameter.untyped_storage() for parameter in model.parameters()}
    assert sum(storage.nbytes() for storage in storages.values()) == sum(each.nbytes for each in model.parameters())


def test_angles_are_float32_whatever_the_weights_are() -> None:
    model = random_model(CONFIGS["llama"])
    expected = model.rotary.clone()
    rotary = CudaWeights.of(model.to(torch.bfloat16)).rotary
    assert rotary is not None
    assert torch.equal(rotary, expected)
