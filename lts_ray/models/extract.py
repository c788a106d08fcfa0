"""A submodel as a model of its own: the other way to run one, when the rest of the universal model is not wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.models.checkpoint import load_checkpoint, read_dtype, save_checkpoint
from lts_ray.models.matformer import MatFormer
from lts_ray.tokenizer import load_tokenizer, save_tokenizer


def extract(model: MatFormer, submodel: Submodel) -> MatFormer:
    """The first neurons of each layer, copied; it computes what the slice does."""
    config = model.config
    config.check(submodel)
    smaller = MatFormer(replace(config, widths=submodel.widths, granularities={"XL": 1.0}))
    full, tensors = model.state_dict(), {}
    for name, value in smaller.state_dict().items():
        tensors[name] = full[name][tuple(slice(size) for size in value.shape)].clone()
    smaller.load_state_dict(tensors)
    return smaller.to(model.embed_tokens.weight.dtype).eval()


def extract_checkpoint(source: Path, submodel: str, output: Path) -> Submodel:
    """Write the submodel (named as on the command line) as a checkpoint folder, with the tokenizer if there is one."""
    if output.exists() and not output.is_dir():
        raise LtsRayError(f"{output} is a file; choose another --output")
    if output.exists() and any(output.iterdir()):
        raise LtsRayError(f"{output} is not empty; choose another --output")
    model = load_checkpoint(source).model
    chosen = model.config.submodel(submodel)
    save_checkpoint(extract(model, chosen), output, dtype=read_dtype(source))
    if (source / "tokenizer.json").exists():
        save_tokenizer(load_tokenizer(source), output)
    return chosen
