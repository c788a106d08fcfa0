"""A submodel names its precision beside its widths, in text, in JSON, and in what a model makes of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import PRECISIONS
from lts_ray.submodel import Submodel

PLAIN = MatFormerConfig(vocab_size=8, d_model=16, n_head=8, n_kv_head=4, widths=(16, 24), context_length=8)
NESTED = replace(PLAIN, nested_heads={"S": 0.25}, nested_d_model={"S": 0.5})


@st.composite
def submodels(draw: st.DrawFn, config: MatFormerConfig = NESTED) -> Submodel:
    heads = st.lists(st.sampled_from((2, 4, 6, 8)), min_size=2, max_size=2).map(tuple)
    chosen = Submodel(
        tuple(draw(st.integers(1, width)) for width in config.widths),
        heads=draw(st.just(()) | heads) if config.elastic_heads else (),
        d_model=draw(st.integers(0, 16)) if config.elastic_d_model else 0,
        precision=draw(st.sampled_from(("", *PRECISIONS))),
    )
    return config.check(chosen)


@given(submodels() | submodels(config=PLAIN))
def test_text_and_json_are_read_back_with_the_precision(submodel: Submodel) -> None:
    config = NESTED if submodel.heads or submodel.d_model else PLAIN
    assert config.submodel(submodel.text) == submodel == NESTED.submodel(submodel.text)
    assert Submodel.from_json(submodel.to_json()) == submodel == Submodel.from_json(submodel.fields())
    assert ("precision" in submodel.fields()) == bool(submodel.precision)


@given(first=submodels(), second=submodels(), third=submodels())
def test_what_lies_within_another_is_no_more_precise(first: Submodel, second: Submodel, third: Submodel) -> None:
    assert first.is_within(first)
    if first.is_within(second):
        assert not second.is_within(first) or first == second
        assert not second.is_within(third) or first.is_within(third)
    order = [replace(first, precision=precision) for precision in ("", "bfloat16", "int8", "int4")]
    for place, rougher in enumerate(order):
        assert [rougher.is_within(each) for each in order] == [place >= other for other in range(4)]


def test_any_name_of_a_submodel_may_end_with_a_precision() -> None:
    assert NESTED.submodel("S@int4") == replace(NESTED.trained["S"], precision="int4")
    assert NESTED.submodel(" XL @ int8 ") == replace(NESTED.universal, precision="int8")
    assert PLAIN.submodel("0.5@int8") == Submodel((8, 12), precision="int8")
    assert NESTED.submodel("0.5@12@int4") == Submodel((8, 12), d_model=12, precision="int4")
    assert NESTED.submodel("2/2,24@12@bfloat16") == Submodel((2, 24), heads=(2, 8), d_model=12, precision="bfloat16")


@pytest.mark.parametrize("text", ["XL@float32", "1@float32", "16,24@float32"])
def test_what_is_run_as_it_is_stored_does_not_say_so(text: str) -> None:
    assert PLAIN.submodel(text) == PLAIN.universal


@pytest.mark.parametrize("text", ["S@int3", "S@int4@int8", "@int4", "S@int4@12", "0.5@", "16,24@int4,int8", "int4", ""])
def test_an_unknown_precision_never_means_the_model_as_it_is_stored(text: str) -> None:
    with pytest.raises(LtsRayError, match="submodel"):
        NESTED.submodel(text)


def test_a_precision_that_a_model_does_not_run_in_is_one_line() -> None:
    narrow = replace(PLAIN, precisions=("float32", "int8"))
    assert narrow.submodel("S@int8").precision == "int8"
    with pytest.raises(LtsRayError, match="this model runs in float32, int8; the submodel asks for int4"):
        narrow.submodel("S@int4")
    with pytest.raises(LtsRayError, match="this model runs in int8; the submodel asks for float32"):
        replace(PLAIN, precisions=("int8",)).submodel("XL@float32")
    other = Gemma3nConfig(widths=(8, 8), layer_types=("full_attention",) * 2, n_shared=0)
    with pytest.raises(LtsRayError, match="this model runs in float32; the submodel asks for int8"):
        other.check(replace(other.universal, precision="int8"))
    with pytest.raises(LtsRayError, match="precision is one of float32, bfloat16, int8, int4; got 'int3'"):
        Submodel((8,), precision="int3")


@pytest.mark.parametrize("value", [(), ("int3",), ("int4", "int8"), ("int8", "int8")], ids=str)
def test_precisions_that_no_model_has_are_refused(value: tuple[str, ...]) -> None:
    with pytest.raises(LtsRayError, match="precisions must be some of float32, bfloat16, int8, int4, in this order"):
        replace(PLAIN, precisions=value)
