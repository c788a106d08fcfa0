"""A GGUF file as a Hugging Face folder: transformers de-quantizes the weights, and finds the tokenizer in the file."""

from __future__ import annotations

import contextlib
import io
from importlib.util import find_spec
from pathlib import Path

from lts_ray.errors import LtsRayError


def check_gguf(source: Path) -> None:
    """Raises LtsRayError for a file that is not there, or that nothing here can read."""
    if not source.is_file():
        raise LtsRayError(f"GGUF file {source} does not exist")
    missing = [name for name in ("gguf", "accelerate", "transformers") if find_spec(name) is None]
    if missing:
        raise LtsRayError(f"reading GGUF needs {' and '.join(missing)}: pip install 'lts-ray[gguf]'")


def convert_gguf(source: Path, folder: Path) -> None:
    """Write `source` as float32 weights, configuration and tokenizer. Raises LtsRayError where it cannot be read."""
    check_gguf(source)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of its own, which nothing switches off
            quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as error:  # transformers and gguf have no common base error
        raise LtsRayError(f"GGUF file {source} cannot be read: {' '.join(str(error).split())[:300]}") from None
    config = quantized.config
    del config.quantization_config  # its weights are plain numbers by now, but transformers would refuse to save them
    plain = type(quantized)(config)
    plain.load_state_dict(quantized.state_dict())
    partial = folder.with_name(f".{folder.name}.partial")
    plain.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.replace(folder)
