from __future__ import annotations

import pytest

from lts_ray.decoding.draft_costs import LONGEST, PROMPT, adaptive_length, measure_draft_costs
from lts_ray.decoding.draft_length import DraftCosts
from lts_ray.decoding.sampling import GREEDY, Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model
from tests.decoding.model_clock import ModelClock


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return make_model(seed=3, vocab_size=40).double()


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)], ids=["greedy", "sampling"])
def test_costs_are_those_of_a_drafters_step_and_of_the_verifiers_forwards(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    trained = model.config.trained
    found = measure_draft_costs(
        model,
        [3, 1, 4, 1],
        drafts=[trained["S"], trained["L"]],
        submodel=trained["XL"],
        longest=3,
        sampling=sampling,
        clock=ModelClock(monkeypatch),
    )
    verify = (2.0, 3.0, 4.0, 5.0)
    assert found == [DraftCosts(draft=1.125, verify=verify), DraftCosts(draft=1.5, verify=verify)]


@pytest.mark.parametrize(("max_tokens", "longest"), [(1, 0), (2, 0), (5, 3), (30, LONGEST)])
def test_an_adaptive_length_knows_the_costs_of_the_drafts_that_the_response_has_room_for(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch, max_tokens: int, longest: int
) -> None:
    trained = model.config.trained
    rule = adaptive_length(
        model,
        [3, 1, 4, 1],
        draft=trained["S"],
        submodel=trained["XL"],
        max_tokens=max_tokens,
        clock=ModelClock(monkeypatch),
    )
    assert rule.costs == DraftCosts(draft=1.125, verify=tuple(2.0 + length for length in range(longest + 1)))


def test_what_else_the_machine_does_makes_nothing_dearer(model: MatFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the time of most turns is another program's."""

    class BusyClock(ModelClock):
        count = 0

        def __call__(self) -> float:
            self.count += 1
            if self.count > 2 * 5 * 2 and self.count % 2 == 0:  # from the third turn of five steps on, as each ends
                self.now += 50
            return super().__call__()

    trained = model.config.trained
    prompt, costs = [3, 1, 4, 1], DraftCosts(draft=1.125, verify=(2.0, 3.0, 4.0, 5.0))
    wanted = {"drafts": [trained["S"]], "submodel": trained["XL"], "longest": 3, "repeats": 5}
    assert measure_draft_costs(model, prompt, **wanted, clock=BusyClock(monkeypatch)) == [costs]


def test_a_long_prompt_is_not_read_twice(model: MatFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lts_ray.decoding.draft_costs.PROMPT", 10)
    read, hidden = [], MatFormer.hidden

    def note(self: MatFormer, tokens: object, **options: object) -> object:
        read.append(tokens.shape[1])  # type: ignore[attr-defined]
        return hidden(self, tokens, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MatFormer, "hidden", note)
    trained = model.config.trained
    adaptive_length(model, [1] * 50, draft=trained["S"], submodel=trained["XL"], max_tokens=10)
    assert PROMPT > max(read) == 10


def test_what_speculation_would_refuse_is_not_measured(model: MatFormer) -> None:
    small, large = model.config.trained["S"], model.config.universal
    with pytest.raises(LtsRayError, match="the prompt is empty"):
        adaptive_length(model, [], draft=small, submodel=large, max_tokens=5)
    with pytest.raises(LtsRayError, match="context of 64"):
        adaptive_length(model, [1] * 60, draft=small, submodel=large, max_tokens=5)
    with pytest.raises(LtsRayError, match="is wider than its verifier"):
        adaptive_length(model, [1, 2], draft=large, submodel=small, max_tokens=5)
