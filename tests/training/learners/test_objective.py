"""Which granularities a step trains, and with which numbers, is as asked, and a function of the step alone."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy.stats import chisquare

from lts_ray.errors import LtsRayError
from lts_ray.training.learners.objective import Objective
from lts_ray.training.learners.weighting import WEIGHTS, draw_probabilities, loss_weights
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings

NAMES = ("S", "M", "L", "XL")


def sampled(given: object, *, seed: int = 0) -> Objective:
    settings = TrainingSettings(objective="sampled", probabilities=given, seed=seed)  # type: ignore[arg-type]
    return settings.objective_of(NAMES)


def drawn(objective: Objective, steps: range) -> list[str]:
    return [name for step in steps for name in objective.shares(step)]


@pytest.mark.parametrize(("preset", "chances"), [("uniform", (1, 1, 1, 1)), ("large-often", (17, 20, 22, 41))])
def test_granularities_are_drawn_as_often_as_asked(preset: str, chances: tuple[int, ...]) -> None:
    counts = Counter(drawn(sampled(preset), range(2_000)))
    expected = [2_000 * chance / sum(chances) for chance in chances]
    assert chisquare([counts[name] for name in NAMES], expected).pvalue > 0.01


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    """Drawn backwards, in another order, by another object: a resumed run and every worker draw the same."""
    whole = drawn(sampled("uniform"), range(50))
    assert drawn(sampled("uniform"), range(20, 50)) == whole[20:]
    assert [drawn(sampled("uniform"), range(step, step + 1))[0] for step in reversed(range(50))] == whole[::-1]
    assert drawn(sampled("uniform", seed=1), range(50)) != whole


def test_a_granularity_without_probability_is_never_drawn() -> None:
    assert set(drawn(sampled({"S": 1, "XL": 3}), range(100))) == {"S", "XL"}


def test_the_joint_objective_has_every_weighted_granularity_in_every_step_widest_first() -> None:
    objective = TrainingSettings(weights={"S": 1.0, "L": 0.0, "XL": 3.0}).objective_of(NAMES)
    assert list(objective.shares(7).items()) == [("XL", 0.75), ("S", 0.25)]


def test_the_presets_are_the_papers() -> None:
    """Table 5, λ4 : λ3 : λ2 : λ1; its last row is in squares here. The larger preset of probabilities sums to 1."""
    rows = {name: tuple(each[key] for key in ("XL", "L", "M", "S")) for name, each in WEIGHTS.items()}
    assert rows.pop("square-root") == pytest.approx((8**0.5, 4**0.5, 2**0.5, 1))
    assert rows == {
        "large-first": (2, 1.5, 1.2, 1),
        "large-first-scaling": (2, 1.5, 1.25, 1),
        "small-first": (1, 1.2, 1.5, 2),
        "xl-double": (2, 1, 1, 1),
    }
    assert loss_weights("xl-double", NAMES) == {"S": 0.2, "M": 0.2, "L": 0.2, "XL": 0.4}
    assert draw_probabilities("large-often", NAMES) == pytest.approx({"S": 0.17, "M": 0.2, "L": 0.22, "XL": 0.41})


def test_equal_and_uniform_fit_any_granularities() -> None:
    names = ["half", "full"]
    assert loss_weights("equal", names) == draw_probabilities("uniform", names) == {"half": 0.5, "full": 0.5}


@pytest.mark.parametrize(
    ("training", "granularities", "message"),
    [
        ({"weights": {"XXL": 1}}, None, "training.weights has unknown granularities XXL; the model has S, M, L, XL"),
        ({"weights": "square-root"}, {"XL": 1}, "unknown granularities L, M, S; the model has XL"),
        ({"probabilities": "heavy"}, None, "no preset 'heavy'; use one of uniform, large-often"),
        ({"probabilities": {"S": -1}}, None, "training.probabilities must be non-negative numbers, not all zero"),
        ({"weights": {"S": 0}}, None, "not all zero"),
        ({"weights": {"S": "big"}}, None, "must be non-negative numbers"),
        ({"weights": 3}, None, "or a preset's name; got 3"),
        ({"objective": "both"}, None, "training.objective must be one of joint, sampled; got 'both'"),
        ({"passes": "two"}, None, "training.passes must be one of mixed, separate"),
        ({"train": "heads"}, None, "training.train must be one of all, ffn"),
        ({"distillation": 2}, None, "training.distillation must be at most 1; got 2"),
        ({}, {"S": "small"}, "model.granularities must be fractions by name"),
    ],
)
def test_bad_objectives_are_one_clear_line(training: object, granularities: object, message: str) -> None:
    model = {} if granularities is None else {"granularities": granularities}
    with pytest.raises(LtsRayError, match=message) as caught:
        RunSettings.from_json({"model": model, "training": training})
    assert "\n" not in str(caught.value)


def test_a_backbone_has_no_granularities_to_weigh() -> None:
    shape = {"backbone": "gpt2", "architecture": {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64}}
    with pytest.raises(LtsRayError, match=r"training\.objective is for a universal model, not for a backbone"):
        RunSettings.from_json({"architecture": shape, "training": {"objective": "sampled"}})


def test_settings_of_runs_from_before_the_presets_still_load() -> None:
    """They wrote the four equal weights out, whatever granularities the model had that they started from."""
    old = {"weights": {"S": 1.0, "M": 1.0, "L": 1.0, "XL": 1.0}, "steps": 5}
    settings = RunSettings.from_json({"model": None, "training": old, "init_from": "folder"})
    assert settings.training == TrainingSettings(steps=5)
    other = RunSettings.from_json({"training": old | {"weights": {"S": 1.0, "XL": 2.0}}}).training
    assert other.weights == {"S": 1.0, "XL": 2.0}


def test_new_settings_survive_json() -> None:
    settings = RunSettings(
        model=ModelSettings(granularities={"half": 0.5, "full": 1.0}, independent=True),
        training=TrainingSettings(objective="sampled", probabilities={"half": 1.0, "full": 2.0}, train="ffn"),
    )
    assert RunSettings.from_json(settings.to_json()) == settings
