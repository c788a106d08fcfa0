"""What calibration makes of a GPU, whose steps take launches, bytes or arithmetic, and whose rows are padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from statistics import median

import pytest
import torch

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.runtime.step_costs import Group, StepCosts
from lts_ray.submodel import Submodel
from tests.runtime.synthetic_card import SyntheticCard

SHAPES = {
    "135M": MatFormerConfig(
        vocab_size=49_152, d_model=576, n_head=9, n_kv_head=3, widths=(1_536,) * 30, context_length=2_048
    ),
    "1B": MatFormerConfig(
        vocab_size=128_256, d_model=2_048, n_head=32, n_kv_head=8, widths=(8_192,) * 16, context_length=2_048
    ),
}
ROWS = (1, 3, 5, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 100)
PROMPTS = (16, 20, 33, 64, 100, 129, 200, 256, 257, 300, 384, 400, 512)


def segment(submodel: Submodel, tokens: int, before: int) -> Segment:
    return Segment(tokens=[0] * tokens, start=before, blocks=[], submodel=submodel, wants_logits=True)


def decoding(config: MatFormerConfig) -> Iterator[list[Segment]]:
    """Of one width, of all, and of one wide row among narrow ones."""
    narrow, *_, full = widths = list(config.trained.values())
    for rows, before, submodels in product(ROWS, (32, 256, 1_000), ([narrow], [full], widths, [full] + 7 * [narrow])):
        yield [segment(submodels[row % len(submodels)], 1, before) for row in range(rows)]


def prompts(config: MatFormerConfig) -> Iterator[list[Segment]]:
    narrow, *_, full = config.trained.values()
    for tokens, before, submodel in product(PROMPTS, (0, 512), (narrow, full)):
        yield [segment(submodel, tokens, before)]


@cache
def measured(shape: str) -> tuple[SyntheticCard, StepCosts]:
    card = SyntheticCard(SHAPES[shape], n_blocks=20_000)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        return card, measure_step_costs(card, seconds=0.2, clock=card.clock)


def errors(shape: str, steps: Iterator[Sequence[Segment]]) -> list[float]:
    card, costs = measured(shape)
    found = []
    for step in steps:
        groups = [
            Group(
                card.config.equivalent_neurons(each.submodel),
                len(each.tokens),
                sum(range(each.start + 1, each.stop + 1)),
                int(each.wants_logits),
            )
            for each in step
        ]
        found.append(abs(costs.step_ms(groups) / card.step_ms(step) - 1))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_rows_that_decode_costs_what_the_rows_do_that_it_is_padded_to(shape: str) -> None:
    found = errors(shape, decoding(SHAPES[shape]))
    assert median(found) < 0.03
    assert max(found) < 0.15


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_costs_what_the_tiles_of_its_rows_do(shape: str) -> None:
    found = errors(shape, prompts(SHAPES[shape]))
    assert median(found) < 0.03
    assert max(found) < 0.15
