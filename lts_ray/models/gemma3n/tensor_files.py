"""Tensors out of safetensors files and into them, a piece at a time: a model need not fit into memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.files import replacing
from lts_ray.models.checkpoint_folder import weight_files

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Of a number, by the name that a safetensors file has for its type."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor of an open file."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """The file's name for its type."""
    read: Callable[[], Tensor]
    part: Any = field(repr=False)
    """Indexed as a tensor is, it reads that part."""

    @property
    def n_bytes(self) -> int:
        return bytes_of(self.shape, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Written:
    """One tensor to write."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterator[Tensor]]
    """Gives its values in order, each call anew."""


class TensorFiles:
    """The weights of a folder, by name, to be used in a `with`. Raises LtsRayError where one is missing or corrupt."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.tensors: dict[str, Stored] = {}

    def __enter__(self) -> TensorFiles:
        try:
            for path in weight_files(self._folder):
                self._open(path)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, path: Path) -> None:
        if not path.is_file():
            raise LtsRayError(f"model {self._folder} has no {path.name}; save its weights as safetensors")
        try:
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            for name in sorted(file.keys()):
                part = file.get_slice(name)
                self.tensors[name] = Stored(
                    file=path.name,
                    shape=tuple(part.get_shape()),
                    dtype=part.get_dtype(),
                    read=partial(file.get_tensor, name),
                    part=part,
                )
        except (OSError, SafetensorError, struct.error) as error:
            raise LtsRayError(f"weights {path} are corrupt or not safetensors: {error}") from None


def bytes_of(shape: Sequence[int], dtype: str) -> int:
    if dtype not in ITEM_BYTES:
        raise LtsRayError(f"tensors of type {dtype} are not sliced; lts-ray slices {', '.join(ITEM_BYTES)}")
    return ITEM_BYTES[dtype] * torch.Size(shape).numel()


def write_tensors(path: Path, tensors: Sequence[Written]) -> None:
    """A safetensors file, as atomically as any: the length of its header, the header, then all values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + bytes_of(tensor.shape, tensor.dtype)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the values are to be aligned
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for piece in tensor.pieces():
                file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        written = file.tell() - 8 - len(text)
        assert written == offset, f"{path} has {written} bytes of values instead of {offset}"
