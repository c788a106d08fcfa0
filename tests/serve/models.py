"""Toy parts that the tests of serving share: a tiny random model, its menu, costs with round numbers, an engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from lts_ray.decoding.plain_loop import generate
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.runtime.torch_runtime import TorchRuntime
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Observer, StepRecord
from serve.engine.response import FinishReason, Progress, Response
from serve.policies.capacity import Capacity
from serve.policies.menu import Menu, menu_of_granularities
from serve.policies.named_policies import policy_named
from serve.policies.request import Request

CONFIG = MatFormerConfig(vocab_size=300, d_model=32, n_head=4, n_kv_head=2, widths=(64,) * 3, context_length=96)

# 1 ms + 1 ms per row + 0.1 ms per neuron of the widest: a step of one row costs 4.4, 6.8, 11.6 or 21.2 ms.
COSTS = StepCosts(grid=(1, 2), base=(2.0, 3.0), neuron=(0.1, 0.1), head=(0.0, 0.0), attended=0.0)


def tiny_model(seed: int = 0) -> MatFormer:
    """Weights far from zero, so that logits lie far apart and rounding cannot flip an argmax."""
    model = MatFormer(CONFIG).eval()
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


def tiny_menu() -> Menu:
    return menu_of_granularities(CONFIG, {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0})


def tiny_runtime(model: MatFormer, n_blocks: int = 32) -> Runtime:
    return TorchRuntime(model, n_blocks=n_blocks)


def tiny_engine(runtime: Runtime, **settings: Any) -> Engine:
    """Of a tiny model. Not started. settings: of Engine, and fields of Capacity."""
    limits = {name: settings.pop(name) for name in ("slots", "max_queue", "chunk_tokens") if name in settings}
    defaults: dict[str, Any] = {
        "menu": tiny_menu(),
        "times": LearnedTimes(
            COSTS, **{name: settings.pop(name) for name in ("attainment", "clock") if name in settings}
        ),
        "policy": policy_named("fixed"),
        "eos_ids": frozenset({0}),
        "capacity": Capacity(**({"slots": 4} | limits)),
    }
    return Engine(runtime, **(defaults | settings))


@dataclass
class Notes(Observer):
    """An observer that keeps everything."""

    steps: list[StepRecord] = field(default_factory=list)
    ends: list[tuple[Request, Progress, FinishReason | None]] = field(default_factory=list)

    def stepped(self, record: StepRecord) -> None:
        self.steps.append(record)

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        self.ends.append((request, progress, reason))


async def collect(response: Response) -> list[int]:
    return [token.id async for tokens in response for token in tokens]


def alone(model: MatFormer, request: Request, eos_ids: Collection[int] = (0,)) -> list[int]:
    """What the plain loop gives for the request."""
    submodel = model.config.universal if request.pinned is None else request.pinned.submodel
    generator = torch.Generator()
    if request.seed is not None:
        generator.manual_seed(request.seed)
    return list(
        generate(
            model,
            request.prompt,
            submodel=submodel,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            eos_ids=eos_ids,
            generator=generator,
        )
    )
