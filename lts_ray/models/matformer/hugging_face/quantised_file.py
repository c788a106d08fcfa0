"""A model's matrices in 8 or 4 bits, in a file: `NAME.codes` (uint8) and `NAME.scales` (float16) of each, by our names.

Beside a checkpoint's weights it is `quantised.safetensors`: how these were rounded, where not to the nearest. It names
the weights that it was made of, and stands for no others. In place of the matrices both are in `model.safetensors`,
where 4 bits have two codes a byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import pad

from lts_ray.errors import LtsRayError
from lts_ray.files import replacing
from lts_ray.models.checkpoint_folder import check_same, save_tensors
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.prefix import prefix
from lts_ray.quantisation.quantised_matrix import GROUP, QuantisedMatrix
from lts_ray.quantisation.quantised_weights import QuantisedWeights, form_of, matrices_of

QUANTISED_FILE = "quantised.safetensors"
SCHEMA = "1"


def write_quantised(folder: Path, quantised: QuantisedWeights, *, fingerprint: str) -> None:
    """fingerprint: of the checkpoint in `folder`, whose weights these are."""
    with replacing(folder / QUANTISED_FILE) as temporary:
        save_tensors(to_planes(quantised), temporary, schema=SCHEMA, fingerprint=fingerprint)


def read_quantised(folder: Path, model: MatFormer, *, fingerprint: str) -> QuantisedWeights | None:
    """None where there is no such file. Raises LtsRayError for one that is corrupt, or of other weights."""
    path = folder / QUANTISED_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            planes = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, struct.error) as error:
        raise LtsRayError(f"weights {path} are corrupt or not safetensors: {error}") from None
    if said.get("schema") != SCHEMA:
        raise LtsRayError(f"weights {path} have schema {said.get('schema')}; this version reads {SCHEMA}")
    if said.get("fingerprint") != fingerprint:
        raise LtsRayError(f"weights {path} were rounded from others than the folder has now: remove the file")
    return from_planes(path, model, planes)


def to_planes(quantised: QuantisedWeights, precision: str = "int8") -> dict[str, Tensor]:
    """precision: int4 keeps no more than that, two codes a byte."""
    planes = {}
    for name, matrix in quantised.items():
        planes[f"{name}.codes"] = matrix.codes if form_of(name, precision) == "int8" else _packed(matrix.codes)
        planes[f"{name}.scales"] = matrix.scales
    return planes


def from_planes(
    path: Path, model: MatFormer, planes: Mapping[str, Tensor], precision: str = "int8"
) -> QuantisedWeights:
    """model: may be empty. Raises LtsRayError, naming the first difference, unless the planes are of its matrices."""
    matrices, expected, quantised = matrices_of(model), {}, {}
    for name, matrix in matrices.items():
        n_out, n_in = matrix.shape
        columns = n_in if form_of(name, precision) == "int8" else -(-n_in // 2)
        expected[f"{name}.codes"] = (torch.uint8, (n_out, columns))
        expected[f"{name}.scales"] = (torch.float16, (n_out, -(-n_in // GROUP)))
    check_same(path, expected, {name: (plane.dtype, tuple(plane.shape)) for name, plane in planes.items()})
    for name, matrix in matrices.items():
        codes = planes[f"{name}.codes"]
        codes = codes if form_of(name, precision) == "int8" else _unpacked(codes, matrix.shape[1])
        quantised[name] = QuantisedMatrix(codes, planes[f"{name}.scales"])
    return quantised


def _packed(codes: Tensor) -> Tensor:
    """The upper bits of [n_out, n_in], of inputs 2 j and 2 j + 1 in the lower and the upper half of byte j."""
    upper = pad(codes >> 4, (0, codes.shape[1] % 2))
    return upper[:, ::2] | upper[:, 1::2] << 4


def _unpacked(packed: Tensor, n_in: int) -> Tensor:
    """Codes whose lower bits are the middle of the sixteen: they stand for the same in 8 bits and in 4."""
    upper = torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)[:, :n_in]
    return upper << 4 | 8


def cut_quantised(quantised: QuantisedWeights, smaller: MatFormer) -> QuantisedWeights:
    """Of a submodel: the same numbers, since a prefix of a matrix's inputs is a prefix of its groups."""
    cut = {}
    for name, matrix in matrices_of(smaller).items():
        groups = (len(matrix), -(-matrix.shape[1] // GROUP))
        codes, scales = quantised[name].codes, quantised[name].scales
        cut[name] = QuantisedMatrix(prefix(codes, matrix.shape).clone(), prefix(scales, groups).clone())
    return cut
