"""A table's designs as a search space: genes are its columns, and what is not in the table is taken for what is.

A list column has a gene per layer. Distance between designs is Euclidean over the columns, each scaled to [0, 1] by its
own range; a list column counts as one, by the mean over its layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lts_ray.errors import LtsRayError
from lts_ray.replay.design_table import DesignTable, Value
from lts_ray.spaces.depth_moments import depth_moments
from lts_ray.spaces.search_space import Gene

Places = tuple[int, ...]
"""A candidate: for each gene the place of its value among the gene's choices; a layer that is not there is at -1."""
ABSENT = -1
WIDE = 4.0
"""A number whose values span more than this factor is looked at on a logarithmic scale."""


class TableSpace:
    name = "table"

    def __init__(self, table: DesignTable) -> None:
        self._table = table
        self._choices: list[tuple[float, ...]] = []  # of each gene
        self._spans: list[tuple[int, int]] = []  # of each column, the genes that it has
        for column in range(len(table.columns)):
            values = [_as_list(design[column]) for design in table.designs]
            start = len(self._choices)
            distinct = tuple(sorted({number for value in values for number in value}))
            self._choices += [distinct] * max(len(value) for value in values)
            self._spans.append((start, len(self._choices)))
        self._places = [self._encode(design) for design in table.designs]
        self._rows = {places: row for row, places in enumerate(self._places)}
        self._depths = {  # numbers of layers that designs have, by the values of the columns that are plain numbers
            self._scalars(places): self._lengths(places) for places in self._places
        }
        self._scaled = np.array([self._scale(places) for places in self._places])
        self._features = [self._features_of(design) for design in table.designs]

    @property
    def size(self) -> int:
        return len(self._places)

    @property
    def genes(self) -> Sequence[Gene]:
        names = [
            f"{self._table.columns[column]}_{gene - start}"
            for column, (start, end) in enumerate(self._spans)
            for gene in range(start, end)
        ]
        return [
            Gene(name=name, choices=tuple(range(len(choices))))
            for name, choices in zip(names, self._choices, strict=True)
        ]

    def from_genes(self, values: Sequence[int]) -> Places:
        return self._trim(tuple(values))

    def to_genes(self, candidate: Places) -> Mapping[str, int]:
        return {gene.name: place for gene, place in zip(self.genes, candidate, strict=True) if place != ABSENT}

    def seeds(self) -> Sequence[Places]:
        return []

    def listing(self) -> Sequence[Places]:
        return self._places

    def sample(self, rng: np.random.Generator) -> Places:
        return self._places[int(rng.integers(len(self._places)))]

    def mutate(self, candidate: Places, rng: np.random.Generator, probability: float) -> Places:
        drawn = (
            int(rng.integers(len(choices))) if place == ABSENT or rng.random() < probability else place
            for place, choices in zip(candidate, self._choices, strict=True)
        )
        return self._trim(tuple(drawn))

    def crossover(self, first: Places, second: Places, rng: np.random.Generator) -> Places:
        """Where one parent alone has a layer, the child has it as well, unless its depth says otherwise."""

        def either(mine: int, other: int) -> int:
            place = mine if rng.random() < 0.5 else other
            return max(mine, other) if place == ABSENT else place

        return self._trim(tuple(map(either, first, second)))

    def contains(self, candidate: Places) -> bool:
        """Whether every gene has one of its values; such a design may be in the table or not, see `nearest`."""
        return len(candidate) == len(self._choices) and all(
            ABSENT <= place < len(choices) for place, choices in zip(candidate, self._choices, strict=True)
        )

    def nearest(self, candidate: Places, taken: AbstractSet[Places]) -> Places:
        """The table's design nearest to `candidate` that is not taken. Raises LtsRayError when all are."""
        if candidate in self._rows and candidate not in taken:
            return candidate
        if len(taken) >= len(self._places):
            raise LtsRayError(f"all {len(self._places)} rows of the table are used")
        distances = ((self._scaled - self._scale(candidate)) ** 2).sum(axis=1)
        distances[[self._rows[places] for places in taken]] = np.inf
        return self._places[int(np.argmin(distances))]

    def row(self, candidate: Places) -> int:
        return self._rows[candidate]

    def features(self, candidate: Places) -> Sequence[float]:
        return self._features[self._rows[candidate]]

    def decoder_params(self, candidate: Places) -> int:
        raise LtsRayError("a table says nothing of decoder parameters")

    def to_json(self, candidate: Places) -> list[int]:
        return list(candidate)

    def from_json(self, value: Any) -> Places:
        return tuple(value)

    def _encode(self, design: Sequence[Value]) -> Places:
        places = [ABSENT] * len(self._choices)
        for (start, _), value in zip(self._spans, design, strict=True):
            for gene, number in enumerate(_as_list(value), start=start):
                places[gene] = self._choices[gene].index(number)
        return tuple(places)

    def _scalars(self, places: Places) -> Places:
        return tuple(places[start] for start, end in self._spans if end - start == 1)

    def _lengths(self, places: Places) -> tuple[int, ...]:
        return tuple(sum(place != ABSENT for place in places[start:end]) for start, end in self._spans)

    def _trim(self, places: Places) -> Places:
        """Without the layers that designs with these numbers (one of which counts layers) do not have."""
        lengths = self._depths.get(self._scalars(places))
        if lengths is None:
            return places
        trimmed = list(places)
        for (start, end), length in zip(self._spans, lengths, strict=True):
            trimmed[start + length : end] = [ABSENT] * (end - start - length)
        return tuple(trimmed)

    def _scale(self, places: Places) -> NDArray[np.float64]:
        """Coordinates whose Euclidean distance is that of designs."""
        scaled = np.empty(len(places))
        for start, end in self._spans:
            low, high = self._choices[start][0], self._choices[start][-1]
            span = max(high - low, 1e-12) * (end - start) ** 0.5
            for gene in range(start, end):
                value = low if places[gene] == ABSENT else self._choices[gene][places[gene]]
                scaled[gene] = (value - low) / span
        return scaled

    def _features_of(self, design: Sequence[Value]) -> tuple[float, ...]:
        """Plain numbers, and for a list its moments over depth and its sum."""
        numbers: list[float] = []
        for (start, end), value in zip(self._spans, design, strict=True):
            choices = self._choices[start]
            scale = log if choices[0] > 0 and choices[-1] > WIDE * choices[0] else float
            if end - start == 1:
                numbers.append(scale(_as_list(value)[0]))
            else:
                numbers += depth_moments([scale(number) for number in _as_list(value)])
        return tuple(numbers)


def _as_list(value: Value) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)
