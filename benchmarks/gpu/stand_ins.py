"""Stands in for pydantic where it is not installed: records are then plain dataclasses, whose fields nothing checks."""

from __future__ import annotations

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class _Nothing(Exception):  # noqa: N818  # where pydantic has an error, it is one that never comes
    """Stands for a mark in an annotation, a base class or an error."""

    def __init__(self, *args: Any, **options: Any) -> None: ...


class _StandIn(ModuleType):
    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__spec__, self.__path__ = ModuleSpec(name, None), []
        vars(self).update(names)
        sys.modules[name] = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return vars(self).setdefault(name, type(name, (_Nothing,), {}))


def _unchecked(*, config: object, **options: Any) -> Any:
    return dataclasses.dataclass(**options)


def install_stand_ins() -> None:
    """Where pydantic is missing. To read a record from a file, or to write one, needs pydantic itself."""
    if find_spec("pydantic") is None:
        _StandIn("annotated_types")
        _StandIn("pydantic", ConfigDict=dict)
        _StandIn("pydantic.dataclasses", dataclass=_unchecked)
