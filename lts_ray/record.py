"""Records that people write: frozen dataclasses that pydantic checks, and one place that words what is wrong with one.

For settings and for files of ours. What runs in every step keeps plain dataclasses with slots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass
from functools import wraps
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lts_ray.errors import LtsRayError

Record = TypeVar("Record")
Whole = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1, pattern=r"\A[^\x00]*\z")]
"""No zero byte: it often names a file."""
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
MUST_BE = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "text without a zero byte",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "dataclass_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
"""What pydantic's kinds of error ask for, in our words."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, Field))
def record(*, what: str = "", strict: bool = True) -> Callable[[type[Record]], type[Record]]:
    """A frozen, keyword-only dataclass whose fields are checked: unknown keys, types, ranges (`Annotated[int, Ge(1)]`).

    A string under a field is its comment. Making one by hand or by `read_record` raises LtsRayError with one line.
    what: the record's name in that line, e.g. "training" for "training.steps must be at least 1; got 0".
    strict: False where numbers may come as text, as from a command line.
    """

    def decorate(kind: type[Record]) -> type[Record]:
        made: Any = dataclass(frozen=True, kw_only=True, config=CONFIG | {"strict": strict})(kind)
        checked = made.__init__

        @wraps(checked)
        def init(self: Record, *args: Any, **values: Any) -> None:
            try:
                checked(self, *args, **values)
            except ValidationError as error:
                raise LtsRayError(worded(error, made, what)) from None

        made.__init__ = init
        return made  # type: ignore[no-any-return]

    return decorate


def read_record(kind: type[Record], value: object, *, what: str = "") -> Record:
    """A record out of what a JSON or YAML file says, where lists stand for tuples. what: its name in an LtsRayError."""
    _check_keys(value, what)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise LtsRayError(worded(error, kind, what)) from None


def _check_keys(value: object, where: str) -> None:
    """JSON would make text of a key that is a number in YAML."""
    if isinstance(value, list | tuple):
        for part in value:
            _check_keys(part, where)
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise LtsRayError(f"a key of {where or 'the configuration'} must be text; got {key!r}")
            _check_keys(part, f"{where}.{key}" if where else key)


def record_json(value: object) -> dict[str, Any]:
    """A record as JSON has it, which `read_record` reads back to an equal one."""
    # Without pydantic's warnings: it takes a tuple with a validator of its own for a list, and writes it rightly.
    written: dict[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json", warnings=False)
    return written


def worded(error: ValidationError, kind: object, what: str) -> str:
    """The first thing that is wrong, in one line: where, what is allowed, and what there is."""
    problems = error.errors(include_url=False)
    first = problems[0]
    place, last = first["loc"][:-1], str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        alike = [problem for problem in problems if (problem["type"], problem["loc"][:-1]) == (first["type"], place)]
        unknown = ", ".join(sorted(str(problem["loc"][-1]) for problem in alike))
        known = ", ".join(sorted(_keys(kind, place))) or "none"
        return f"{_where(what, place) or 'the configuration'} has unknown keys {unknown}; known: {known}"
    if first["type"].startswith("missing"):
        return f"{_where(what, place) or 'the configuration'} needs {last}"
    return f"{_where(what, first['loc'])} must be {_allowed(first)}; got {first['input']!r}"


def _where(what: str, place: tuple[int | str, ...]) -> str:
    return ".".join(filter(None, (what, *map(str, place))))


def _allowed(problem: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in MUST_BE:
        return MUST_BE[kind]
    if kind == "literal_error":
        return "one of " + str(context["expected"]).replace(" or ", ", ").replace("'", "")
    limits = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    limits |= {"greater_than": ("above", "gt"), "less_than": ("below", "lt")}
    if kind in limits:
        words, key = limits[kind]
        limit = context[key]
        return f"{words} {limit:g}" if isinstance(limit, float) else f"{words} {limit}"
    return str(problem["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")


def _keys(kind: object, place: tuple[int | str, ...]) -> list[str]:
    """The fields of the record at `place` within `kind`; none where it cannot be told."""
    for name in place:
        hints = [get_type_hints(choice) for choice in _records(kind)]
        kind = next((types[str(name)] for types in hints if str(name) in types), None)
    return [field.name for choice in _records(kind) for field in fields(choice)]


def _records(kind: object) -> list[Any]:
    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [choice for choice in choices if isinstance(choice, type) and is_dataclass(choice)]
