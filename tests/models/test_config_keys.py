"""Every key of a configuration of transformers is read, without effect, or refused: none is dropped in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3nTextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    ViTConfig,
    ViTForImageClassification,
)

from lts_ray.checkpoints.universal import load_universal
from lts_ray.errors import LtsRayError
from lts_ray.models.vit.vit_checkpoint import load_vit
from tests.models.gemma3n.tiny import TEXT

SHAPE: Mapping[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
GPT2_SHAPE = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
OPT_SHAPE = {key: value for key, value in SHAPE.items() if key not in ("intermediate_size", "num_key_value_heads")}
VIT_SHAPE = {key: SHAPE[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
FAMILIES: Mapping[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "mistral": MistralConfig(**SHAPE),
    "gpt2": GPT2Config(**GPT2_SHAPE),
    "opt": OPTConfig(**OPT_SHAPE, ffn_dim=24),
    "gemma3n_text": Gemma3nTextConfig(**TEXT),
    "vit": ViTConfig(**VIT_SHAPE, num_attention_heads=4, image_size=8, patch_size=4, num_channels=1),
}
MORE: Mapping[str, Any] = {
    "rope_theta": 500.0,
    "rope_scaling": {"rope_type": "default", "rope_theta": 300.0},
    "partial_rotary_factor": 0.5,
    "rope_local_base_freq": 500.0,
    "original_max_position_embeddings": 16,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0,
    "query_pre_attn_scalar": 3,
    "logit_scale": 3.0,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 3.0,
    "attention_multiplier": 3.0,
    "use_bidirectional_attention": True,
    "is_decoder": False,
    "use_sliding_window": True,
    "sliding_window": 4,
    "layer_types": None,
    "qk_layernorm": True,
    "use_qk_norm": True,
    "head_dim": 6,
    "n_ctx": 16,
    "torch_dtype": "float32",
}
"""Keys of other versions and of other families, which a file may have all the same."""
WITHOUT_FUNCTION = {"model_type", "transformers_version", "_name_or_path", "architectures", "id2label", "label2id"}
TIE = "tie_word_embeddings"
"""Has tests of its own: what it does depends on which tensors there are."""


def other_values(key: str, value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield 2 * value + 1
    elif isinstance(value, float):
        yield 0.5 * value + 0.3
    elif isinstance(value, str):
        yield from (
            ("relu", "silu", "tanh") if key.endswith(("act", "activation", "activation_function")) else ("other",)
        )
    elif isinstance(value, list):
        yield value[::-1]
    elif value is None:
        yield from (1, True)


def changed(raw: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A key and the configuration with another value of it."""
    for key, value in raw.items():
        if key not in (*WITHOUT_FUNCTION, TIE):
            for other in other_values(key, value):
                yield key, {**raw, key: other}
    old = {key: value for key, value in raw.items() if key != "rope_parameters"}
    for key, value in MORE.items():
        yield key, {**old, key: value}
    windows = {"use_sliding_window": True, "sliding_window": 4, "layer_types": None}
    yield "sliding_window", {**raw, **windows}
    yield "sliding_window", {**raw, **windows, "max_window_layers": 1}


def made(config: PretrainedConfig) -> torch.nn.Module:
    """Of transformers."""
    if config.model_type == "vit":
        return ViTForImageClassification(config).eval()
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config).eval()
    return model


def their_answer(config: PretrainedConfig, tensors: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Raises whatever transformers does where it has no such model for these weights."""
    model = made(config)
    missing, unknown = model.load_state_dict(tensors, strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:
        raise ValueError("the weights are those of another model")
    with torch.inference_mode():
        answer: torch.Tensor = model(inputs, return_dict=True).logits
    return answer


def our_answer(folder: Path, inputs: torch.Tensor) -> torch.Tensor | str:
    """Or the line with which it is refused."""
    try:
        model = load_vit(folder).model if inputs.dim() == 4 else load_universal(folder).model
        with torch.inference_mode():
            answer: torch.Tensor = model(inputs, submodel=model.config.universal)
    except LtsRayError as error:
        return str(error)
    return answer


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_key_of_a_configuration_is_dropped_in_silence(family: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    model = made(deepcopy(FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.0 if parameter.dim() > 1 else 0.5, std=0.3, generator=generator)
    model.save_pretrained(tmp_path)
    tensors = dict(model.state_dict())
    if family == "vit":
        inputs = torch.randn(2, 1, 8, 8, generator=generator)
    else:
        inputs = torch.randint(0, 40, (2, 12), generator=generator)
    plain = their_answer(model.config, tensors, inputs)
    ran = refused = 0
    for key, raw in changed(json.loads((tmp_path / "config.json").read_text()) | {"dtype": "float32"}):
        (tmp_path / "config.json").write_text(json.dumps(raw))
        try:
            theirs = their_answer(type(FAMILIES[family]).from_dict(deepcopy(raw)), tensors, inputs)
        except Exception:  # of any kind: whatever transformers makes of a configuration that it does not have
            theirs = None
        ours = our_answer(tmp_path, inputs)
        if isinstance(ours, str):
            refused += 1
            assert "\n" not in ours
            if theirs is not None and not torch.allclose(theirs, plain):
                assert key in ours or "context" in ours or "rope" in ours
        elif theirs is not None:
            ran += 1
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3, msg=f"{key}: {raw[key]!r}")
    assert ran > 15
    assert refused > 3
