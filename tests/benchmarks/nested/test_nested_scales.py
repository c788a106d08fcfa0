from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.nested.nested_scales import DEFAULT_SCALES, SCALES, scale_named
from lts_ray.errors import LtsRayError


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_has_plain_models_of_the_granularities_widths_and_one_schedule(name: str) -> None:
    scale = scale_named(name, steps=40, corpus="sotu", seed=3, threads=2)
    widths = [settings.model.d_ff for settings in scale.baselines.values()]
    assert [8 * widths[0], 4 * widths[1], 2 * widths[2]] == [scale.model.d_ff] * 3
    assert widths[3] == scale.model.d_ff
    assert all(settings.training == scale.training for settings in scale.runs.values())
    assert scale.training.warmup_steps == 2


@pytest.mark.parametrize(("name", "d_model"), [("paper-78m", 256), ("paper-180m", 512)])
def test_a_scale_of_the_paper_has_its_parameters_in_three_matrices_and_takes_a_gpu(name: str, d_model: int) -> None:
    """The paper's layer: four attention matrices and two of 4 · d_model neurons, 12 · d_model² in all."""
    scale = scale_named(name, steps=None, corpus="sotu", seed=0, threads=1)
    config = scale.model.config(8192)
    assert config.decoder_params() == pytest.approx(16 * 12 * d_model**2, rel=0.005)
    assert 8 * config.trained["S"].widths[0] == config.widths[0]
    assert scale.training.device == "auto"
    on_cpu = scale_named(name, steps=None, corpus="sotu", seed=0, threads=1, device="cpu")
    assert on_cpu == replace(scale, training=replace(scale.training, device="cpu"))


def test_the_scales_for_a_cpu_take_a_gpu_only_where_they_are_told_to() -> None:
    for name in DEFAULT_SCALES:
        assert scale_named(name, steps=None, corpus="sotu", seed=0, threads=1).training.device == "cpu"
        told = scale_named(name, steps=None, corpus="sotu", seed=0, threads=1, device="auto")
        assert all(settings.training.device == "auto" for settings in told.runs.values())


def test_the_default_scales_are_known_and_an_unknown_one_is_refused() -> None:
    assert set(DEFAULT_SCALES) <= set(SCALES)
    with pytest.raises(LtsRayError, match="unknown scale 'huge'; known: small, medium, paper-78m, paper-180m"):
        scale_named("huge", steps=None, corpus="sotu", seed=0, threads=1)
