"""A submodel of a MatViT as a model of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lts_ray.files import new_folder
from lts_ray.models.matformer.hugging_face.checkpoint import read_dtype
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit, save_vit
from lts_ray.submodel import Submodel


def extract_vit(model: MatViT, submodel: Submodel) -> MatViT:
    """The first neurons of each layer, copied; it computes what the slice does."""
    chosen = model.config.check(submodel)
    smaller = MatViT(replace(model.config, widths=chosen.widths, granularities={"XL": 1.0}))
    full = model.state_dict()
    smaller.load_state_dict(
        {name: full[name][tuple(slice(size) for size in value.shape)] for name, value in smaller.state_dict().items()}
    )
    return smaller.eval()


def extract_vit_checkpoint(source: Path, submodel: str, output: Path) -> Submodel:
    """Write the submodel (named as on the command line) as a checkpoint folder."""
    with new_folder(output):
        model = load_vit(source).model
        chosen = model.config.submodel(submodel)
        save_vit(extract_vit(model, chosen), output, dtype=read_dtype(source))
    return chosen
