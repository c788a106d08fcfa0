"""A plain checkpoint as GGUF files in the precisions that people run, made as they make them."""

from __future__ import annotations

import ctypes
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lts_ray.checkpoints.gguf_writer import write_gguf
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint

WRITTEN = {"F32": "float32", "F16": "float16", "Q8_0": "int8"}
"""By our own writer, which keeps to GGUF's rounding. Q4_0 is llama.cpp's quantiser's, whose output matrix has more
bits."""


def gguf_files(folder: Path, scratch: Path) -> dict[str, tuple[Path, float]]:
    """Each in a folder of its own, and its bytes a weight. Without llama.cpp there is no Q4_0."""
    model = load_checkpoint(folder).model
    weights = sum(parameter.numel() for parameter in model.parameters())
    paths = {kind: scratch / kind / "model.gguf" for kind in (*WRITTEN, "Q4_0")}
    for kind, path in paths.items():
        path.parent.mkdir(parents=True)
        if kind in WRITTEN:
            write_gguf(model, folder, path, precision=WRITTEN[kind])
    if find_spec("llama_cpp") is None:
        del paths["Q4_0"]
    else:
        _quantise(paths["F32"], paths["Q4_0"])
    return {kind: (path, path.stat().st_size / weights) for kind, path in paths.items()}


def _quantise(source: Path, path: Path) -> None:
    library = import_module("llama_cpp.llama_cpp")
    settings = library.llama_model_quantize_default_params()
    settings.ftype = library.LLAMA_FTYPE_MOSTLY_Q4_0
    if library.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(settings)):
        raise LtsRayError(f"llama.cpp does not write {source} as Q4_0")
