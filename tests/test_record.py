"""Records that people write are checked, and what is wrong is told in one line."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from annotated_types import Ge
from pydantic import Field

from lts_ray.errors import LtsRayError
from lts_ray.record import read_record, record, record_json


@record(what="inner")
class Inner:
    size: Annotated[int, Ge(1)] = 1
    """Of the thing."""
    rate: float = Field(default=0.5, gt=0, lt=1)
    """A share."""


@record()
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    inner: Inner = Inner()
    pair: tuple[int, ...] = (1, 2)
    other: Inner | None = None


def test_what_is_written_is_read_back() -> None:
    value = Outer(name="x", inner=Inner(size=3), pair=(4,), other=Inner())
    assert read_record(Outer, record_json(value)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"name": "x", "siz": 1, "b": 2},
            "the configuration has unknown keys b, siz; known: inner, kind, name, other, pair",
        ),
        ({"name": "x", "inner": {"siz": 1}}, "inner has unknown keys siz; known: rate, size"),
        ({"name": "x", "other": {"siz": 1}}, "other has unknown keys siz; known: rate, size"),
        ({}, "the configuration needs name"),
        ({"name": "x", "inner": {"size": 0}}, "inner.size must be at least 1; got 0"),
        ({"name": "x", "inner": {"size": True}}, "inner.size must be a whole number; got True"),
        ({"name": "x", "inner": {"size": 1.5}}, "inner.size must be a whole number; got 1.5"),
        ({"name": "x", "inner": {"rate": 1}}, "inner.rate must be below 1; got 1"),
        ({"name": "x", "kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"name": "x", "inner": 3}, "inner must be a mapping; got 3"),
        ({"name": "x", "pair": 3}, "pair must be a list; got 3"),
        ({"name": 3}, "name must be text; got 3"),
    ],
)
def test_what_is_wrong_is_one_line(value: dict[str, object], message: str) -> None:
    with pytest.raises(LtsRayError) as caught:
        read_record(Outer, value)
    assert str(caught.value) == message


def test_a_record_made_by_hand_is_checked_too() -> None:
    with pytest.raises(LtsRayError, match=r"^inner\.size must be at least 1; got 0$"):
        Inner(size=0)


@record(strict=False)
class Arguments:
    threads: Annotated[int, Ge(1)] | None = None
    fast: bool = True
    share: float = 0.5


def test_what_comes_from_a_command_line_may_be_text() -> None:
    given = {"threads": "2", "fast": "false", "share": "0.1"}
    assert read_record(Arguments, given) == Arguments(threads=2, fast=False, share=0.1)
    for name, allowed in (("threads", "a whole number"), ("fast", "true or false"), ("share", "a number")):
        with pytest.raises(LtsRayError, match=f"^{name} must be {allowed}; got 'many'$"):
            read_record(Arguments, {name: "many"})
