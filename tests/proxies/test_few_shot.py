from __future__ import annotations

import math

import numpy as np
import pytest

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.proxies.agreement import spearman
from lts_ray.proxies.few_shot import FEATURES, FewShotQuality, features
from tests.proxies.tables import draw_architectures, loss_of


def test_the_features_are_those_that_a_hand_computes() -> None:
    architecture = Architecture(d_model=64, n_head=(2, 8), d_inner=(100, 300), d_embed=128, div_val=4)
    found = dict(zip(FEATURES, features(architecture), strict=True))
    assert found == pytest.approx(
        {
            "d_model": math.log(64),
            "n_layer": math.log(2),
            "weights": math.log(2 * 4 * 64 * 64 + 2 * 64 * 400),
            "n_head": math.log(4),
            "is_split": 1.0,
            "rank_0": 0.0,
            "rank_1": math.log(32 / 64),
            "rank_2": math.log(8 / 64),
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_few_trained_models_order_the_others_better_than_their_parameters_do(seed: int) -> None:
    """The loss here is a power law of depth and width with a penalty on narrow embeddings, and noise of 0.5 %."""
    rng = np.random.default_rng(seed)
    architectures = draw_architectures(120, rng)
    losses = np.array([loss_of(each) for each in architectures]) * (1 + 0.005 * rng.normal(size=120))
    quality = FewShotQuality.fit(architectures[:50], losses[:50].tolist())
    mean, sd = quality.predict(architectures[50:])
    weights = [features(each)[FEATURES.index("weights")] for each in architectures[50:]]
    few_shot, plain = spearman(-mean, -losses[50:]), spearman(weights, -losses[50:])
    assert few_shot > 0.98
    assert few_shot > plain + 0.01
    inside = np.abs(mean - losses[50:]) < 2 * sd
    assert 0.8 < inside.mean() <= 1


def test_the_deviation_is_that_of_a_new_training_and_grows_away_from_what_is_known() -> None:
    rng = np.random.default_rng(3)
    architectures = draw_architectures(40, rng)
    quality = FewShotQuality.fit(architectures, [loss_of(each) for each in architectures])
    _, (known,) = quality.predict([architectures[0]])
    _, (far,) = quality.predict([Architecture(d_model=4096, n_head=(32,) * 60, d_inner=(9000,) * 60, d_embed=4096)])
    assert known >= quality.process.noise
    assert far > 3 * known


def test_homogeneous_layers_and_one_kind_of_embedding_leave_constant_features_without_harm() -> None:
    rng = np.random.default_rng(4)
    architectures = [
        Architecture(d_model=d, n_head=(4,) * n, d_inner=(f,) * n, d_embed=d)
        for d, n, f in zip(
            rng.choice([128, 256, 512], 60).tolist(),
            rng.integers(2, 12, 60).tolist(),
            rng.integers(900, 2000, 60).tolist(),
            strict=True,
        )
    ]
    losses = [loss_of(each) for each in architectures]
    mean, _ = FewShotQuality.fit(architectures[:20], losses[:20]).predict(architectures[20:])
    assert spearman(-mean, [-each for each in losses[20:]]) > 0.99


def test_too_few_trained_models_are_refused_and_nothing_to_predict_is_fine() -> None:
    architectures = draw_architectures(5, np.random.default_rng(5))
    with pytest.raises(LtsRayError, match="at least 4 trained architectures; got 3 architectures and 3 losses"):
        FewShotQuality.fit(architectures[:3], [1.0, 2.0, 3.0])
    with pytest.raises(LtsRayError, match="got 5 architectures and 4 losses"):
        FewShotQuality.fit(architectures, [1.0, 2.0, 3.0, 4.0])
    mean, sd = FewShotQuality.fit(architectures, [1.0, 2.0, 3.0, 4.0, 5.0]).predict([])
    assert len(mean) == len(sd) == 0
