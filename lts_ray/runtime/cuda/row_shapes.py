"""How much of each layer the rows of a submodel have: a line of numbers a submodel, for a step to take from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel

Numbers = npt.NDArray[np.int32]
MOST_KEPT = 1024
"""Submodels whose shapes are kept."""


class RowShapes:
    def __init__(self, config: MatFormerConfig) -> None:
        self._config = config
        self.forget()

    def forget(self) -> None:
        """Begin anew, with no numbers given."""
        # By identity, which takes no time; submodels that are kept here keep theirs.
        self._numbers: dict[int, int] = {}
        self._kept: list[Submodel] = []
        self.ranks: list[int] = []
        """By number: the smaller, the wider."""
        self.lines: Numbers = np.zeros((1 + 2 * self._config.n_layer, 8), dtype=np.int32)
        """Columns by number: d_model, then the widths of all layers, then their heads."""

    def begin_step(self) -> None:
        """Numbers hold until then."""
        if len(self._kept) > MOST_KEPT:
            self.forget()

    def number(self, submodel: Submodel) -> int:
        """Raises LtsRayError where the model does not have it, or it is not to run in what is stored."""
        number = self._numbers.get(id(submodel))
        return self._add(submodel) if number is None else number

    def _add(self, submodel: Submodel) -> int:
        config, number = self._config, len(self._kept)
        checked = config.check(submodel)
        if checked.precision:
            raise LtsRayError(f"this runtime has {STORED}; a segment asks for {checked.precision}")
        dims, heads = checked.d_model or config.d_model, checked.heads or config.layer_heads
        if number == self.lines.shape[1]:
            self.lines = np.concatenate([self.lines, np.zeros_like(self.lines)], axis=1)
        self.lines[:, number] = (dims, *checked.widths, *heads)
        self.ranks.append(-sum(checked.widths) * dims)
        self._kept.append(submodel)
        self._numbers[id(submodel)] = number
        return number
