"""A submodel as a model of its own: the other way to run one, when the rest of the universal model is not wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lts_ray.checkpoints.gguf_writer import write_gguf
from lts_ray.checkpoints.model_tokenizer import check_tokenizer
from lts_ray.checkpoints.universal import is_gemma3n
from lts_ray.errors import LtsRayError
from lts_ray.files import new_folder
from lts_ray.models.checkpoint_folder import read_raw_config
from lts_ray.models.gemma3n.sliced_checkpoint import slice_checkpoint
from lts_ray.models.matformer.hugging_face.checkpoint import (
    PER_LAYER_MODEL_TYPE,
    load_checkpoint,
    read_config,
    read_dtype,
    save_checkpoint,
    save_in_few_bits,
    save_quantised,
)
from lts_ray.models.matformer.hugging_face.quantised_file import cut_quantised
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.prefix import prefix
from lts_ray.precision import QUANTISED
from lts_ray.quantisation.quantised_weights import rounded_weights
from lts_ray.submodel import Submodel
from lts_ray.text.held_out_tokens import HeldOutTokens
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer

PLAIN = "plain transformers loads it"
OURS = "transformers has no such model, so lts-ray loads it"
GGUF = "model.gguf"


def extract(model: MatFormer, submodel: Submodel) -> MatFormer:
    """The first neurons of each layer, and heads and dimensions where it has fewer, copied; it computes the same."""
    smaller = MatFormer(model.config.extracted(submodel))
    full, tensors = model.state_dict(), {}
    for name, value in smaller.state_dict().items():
        tensors[name] = prefix(full[name], value.shape).clone()
    smaller.load_state_dict(tensors)
    return smaller.to(model.weight.dtype).eval()


@dataclass(frozen=True, kw_only=True)
class Extracted:
    submodel: Submodel
    loads: str
    """What does, in words."""


def extract_checkpoint(source: Path, submodel: str, output: Path, *, as_gguf: bool = False) -> Extracted:
    """Write the submodel (named as on the command line) as a checkpoint folder, with the tokenizer if there is one.

    One in int8 or int4 holds no more than these. as_gguf: the folder has a file for llama.cpp, model.gguf, and no more.
    """
    with new_folder(output):
        if is_gemma3n(source):
            if as_gguf:
                raise LtsRayError("GGUF is written for models whose layers are plain; Gemma 3n's are not")
            return Extracted(submodel=slice_checkpoint(source, submodel, output), loads=PLAIN)
        check_tokenizer(source, vocab_size=read_config(source)[0].vocab_size)
        checkpoint = load_checkpoint(source)
        model = checkpoint.model
        chosen = model.config.submodel(submodel)
        smaller = extract(model, chosen)
        precision, dtype = model.config.precision_of(chosen), read_dtype(source)
        if as_gguf:
            of_floats = "bfloat16" if precision == "bfloat16" else str(dtype).removeprefix("torch.")
            write_gguf(smaller, source, output / GGUF, precision=precision if precision in QUANTISED else of_floats)
            return Extracted(submodel=chosen, loads="llama.cpp loads it")
        if precision in QUANTISED:
            rounded = cut_quantised(checkpoint.quantised or rounded_weights(model), smaller)
            save_in_few_bits(smaller, output, rounded, precision=precision)
        else:
            save_checkpoint(smaller, output, dtype=torch.bfloat16 if precision == "bfloat16" else dtype)
            if checkpoint.quantised is not None:
                save_quantised(output, cut_quantised(checkpoint.quantised, smaller))
        if (source / "tokenizer.json").exists():
            save_tokenizer(load_tokenizer(source), output)
        if (held_out := HeldOutTokens.read(source, vocab_size=model.config.vocab_size)) is not None:
            held_out.save(output)
        is_plain = read_raw_config(output)["model_type"] != PER_LAYER_MODEL_TYPE
        return Extracted(submodel=chosen, loads=PLAIN if is_plain else OURS)
