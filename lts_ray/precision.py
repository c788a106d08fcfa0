"""What the weights of a step's matrices are kept in. Activations and sums are float32 at all of them, but that inputs
of matrices in whole numbers are rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Precision = Literal["float32", "bfloat16", "int8", "int4"]
"""Where a record names one."""
PRECISIONS = ("float32", "bfloat16", "int8", "int4")
"""The most precise first. int8 and int4 nest: the upper four of the eight bits are the other (see quantisation/)."""
QUANTISED = ("int8", "int4")
WEIGHT_BYTES: Mapping[str, float] = {"float32": 4.0, "bfloat16": 2.0, "int8": 1 + 2 / 32, "int4": 0.5 + 2 / 32}
"""Of one weight, its share of its group's scale included."""

PLANES = ("float32", "bfloat16", "upper", "lower")
"""What a matrix may be kept as. A step reads those that its rows run in, each once: of the 8 bits two."""
READS: Mapping[str, int] = {"float32": 0b0001, "bfloat16": 0b0010, "int8": 0b1100, "int4": 0b0100}
"""The planes of a precision: bit n stands for PLANES[n]."""
STORED_PLANE = READS["float32"]
"""Of submodels that name no precision."""
DEFAULT_PRECISIONS: tuple[Precision, ...] = ("int8", "int4")
"""That a CPU's kernels serve, and a search for them looks at, where nothing else is asked for."""
