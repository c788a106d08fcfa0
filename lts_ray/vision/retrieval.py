"""1-nearest-neighbour retrieval: is the image of the index that is nearest to a query of the query's class?

Queries and index may be encoded by different submodels: an index that was encoded once, at full width, then answers
queries that a small submodel encodes on a small device. It works as far as the submodels share one metric space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.vit.matvit import MatViT
from lts_ray.vision.accuracy import Progress, encoded
from lts_ray.vision.images import ImageData, check_images

Distance = Literal["cosine", "l2"]
SCORES_AT_ONCE = 2**23
"""Numbers in a part of the matrix of queries and index: 64 MiB."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    query: str
    """The submodel that encodes the queries."""
    index: str
    """The submodel that encodes the index."""
    accuracy: float
    """Of 1-NN."""


def retrieve(
    model: MatViT,
    data: ImageData,
    *,
    queries: Sequence[str],
    indices: Sequence[str],
    index_model: MatViT | None = None,
    distance: Distance = "cosine",
    progress: Progress = lambda done, total: None,
) -> list[Retrieval]:
    """Every pair of submodels: what was held out asks, the images to train on are the index.

    index_model: whose submodels encode the index; None: the same model's. Raises LtsRayError where there is no such
    submodel, or the two models' encodings are of different length.
    """
    storing = model if index_model is None else index_model
    if storing.config.d_model != model.config.d_model:
        raise LtsRayError(
            f"queries are encoded in {model.config.d_model} numbers, the index in {storing.config.d_model}: "
            "they cannot be compared"
        )
    check_images(data, model.config)
    check_images(data, storing.config)
    total = len(set(queries)) + len(set(indices))
    asked: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    sides = ((model, queries, data.held_out, asked), (storing, indices, data.train, stored))
    for encoder, names, images, encodings in sides:
        submodels = {name: encoder.config.submodel(name) for name in names}
        for name, submodel in submodels.items():
            encodings[name] = encoded(encoder, images.pixels, submodel)
            progress(len(asked) + len(stored), total)
    return [
        Retrieval(query=query, index=index, accuracy=_accuracy(asked[query], stored[index], data, distance))
        for query in queries
        for index in indices
    ]


def _accuracy(queries: Tensor, index: Tensor, data: ImageData, distance: Distance) -> float:
    labels = data.train.labels[nearest_images(queries, index, distance).cpu()]
    return float((labels == data.held_out.labels).double().mean())


def nearest_images(queries: Tensor, index: Tensor, distance: Distance) -> Tensor:
    """The place in the index that is nearest to each query, the first of several: [Q, D] and [N, D] to [Q].

    Exact: every pair is compared, in float64. Raises LtsRayError for an unknown distance.
    """
    if distance not in get_args(Distance):
        raise LtsRayError(f"there is no distance {distance!r}; use one of {', '.join(get_args(Distance))}")
    queries, index = queries.double(), index.double()
    if distance == "cosine":
        queries, index = functional.normalize(queries, dim=-1), functional.normalize(index, dim=-1)
    squares = index.square().sum(dim=-1)  # that of the query is the same for all of the index
    parts = torch.split(queries, max(1, SCORES_AT_ONCE // len(index)))
    return torch.cat([(squares - 2 * part @ index.t()).argmin(dim=-1) for part in parts])
