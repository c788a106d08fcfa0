"""The runtime of plain torch against the model's own forward, for every family."""

from __future__ import annotations

import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.submodel import Submodel
from tests.runtime.reference import CONFIGS, SHAPE, Sequences, random_model

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def llama() -> MatFormer:
    return random_model(SHAPE)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_each_row_gets_what_its_sequence_would_get_alone(name: str) -> None:
    """Prompts in pieces, responses and pieces together, widths that differ and change, blocks in any order."""
    model = random_model(CONFIGS[name])
    sequences = Sequences(model, TorchRuntime(model, n_blocks=24), n=4)
    for parts in [
        [(0, 5, "XL")],
        [(0, 1, "XL"), (1, 20, "S"), (2, 17, "M")],
        [(1, 13, "S"), (0, 1, "S"), (2, 1, "8,20,5")],
        [(2, 1, "XL"), (3, 33, "L"), (0, 1, "S"), (1, 1, "20,8,5")],
        *[[(index, 1, "M" if index % 2 else "XL") for index in range(4)]] * 14,
        [(3, 16, "XL"), (2, 1, "M"), (1, 15, "M")],
    ]:
        got, expected = sequences.step(*parts)
        assert expected.std() > 0.1
        torch.testing.assert_close(got, expected, **CLOSE)


def test_sequences_may_share_the_blocks_of_a_common_beginning(llama: MatFormer) -> None:
    runtime = TorchRuntime(llama, n_blocks=8)
    tokens, submodel = list(range(40)), llama.config.universal

    def segment(start: int, stop: int, blocks: tuple[int, ...]) -> Segment:
        return Segment(tokens=tokens[start:stop], start=start, blocks=blocks, submodel=submodel, wants_logits=True)

    first = runtime.run([segment(0, 36, (5, 2, 7))])
    again = runtime.run([segment(32, 36, (5, 2, 1)), segment(16, 36, (5, 4, 3))])
    torch.testing.assert_close(again, first.expand(2, -1), **CLOSE)


@pytest.mark.parametrize("others", [(), (3, 4)], ids=["alone", "padded"])
def test_what_others_left_in_a_block_is_no_part_of_a_sum_not_even_nan(others: tuple[int, ...]) -> None:
    """Block 0, which is also what short tables are padded with, is full of NaN but where its new owner has written."""
    model = random_model(CONFIGS["llama-untied"])
    with torch.no_grad():
        model.embed_tokens.weight[7] = torch.nan
    submodel = model.config.universal

    def segment(tokens: list[int], start: int, blocks: tuple[int, ...]) -> Segment:
        return Segment(tokens=tokens, start=start, blocks=blocks, submodel=submodel, wants_logits=True)

    def results(runtime: TorchRuntime) -> list[torch.Tensor]:
        first = runtime.run([segment([1, 2, 3], 0, (0,)), segment([5] * 20, 0, (1, 2))])
        more = [segment([6], 20, (1, 2)), segment([4], 3, (0,))]
        return [first, runtime.run([*more, *[segment([8], 0, (other,)) for other in others]])]

    runtime = TorchRuntime(model, n_blocks=8)
    assert runtime.run([segment([7] * 16, 0, (0,))]).isnan().all()
    for found, expected in zip(results(runtime), results(TorchRuntime(model, n_blocks=8)), strict=True):
        assert not expected.isnan().any()
        torch.testing.assert_close(found, expected)


def test_half_precision_is_near_to_single(llama: MatFormer) -> None:
    model = random_model(SHAPE).to(torch.bfloat16)
    sequences = Sequences(model, TorchRuntime(model, n_blocks=8), n=2)
    for parts in [[(0, 17, "XL")], [(0, 1, "XL"), (1, 7, "S")], [(0, 1, "M"), (1, 1, "XL")]]:
        got, expected = sequences.step(*parts)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=0.1 * float(expected.std()), rtol=0.05)


def test_what_does_not_fit_is_refused(llama: MatFormer) -> None:
    runtime = TorchRuntime(llama, n_blocks=8)
    blocks = tuple(range(7))
    for segment, message in [
        (Segment(tokens=[1] * 97, start=0, blocks=blocks, submodel=llama.config.universal, wants_logits=True), "96"),
        (Segment(tokens=[1], start=0, blocks=blocks, submodel=Submodel((48, 48)), wants_logits=True), "3 layers"),
        (Segment(tokens=[1], start=0, blocks=blocks, submodel=Submodel((49, 48, 48)), wants_logits=True), "48 neurons"),
    ]:
        with pytest.raises(LtsRayError, match=message):
            runtime.run([segment])


def test_a_step_without_logits_has_none(llama: MatFormer) -> None:
    runtime = TorchRuntime(llama, n_blocks=2, threads=1)
    segment = Segment(tokens=[1, 2], start=0, blocks=(1,), submodel=llama.config.universal, wants_logits=False)
    assert runtime.run([segment]).shape == (0, llama.config.vocab_size)
