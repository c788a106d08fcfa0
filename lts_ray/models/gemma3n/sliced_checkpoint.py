"""A submodel as a checkpoint of its own, which plain transformers loads: its part of each tensor, file by file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.files import make_folder, replacing, write_json
from lts_ray.models.checkpoint_folder import CONFIG, INDEX, read_raw_config
from lts_ray.models.gemma3n.cut import Cut, cut_of, prefix_of, sliced_config
from lts_ray.models.gemma3n.gemma3n_checkpoint import check_weights, read_gemma3n_config
from lts_ray.models.gemma3n.raw_config import sliced_raw
from lts_ray.models.gemma3n.tensor_files import Stored, TensorFiles, Written, bytes_of, write_tensors
from lts_ray.submodel import Submodel

PIECE_BYTES = 64 << 20
COMPANIONS = (".json", ".jinja", ".model", ".txt")
"""Of the files beside the weights: the tokenizer's and the processors', which no slice changes."""


def slice_checkpoint(source: Path, submodel: str, output: Path) -> Submodel:
    """Write the submodel, named as on the command line, to the folder `output`; return it.

    Every file of weights becomes one of the same name, of the type it was in. Reads and writes a piece of a tensor at a
    time. The configuration comes last: a folder that has one is whole.
    """
    config, _ = read_gemma3n_config(source)
    chosen = config.submodel(submodel)
    with TensorFiles(source) as files:
        check_weights(source, config, files)
        prefix = prefix_of(files.tensors)
        by_file: dict[str, list[Written]] = {}
        for name, stored in files.tensors.items():
            cut = cut_of(name, config, chosen, prefix=prefix)
            if cut is not None:
                by_file.setdefault(stored.file, []).append(_written(stored, cut))
        make_folder(output)
        for file, tensors in by_file.items():
            write_tensors(output / file, tensors)
    if len(by_file) > 1 or INDEX in {path.name for path in source.iterdir()}:
        _write_index(output, by_file)
    for path in sorted(source.iterdir()):
        if path.suffix in COMPANIONS and path.name not in (CONFIG, INDEX) and path.is_file():
            with replacing(output / path.name) as temporary:
                shutil.copyfile(path, temporary)
    write_json(output / CONFIG, sliced_raw(read_raw_config(source), sliced_config(config, chosen)))
    return chosen


def _write_index(output: Path, by_file: dict[str, list[Written]]) -> None:
    tensors = [(tensor, file) for file, inside in by_file.items() for tensor in inside]
    total = sum(bytes_of(tensor.shape, tensor.dtype) for tensor, _ in tensors)
    places = {tensor.name: file for tensor, file in tensors}
    write_json(output / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _written(stored: Stored, cut: Cut) -> Written:
    return Written(
        name=cut.name, shape=cut.shape(stored.shape), dtype=stored.dtype, pieces=partial(_pieces, stored, cut)
    )


def _pieces(stored: Stored, cut: Cut) -> Iterator[Tensor]:
    """What stays of the tensor, some rows at a time."""
    if not stored.shape:
        yield stored.read()
        return
    n_rows = stored.shape[0]
    step = max(1, PIECE_BYTES * n_rows // max(1, stored.n_bytes))
    for first, last in cut.rows or ((0, n_rows),):
        for start in range(first, last, step):
            stop = min(start + step, last)
            if cut.columns is None:
                yield stored.part[start:stop]
            else:
                yield torch.cat([stored.part[start:stop, begin:end] for begin, end in cut.columns], dim=1)
