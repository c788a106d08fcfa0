from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.measurement.calibration import calibrate
from lts_ray.measurement.cost_model import DecodeSample, PrefillSample, StepCostModel, fit
from lts_ray.models.matformer.matformer import MatFormer

KNOWN = StepCostModel(prefill=(1.5, 3e-4, 1.2e-2, 2e-5, 5e-5), decode=(1.2, 4e-4, 0.1, 3e-5, 3e-4), relative_error=0.0)


def samples(noise: float = 0.0) -> tuple[list[PrefillSample], list[DecodeSample]]:
    rng = np.random.default_rng(0)

    def jitter() -> float:
        return float(1 + noise * rng.normal())

    prefills = [
        PrefillSample(tokens=t, neurons=n, latency_ms=KNOWN.prefill_ms(tokens=t, neurons=n) * jitter())
        for t, n in product((8, 64, 192, 384), (1000, 4000, 8000))
    ]
    rows = [(n,) * count for n, count in product((1000, 4000, 8000), (1, 2, 4, 8))] + [(8000, 1000), (8000, 4000, 1000)]
    decodes = [
        DecodeSample(
            neurons=row,
            context_tokens=c * len(row),
            latency_ms=KNOWN.decode_ms(neurons=row, context_tokens=c * len(row)) * jitter(),
        )
        for row, c in product(rows, (16, 256))
    ]
    return prefills, decodes


def test_the_fit_recovers_known_coefficients() -> None:
    model = fit(*samples())
    assert model.prefill == pytest.approx(KNOWN.prefill, rel=1e-6)
    assert model.decode == pytest.approx(KNOWN.decode, rel=1e-6)
    assert model.relative_error == pytest.approx(0, abs=1e-9)


def test_predictions_stay_close_when_the_times_are_noisy() -> None:
    model = fit(*samples(noise=0.05))
    assert model.relative_error < 0.1
    for tokens, neurons in product((20, 300), (2000, 8000)):
        assert model.prefill_ms(tokens=tokens, neurons=neurons) == pytest.approx(
            KNOWN.prefill_ms(tokens=tokens, neurons=neurons), rel=0.1
        )


def test_more_work_never_costs_less() -> None:
    """Coefficients are not negative, so that a policy can rely on the order of widths."""
    model = fit(*samples(noise=0.5))
    assert min(*model.prefill, *model.decode) >= 0


def test_a_cost_model_survives_json_and_a_broken_one_is_refused() -> None:
    assert StepCostModel.from_json(KNOWN.to_json()) == KNOWN
    for broken in ({}, {**KNOWN.to_json(), "prefill": [1, 2]}, {**KNOWN.to_json(), "decode": [-1, 0, 0, 0, 0]}):
        with pytest.raises(LtsRayError):
            StepCostModel.from_json(broken)


def test_a_fit_needs_both_kinds_of_step() -> None:
    with pytest.raises(LtsRayError, match="prefills and measured decode steps"):
        fit([], samples()[1])


def test_calibration_gives_a_usable_model_and_restores_the_threads(universal: MatFormer) -> None:
    before = torch.get_num_threads()
    model = calibrate(universal, threads=before + 1, seconds=0.2)
    assert torch.get_num_threads() == before
    assert model.prefill_ms(tokens=60, neurons=sum(universal.config.widths)) > 0
    assert model.decode_ms(neurons=[24, 192], context_tokens=30) > 0
