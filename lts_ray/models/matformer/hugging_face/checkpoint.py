"""A model's files: the Hugging Face folder that plain transformers loads.

config.json is a configuration of the model's family with one key of ours, `lts_ray`: the schema number, the
granularities and what training measured. A submodel whose layers are alike is a plain checkpoint of the family again;
one with a width or heads per layer has no counterpart in transformers and says so by its model type, and so has one
with fewer heads in a family whose configuration takes a head's size from their number, and one whose matrices are
stored in 8 or 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.models.checkpoint_folder import (
    BACKBONE_MODEL_TYPES,
    CONFIG,
    check_fit,
    digest_of,
    read_ours,
    read_raw_config,
    read_weights,
    reading,
    refuse_quantized,
    write_folder,
)
from lts_ray.models.elastic_config import GRANULARITIES, STORED
from lts_ray.models.family import LLAMA
from lts_ray.models.matformer.grouped_attention import rotary_table
from lts_ray.models.matformer.hugging_face.quantised_file import (
    QUANTISED_FILE,
    from_planes,
    read_quantised,
    to_planes,
    write_quantised,
)
from lts_ray.models.matformer.hugging_face.translator import Translator
from lts_ray.models.matformer.hugging_face.translators import TRANSLATORS
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.universal_model import UniversalModel
from lts_ray.precision import PRECISIONS, QUANTISED
from lts_ray.quantisation.quantised_weights import QuantisedWeights, at_precision, form_of
from lts_ray.submodel import Submodel

Model_co = TypeVar("Model_co", bound=UniversalModel, covariant=True)
SCHEMA = 1
PER_LAYER_MODEL_TYPE = "lts_ray_matformer"
NESTED = ("nested_heads", "nested_d_model")
SHAPE = ("widths", "heads", "n_head", "n_kv_head", "head_dim", *NESTED, "precisions")
"""What our key may say of a model's shape, over what the family's configuration says."""
UNIVERSAL_MODEL_TYPES = (*TRANSLATORS, PER_LAYER_MODEL_TYPE)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Generic[Model_co]):
    """A loaded model and what its folder says of it."""

    model: Model_co
    fingerprint: str
    """SHA-256 of the configuration and weights; a frontier names the model that it is of by this."""
    validation_loss: Mapping[str, float] = field(default_factory=dict)
    """Nats per token by granularity, as training measured it; empty where unknown."""
    quantised: QuantisedWeights | None = None
    """Its matrices in 8 bits, where the folder says how they are rounded or has no others; None: to the nearest."""

    _rounded: dict[str, UniversalModel] = field(default_factory=dict, repr=False, compare=False)

    def run_by(self, submodel: Submodel) -> tuple[UniversalModel, Submodel]:
        """What runs a submodel of any precision, in float32, and as which of its own: a copy has rounded matrices."""
        precision, plain = self.model.config.precision_of(submodel), replace(submodel, precision="")
        if precision == STORED:
            return self.model, plain
        if precision not in self._rounded:
            assert isinstance(self.model, MatFormer), "other models run in one precision"
            self._rounded[precision] = at_precision(self.model, precision, self.quantised)
        return self._rounded[precision], plain


def save_checkpoint(
    model: MatFormer,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    validation_loss: Mapping[str, float] | None = None,
) -> None:
    """Write the folder of `model`; dtype: what its weights are stored in."""
    config = hugging_face_config(model.config, dtype, validation_loss or {})
    tensors = TRANSLATORS[model.config.family.name].to_theirs(model.state_dict())
    (folder / QUANTISED_FILE).unlink(missing_ok=True)  # of the weights that these replace
    write_folder(folder, tensors, config, dtype=dtype)


def save_in_few_bits(model: MatFormer, folder: Path, quantised: QuantisedWeights, *, precision: str) -> None:
    """Write the folder of `model` with its matrices in int8 or int4 alone, for these precisions and those below."""
    served = tuple(each for each in model.config.precisions if each in QUANTISED[QUANTISED.index(precision) :])
    config = hugging_face_config(replace(model.config, precisions=served), torch.float32, {}, stored=precision)
    others = {name: value for name, value in model.state_dict().items() if name not in quantised}
    write_folder(folder, others | to_planes(quantised, precision), config, dtype=None)


def save_quantised(folder: Path, quantised: QuantisedWeights) -> None:
    """Beside the weights of the checkpoint in `folder`, which they are made of. Raises LtsRayError."""
    write_quantised(folder, quantised, fingerprint=fingerprint(folder))


def load_checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Checkpoint[MatFormer]:
    """Read a folder that `save_checkpoint` wrote, or transformers' `save_pretrained`, whole or in shards.

    What transformers wrote gets the usual granularities. Raises LtsRayError for a folder that is missing, corrupt or
    of another kind of model, and for a setting of its family that changes what it computes and that we do not have.
    """
    config, validation_loss = read_config(folder)
    stored, tensors, quantised = read_stored(folder), read_weights(folder), None
    if not stored:
        tensors = TRANSLATORS[config.family.name].to_ours(tensors)
        config = replace(config, tied=config.tied and take_tied(tensors))
    with torch.device("meta"):
        model = MatFormer(config)
    if stored:
        planes = {name: tensors.pop(name) for name in list(tensors) if name.endswith((".codes", ".scales"))}
        quantised = from_planes(folder, model, planes, stored)
        tensors |= {name: matrix.weights(form_of(name, stored)) for name, matrix in quantised.items()}
    check_fit(folder, model, tensors)
    model = model.to_empty(device=device)
    model.load_state_dict(tensors, assign=bool(stored))  # what was made of codes is held once, not twice
    model.rotary = rotary_table(config).to(device)  # in no file, and left unset by to_empty
    seal = fingerprint(folder)
    return Checkpoint(
        model=model.to(device=device, dtype=dtype).eval(),
        fingerprint=seal,
        validation_loss=validation_loss,
        quantised=quantised or read_quantised(folder, model, fingerprint=seal),
    )


def take_tied(tensors: dict[str, Tensor]) -> bool:
    """Leave of embedding and output matrix the one, where they are one; else both, whatever config.json says.

    As in transformers: either of them may be the one that is in the file.
    """
    embedding, output = tensors.get("embed_tokens.weight"), tensors.get("lm_head.weight")
    if output is None:
        return True
    if embedding is not None and not torch.equal(embedding, output):
        return False
    tensors["embed_tokens.weight"] = tensors.pop("lm_head.weight")
    return True


def read_config(folder: Path) -> tuple[MatFormerConfig, dict[str, float]]:
    """The shape of the model in `folder` and its validation losses, without reading the weights."""
    raw = read_raw_config(folder)
    model_type = str(raw.get("model_type"))
    if model_type in BACKBONE_MODEL_TYPES:
        raise LtsRayError(
            f"model {folder} is a trained backbone ({BACKBONE_MODEL_TYPES[model_type]}), not a universal model: "
            "it has no submodels; `lts-ray train` can go on with it (--init-from)"
        )
    if model_type not in UNIVERSAL_MODEL_TYPES:
        raise LtsRayError(f"model {folder} is of type {model_type!r}; lts-ray loads {', '.join(UNIVERSAL_MODEL_TYPES)}")
    refuse_quantized(folder, raw)
    ours = read_ours(folder, raw, SCHEMA)
    with reading(folder):
        family = ours.get("family", LLAMA.name) if model_type == PER_LAYER_MODEL_TYPE else model_type
        config = TRANSLATORS[family].read(raw)
        shape = {key: ours[key] for key in SHAPE if key in ours}
        for key in ("widths", "heads", "precisions"):
            shape |= {key: tuple(shape[key])} if key in shape else {}
        granularities = ours.get("granularities") or GRANULARITIES
        config = replace(config, **shape, granularities=granularities, **read_token_ids(raw))
        losses = {str(name): float(value) for name, value in ours.get("validation_loss", {}).items()}
    return config, losses


def read_token_ids(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of bos and eos: null where a configuration of another's leaves them out."""
    eos = raw.get("eos_token_id")
    return {"bos_token_id": raw.get("bos_token_id"), "eos_token_id": tuple(eos) if isinstance(eos, list) else eos}


def hugging_face_config(
    config: MatFormerConfig, dtype: torch.dtype, validation_loss: Mapping[str, float], *, stored: str = ""
) -> dict[str, Any]:
    """stored: int8 or int4, where the matrices are.

    Raises LtsRayError for a shape that the family's configuration in transformers has no words for.
    """
    family = config.family.name
    if family not in TRANSLATORS:
        raise LtsRayError(f"there is no family {family!r} in transformers; known: {', '.join(TRANSLATORS)}")
    translator = TRANSLATORS[family]
    ours: dict[str, Any] = {"schema": SCHEMA, "granularities": dict(config.granularities)}
    for key in NESTED:
        if (shares := getattr(config, key)) is not None:
            ours[key] = dict(shares)
    if config.precisions != PRECISIONS:
        ours["precisions"] = list(config.precisions)
    plain = replace(config, heads=())
    if not _describes(translator, plain):  # its heads' size may be what is not
        plain = replace(plain, n_head=1, n_kv_head=1, head_dim=None)
    if not _describes(translator, plain):
        raise LtsRayError(f"a {family} configuration of transformers cannot describe this model: {config}")
    described = len(set(config.widths)) == 1 and plain == config and not stored
    if stored:
        ours["stored"] = stored
    if not described:
        if len(set(config.widths)) > 1:
            ours["widths"] = list(config.widths)
        if config.heads or plain != config:
            heads = {"heads": list(config.heads), "n_head": config.n_head, "n_kv_head": config.n_kv_head}
            ours |= {**heads, "head_dim": config.d_head}
        if family != LLAMA.name:
            ours["family"] = family
    if validation_loss:
        ours["validation_loss"] = dict(validation_loss)
    eos = config.eos_token_id
    return {
        "architectures": [translator.architecture if described else "MatFormer"],
        "model_type": family if described else PER_LAYER_MODEL_TYPE,
        **translator.write(plain),
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "dtype": str(dtype).removeprefix("torch."),
        "lts_ray": ours,
    }


def _describes(translator: Translator, config: MatFormerConfig) -> bool:
    """Whether what the translator writes of `config` says all of it but what our key and other keys do."""
    try:
        again = translator.read({**translator.write(config), "tie_word_embeddings": config.tied})
    except LtsRayError:  # of heads whose size is not d_model over their number
        return False
    unread = ("widths", "granularities", "head_dim", "bos_token_id", "eos_token_id", *NESTED, "precisions")
    same = replace(again, **{key: getattr(config, key) for key in unread})
    return again.d_head == config.d_head and same == config


def read_stored(folder: Path) -> str:
    """int8 or int4 where the matrices are stored in no more; else nothing."""
    stored = read_ours(folder, read_raw_config(folder), SCHEMA).get("stored", "")
    if stored not in ("", *QUANTISED):
        raise LtsRayError(f"model {folder} is stored in {stored!r}; this version reads {' and '.join(QUANTISED)}")
    return str(stored)


def read_dtype(folder: Path) -> torch.dtype:
    """The type that the folder's weights are stored in; float32 where it does not say."""
    raw = read_json(folder / CONFIG, what="model configuration")
    dtype = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype")), torch.float32)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def fingerprint(folder: Path) -> str:
    """SHA-256 of what determines the model's function: shape and weights, not what training noted beside them."""
    config = replace(read_config(folder)[0], bos_token_id=0, eos_token_id=0, precisions=PRECISIONS)
    return digest_of(folder, hugging_face_config(config, torch.float32, {}))
