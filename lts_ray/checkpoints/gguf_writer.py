"""A model as a GGUF file, which llama.cpp runs. Its 8 and 4 bits are GGUF's own, Q8_0 and Q4_0, and no planes of ours:
they are rounded anew from the model's weights.

Of the families, those that llama.cpp has with one width in all layers, and of tokenizers byte-level BPE that splits
words as one of its does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.errors import LtsRayError
from lts_ray.files import replacing
from lts_ray.models.matformer.hugging_face.translators import TRANSLATORS
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF's, by family."""
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
FILE_TYPES = {"F32": "ALL_F32"}
"""Where it is not MOSTLY_ and the matrices' type."""
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "ByteLevel": "gpt-2",
    "Digits ByteLevel": "smollm",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + WORDS % r"\p{N}": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + WORDS % r"\p{N}{1,3}": "llama-bpe",
}
"""llama.cpp's names of how a text is split into words, by tokenizer.json's steps or the pattern that these split by."""


def write_gguf(model: MatFormer, folder: Path, path: Path, *, precision: str) -> None:
    """Write the whole of `model`. folder: has its tokenizer. precision: of the matrices, one of TYPES; those whose rows
    are no multiple of 32 stay float16 where that is 8 or 4 bits.

    Raises LtsRayError for a model or a tokenizer that llama.cpp has no counterpart of.
    """
    if find_spec("gguf") is None:
        raise LtsRayError("writing GGUF needs gguf: pip install 'lts-ray[gguf]'")
    import gguf

    config = model.config
    _check(config)
    tokenizer = load_model_tokenizer(folder, vocab_size=config.vocab_size)
    architecture, kind = ARCHITECTURES[config.family.name], TYPES[precision]
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES.get(kind, f"MOSTLY_{kind}")])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        _add_tokenizer(writer, tokenizer, folder, config.vocab_size)
        for name, tensor in _tensors(model, architecture).items():
            of_this = gguf.GGMLQuantizationType["F32" if tensor.dim() == 1 else kind]
            if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[of_this][0]:
                of_this = gguf.GGMLQuantizationType.F16
            writer.add_tensor(name, gguf.quantize(tensor.numpy(), of_this), raw_dtype=of_this)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _check(config: MatFormerConfig) -> None:
    family, scaling = config.family, config.rope_scaling
    problem = ""
    if family.name not in ARCHITECTURES or family.activation != "silu":
        problem = f"the families {', '.join(ARCHITECTURES)}, with silu; this model is of {family.name}"
    elif len(set(config.widths)) > 1 or config.heads:
        problem = f"one width and number of heads for all layers; this model has {config.universal.text}"
    elif scaling is not None and (ARCHITECTURES[family.name] != "llama" or scaling.magnitude != 1):
        problem = f"stretched positions of Llama alone, and not their size; this model has {scaling.kind}"
    if problem:
        raise LtsRayError(f"GGUF is written for {problem}")


def _add_shape(writer: GGUFWriter, config: MatFormerConfig) -> None:
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.widths[0])
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.d_head)
    writer.add_value_length(config.d_head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.d_head)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, folder: Path, vocab_size: int) -> None:
    """An embedding without a token gets one that no text has."""
    import gguf

    description = json.loads(tokenizer.backend.to_str())
    split = _split(description)
    if split is None:
        raise LtsRayError(f"the tokenizer {folder} splits words as none of llama.cpp's that GGUF is written for")
    tokens, kinds = [f"[PAD{id}]" for id in range(vocab_size)], [gguf.TokenType.UNUSED] * vocab_size
    for token, id in tokenizer.backend.get_vocab().items():
        tokens[id], kinds[id] = token, gguf.TokenType.NORMAL
    for added in description["added_tokens"]:
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=vocab_size)
    ends, ids = tokenizer.encode("a"), special.special_token_ids
    special.add_special_token = {"bos": ends[0] == ids.get("bos"), "eos": ends[-1] == ids.get("eos")}
    special.add_to_gguf(writer, quiet=True)


def _split(description: Mapping[str, Any]) -> str | None:
    """llama.cpp's name of what tokenizer.json says; None where it has none."""
    before = description["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before])
    if not steps[-1] or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    pattern = steps[0].get("pattern", {}).get("Regex") if not steps[-1]["use_regex"] else None
    return SPLITS.get(pattern or " ".join(step["type"] for step in steps))


def _tensors(model: MatFormer, architecture: str) -> dict[str, Tensor]:
    """By GGUF's names, float32."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.n_layer)
    tensors = {}
    for theirs, tensor in TRANSLATORS[config.family.name].to_theirs(model.state_dict()).items():
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert name is not None, f"GGUF has no {theirs}"
        rotated = {".attn_q.": config.n_head, ".attn_k.": config.n_kv_head} if architecture == "llama" else {}
        heads = next((heads for part, heads in rotated.items() if part in name), None)
        turned = tensor if heads is None else _interleaved(tensor, heads)
        tensors[name] = turned.detach().to(torch.float32).contiguous()
    if config.rope_scaling is not None:
        places = torch.arange(0, config.d_head, 2, dtype=torch.float32)
        plain = config.rope_theta ** (-places / config.d_head)
        tensors["rope_freqs.weight"] = plain / config.rope_scaling.frequencies(plain, theta=config.rope_theta)
    return tensors


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """llama.cpp's Llama rotates neighbours, and ours dimension i with i + d_head / 2, as transformers does.

    tensor: [heads · d_head, …]
    """
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
