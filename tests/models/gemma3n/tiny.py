"""A tiny random Gemma 3n of transformers, in which every weight counts, and its submodels of all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

SLIDING, FULL = "sliding_attention", "full_attention"
TEXT: Mapping[str, Any] = {
    "vocab_size": 60,
    "vocab_size_per_layer_input": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "num_kv_shared_layers": 3,
    "hidden_size_per_layer_input": 6,
    "laurel_rank": 5,
    "altup_num_inputs": 3,
    "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING],
    "activation_sparsity_pattern": [0.7, 0.5, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0],
    "final_logit_softcapping": 3.0,
}
"""Layers 4 and 5 are those whose keys the last three look at; three layers are sparse."""

SUBMODELS: Mapping[str, str] = {
    "universal": "XL",
    "half": "S",
    "mixed": "24,12,5,24,7,12,24,3,12",
    "skipping": "24,0,12,0,24,24,0,12,24",
    "sparse and narrow": "3,24,0,24,12,6,8,24,0",
    "nothing shared": "12,24,0,0,24,12,0,0,0",
}


def randomize(model: nn.Module, *, seed: int = 0) -> None:
    """Weights of the size that training gives: what starts as 0 or 1 is anything, so that nothing hides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.dim() == 1 or "embed" in name else 1.0 / parameter.shape[-1] ** 0.5
            parameter.copy_(noise * scale + (1.0 if parameter.dim() == 1 else 0.0))


def tiny_model(**changes: Any) -> Gemma3nForCausalLM:
    """Of TEXT with `changes`."""
    model = Gemma3nForCausalLM(Gemma3nTextConfig(**{**TEXT, **changes})).eval()
    randomize(model)
    return model


def save_tiny(folder: Path, **options: Any) -> None:
    tiny_model().save_pretrained(folder, **options)


@torch.inference_mode()
def their_logits(folder: Path, tokens: Tensor) -> Tensor:
    """Of plain transformers."""
    logits: Tensor = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits
    return logits
