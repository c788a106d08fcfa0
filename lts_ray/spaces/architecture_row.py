"""Architectures as rows of JSON Lines, among columns that say other things: what training led to, what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import json_value, read_text
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.submodel import are_whole

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ArchitectureRow:
    columns: Mapping[str, Any]
    architecture: Architecture
    vocab_size: int | None
    """The column n_token; None where the row has none."""

    @classmethod
    def parse(cls, line: str) -> ArchitectureRow:
        """Raises LtsRayError for what is no architecture. It need not be on a space's grid."""
        try:
            columns = json_value(line)
        except json.JSONDecodeError as error:
            raise LtsRayError(f"not JSON: {error}") from None
        if not isinstance(columns, dict):
            raise LtsRayError(f"a row is a JSON object; got {line.strip()[:60]}")
        architecture, vocab_size = Architecture.from_json(columns), columns.get("n_token")
        if vocab_size is not None and not are_whole((vocab_size,), 1):
            raise LtsRayError(f"n_token must be a positive whole number; got {vocab_size!r}")
        return cls(columns=columns, architecture=architecture, vocab_size=vocab_size)

    def positive(self, column: str) -> float:
        """Raises LtsRayError where the column holds no positive number."""
        value = self.columns.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise LtsRayError(f"the column {column} must be a positive number; got {value!r}")
        return float(value)

    def counted(self, space: BackboneSpace) -> dict[str, Any]:
        """The columns with `encoder_params` and `decoder_params`, of the stacks that the space's backbone has, and with
        `total_params` where it lacks and the row names its vocabulary's size.
        """
        counts = dict(space.stack_params(self.architecture))
        if self.vocab_size is not None and "total_params" not in self.columns:
            counts["total_params"] = space.count_total_params(self.architecture, vocab_size=self.vocab_size)
        return {**self.columns, **counts}


def read_rows(path: Path, read: Callable[[ArchitectureRow], Result]) -> Iterator[Result]:
    """What `read` makes of each line of a file, `-` for stdin. Raises LtsRayError that names the line."""
    for number, line in enumerate(read_text(path, what="rows").split("\n"), start=1):
        if line.strip():
            try:
                result = read(ArchitectureRow.parse(line))
            except LtsRayError as error:
                raise LtsRayError(f"{path}, line {number}: {error}") from None
            yield result
