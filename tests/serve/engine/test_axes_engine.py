"""The engine serves a model whose heads and d_model nest: what each request gets is what the plain loop gives it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import torch
from jsonschema import Draft202012Validator

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.runtime.step_costs import Group
from lts_ray.runtime.torch_runtime import TorchRuntime
from serve.http.response_schemas import ServedSubmodel
from serve.policies.menu import menu_of_granularities
from serve.policies.request import Request
from tests.serve.models import CONFIG, alone, collect, tiny_engine

SHAPE = replace(CONFIG, nested_heads={"S": 0.5, "M": 0.5}, nested_d_model={"S": 0.5, "M": 0.75, "L": 0.75})


def axes_model() -> MatFormer:
    model = MatFormer(SHAPE).eval()
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


def test_requests_of_all_granularities_share_steps_and_get_their_own_tokens() -> None:
    model = axes_model()
    runtime = build_runtime(model, n_blocks=64, threads=1)
    menu = menu_of_granularities(SHAPE, {})
    requests = [
        Request(prompt=tuple(range(3 + place, 20)), max_tokens=12, pinned=menu.named[name])
        for place, name in enumerate(("S", "XL", "M", "L"))
    ]

    async def ask() -> list[list[int]]:
        engine = tiny_engine(runtime, menu=menu)
        engine.start()
        try:
            return await asyncio.gather(*(collect(engine.submit(each)) for each in requests))
        finally:
            engine.stop()

    assert asyncio.run(ask()) == [alone(model, each) for each in requests]


def test_the_document_says_what_a_submodel_is_whatever_it_has_less_of() -> None:
    described = Draft202012Validator(ServedSubmodel.model_json_schema())
    for option in menu_of_granularities(SHAPE, {}).named.values():
        quality = {"decoder_params": option.decoder_params, "loss": option.loss}
        described.validate({"submodel": option.name, **option.submodel.fields(), **quality})
    assert not described.is_valid({"submodel": "S", "heads": [1], "decoder_params": 1, "loss": None})


def test_a_narrower_granularity_is_less_work_in_the_menu_and_its_steps_are_measured() -> None:
    menu = menu_of_granularities(SHAPE, {})
    options = [menu.named[name] for name in ("S", "M", "L", "XL")]
    work = [each.neurons for each in options]
    assert work == sorted(work)
    per_neuron = 3 * SHAPE.d_model
    assert work == [round(SHAPE.decoder_params(each.submodel) / per_neuron) for each in options]
    costs = measure_step_costs(TorchRuntime(axes_model(), n_blocks=32), seconds=0.05)
    assert costs.step_ms([Group(work[-1], 1, 8, 1)]) > 0
