"""All matrices of a model in 8 and 4 bits, and the model that computes with what they stand for."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.precision import QUANTISED
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix, round_to_nearest

QuantisedWeights = Mapping[str, QuantisedMatrix]
"""By the parameter's name in the model."""

FINE = ("embed_tokens.weight", "lm_head.weight")
"""In 8 bits also where the layers are in 4: these lose more by it, and are read once a step."""


def matrices_of(model: MatFormer) -> dict[str, nn.Parameter]:
    """What is kept in fewer bits, by name: the layers' matrices, the embedding and the output matrix."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and not name.startswith("embed_positions")
    }


def form_of(name: str, precision: str) -> str:
    """int8 or int4: what a matrix is in where the model is in `precision`, which is one of both."""
    return "int8" if name in FINE else precision


def rounded_weights(model: MatFormer) -> dict[str, QuantisedMatrix]:
    return {name: round_to_nearest(matrix) for name, matrix in matrices_of(model).items()}


def at_precision(model: MatFormer, precision: str, quantised: QuantisedWeights | None = None) -> MatFormer:
    """A copy whose matrices are what `precision` makes of them; quantised: else they are rounded to the nearest."""
    changed = copy.deepcopy(model)
    weights = (quantised or rounded_weights(model)) if precision in QUANTISED else {}
    with torch.no_grad():
        for name, matrix in matrices_of(changed).items():
            if precision in QUANTISED:
                matrix.copy_(weights[name].weights(form_of(name, precision)))
            elif precision == "bfloat16":
                matrix.copy_(matrix.to(torch.bfloat16))
    return changed
