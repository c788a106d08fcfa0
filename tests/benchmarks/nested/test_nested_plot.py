from __future__ import annotations

from typing import Any

import pytest

from benchmarks.nested.mix_choice import MixChoice
from benchmarks.nested.nested_plot import DRAWN, PLAIN, SEARCHED, SLOPE, TRAINED, nested_figure
from benchmarks.nested.nested_quality import NestedQuality, ScaleQuality, Twins
from lts_ray.submodel import Submodel


def point(*widths: int, loss: float, agreement: float = 0.9) -> NestedQuality:
    return NestedQuality(
        submodel=Submodel(widths),
        decoder_params=1_000_000 * sum(widths),
        loss=loss,
        agreement=agreement,
        kl=1 - agreement,
    )


@pytest.fixture
def quality() -> ScaleQuality:
    """Two granularities of three layers, 1 and 2 neurons wide."""
    small, large = point(1, 1, 1, loss=4.0), point(2, 2, 2, loss=3.0, agreement=1.0)
    mixed = (point(1, 1, 2, loss=3.6), point(1, 2, 2, loss=3.4))
    return ScaleQuality(
        twins=(
            Twins(name="S", universal=small, baseline=point(1, 1, 1, loss=3.9, agreement=0.7)),
            Twins(name="XL", universal=large, baseline=point(2, 2, 2, loss=3.1, agreement=1.0)),
        ),
        least_slope=(small, *mixed, large),
        equal_sizes=(
            MixChoice(
                count=3,
                least_slope=mixed[0],
                searched=point(2, 1, 1, loss=3.5),
                random_best=point(1, 2, 1, loss=3.7),
                drawn=(point(1, 2, 1, loss=3.7), point(1, 1, 2, loss=3.6)),
            ),
        ),
        tokens=100,
    )


def traces(figure: Any, name: str) -> list[Any]:
    return [each for each in figure.data if each.name == name]


def test_there_is_a_trace_for_each_kind_of_model_in_both_panels(quality: ScaleQuality) -> None:
    figure = nested_figure(quality)
    expected = {
        TRAINED: ([3, 6], [4.0, 3.0]),
        PLAIN: ([3, 6], [3.9, 3.1]),
        SLOPE: ([4, 5], [3.6, 3.4]),
        SEARCHED: ([4], [3.5]),
        DRAWN: ([4, 4], [3.7, 3.6]),
    }
    assert {each.name for each in figure.data} == expected.keys()
    for name, (sizes, losses) in expected.items():
        loss, agreement = traces(figure, name)
        assert (list(loss.x), list(loss.y)) == (sizes, losses)
        assert list(agreement.x) == sizes
        assert (loss.showlegend, agreement.showlegend) == (True, False)


def test_the_second_panel_has_the_share_of_agreeing_tokens(quality: ScaleQuality) -> None:
    figure = nested_figure(quality)
    assert list(traces(figure, TRAINED)[1].y) == [90, 100]
    assert list(traces(figure, PLAIN)[1].y) == [70, 100]
    assert figure.layout.yaxis2.title.text == "tokens that agree with the largest model, %"


def test_the_mouse_shows_name_widths_and_numbers(quality: ScaleQuality) -> None:
    figure = nested_figure(quality)
    assert traces(figure, PLAIN)[0].hovertext[0] == (
        "<b>S</b><br>3 × 1<br>3,000,000 non-embedding parameters<br>loss 3.9000<br>agreement 70.00 %, KL 0.3000"
    )
    assert traces(figure, SLOPE)[0].hovertext[0].startswith("2 × 1 · 2<br>")
