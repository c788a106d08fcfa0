"""Calibrated rounding: less lost at real inputs than to the nearest, in 4 bits, at next to nothing in 8."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.precision import QUANTISED
from lts_ray.quantisation import calibrated_rounding
from lts_ray.quantisation.calibrated_rounding import SLACK, calibrated_weights, round_calibrated
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix, round_to_nearest
from lts_ray.quantisation.quantised_weights import at_precision, matrices_of


def inputs_of(count: int, n_in: int) -> torch.Tensor:
    """Inputs that go together, as those of a model do."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(8, n_in, generator=generator)
    return torch.randn(count, 8, generator=generator) @ mixed + 0.3 * torch.randn(count, n_in, generator=generator)


def test_outputs_lose_less_in_4_bits_at_the_same_inputs() -> None:
    """A prefix of the inputs, too, and a last group that is not whole."""
    matrix = torch.randn(24, 80, generator=torch.Generator().manual_seed(1))
    x = inputs_of(400, 80)
    prefix = functional.pad(x[:, :40], (0, 40))
    calibrated, nearest = round_calibrated(matrix, x.T @ x + prefix.T @ prefix), round_to_nearest(matrix)
    for n_in in (40, 80):
        kept, wanted = x[:, :n_in], x[:, :n_in] @ matrix[:, :n_in].T
        lost = [(kept @ each.weights("int4")[:, :n_in].T - wanted).norm() for each in (calibrated, nearest)]
        assert lost[0] < 0.75 * lost[1]


def test_8_bits_are_off_by_a_few_codes_at_most() -> None:
    """What was left over by earlier inputs is added; without any, by SLACK and what a scale cuts off."""
    matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    rounded = round_calibrated(matrix, torch.eye(64))
    steps = rounded.scales.float().abs().repeat_interleave(32, dim=1)
    assert ((rounded.weights("int8") - matrix).abs() <= (SLACK + 2) * steps).all()


def test_inputs_that_are_all_0_are_rounded_like_any() -> None:
    rounded = round_calibrated(torch.ones(3, 40), torch.zeros(40, 40))
    torch.testing.assert_close(rounded.weights("int4"), torch.ones(3, 40), atol=0.05, rtol=0)


def test_a_models_matrices_are_all_there_and_near_what_they_were(universal: MatFormer) -> None:
    tokens = torch.randint(0, universal.config.vocab_size, (6, 24), generator=torch.Generator().manual_seed(0))
    told: list[tuple[int, int]] = []
    rounded = calibrated_weights(universal, tokens, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (universal.config.n_layer, universal.config.n_layer)
    assert rounded.keys() == matrices_of(universal).keys()
    with torch.inference_mode():
        for submodel in universal.config.trained.values():
            wanted = universal.hidden(tokens, submodel=submodel)
            for precision in QUANTISED:
                lost = [
                    (at_precision(universal, precision, how).hidden(tokens, submodel=submodel) - wanted).norm()
                    for how in (rounded, None)
                ]
                assert lost[0] < (1 if precision == "int4" else 3) * lost[1]


def test_matrices_with_the_same_inputs_are_rounded_together(
    universal: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as it would be alone."""
    rounded: list[tuple[torch.Tensor, torch.Tensor]] = []

    def noted(matrix: torch.Tensor, moments: torch.Tensor) -> QuantisedMatrix:
        rounded.append((matrix, moments))
        return round_calibrated(matrix, moments)

    monkeypatch.setattr(calibrated_rounding, "round_calibrated", noted)
    tokens = torch.randint(0, universal.config.vocab_size, (6, 24), generator=torch.Generator().manual_seed(0))
    found = calibrated_weights(universal, tokens)
    assert [len(matrix) for matrix, _ in rounded[:4]] == [64, 32, 128, 32]  # of d_model 32, two key heads, 64 neurons
    key, value = (universal.layers[0].self_attn.get_submodule(f"{name}_proj").weight for name in "kv")
    alone = round_calibrated(value, rounded[0][1])
    assert torch.equal(found["layers.0.self_attn.v_proj.weight"].codes, alone.codes)
    assert torch.equal(found["layers.0.self_attn.k_proj.weight"].scales, round_calibrated(key, rounded[0][1]).scales)
