"""What transformers takes for the same: its `generate` with a static cache, compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import Ceilings, CheckScale

WARMUP = 3


def transformers(scale: CheckScale, shape: str, rows: str, *, ready: Callable[[], Ceilings]) -> Found:
    """Greedy, with random weights; on a GPU it compiles itself what it repeats. rows: a number."""
    from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria

    config, new, ticks = scale.shapes[shape], scale.rival_tokens, list[float]()
    sizes = {"vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.widths[0]}
    heads = {"num_attention_heads": config.n_head, "num_key_value_heads": config.n_kv_head, "head_dim": config.d_head}
    layers = {"num_hidden_layers": config.n_layer, "max_position_embeddings": config.context_length}
    with torch.device(scale.device):
        theirs = LlamaConfig(**sizes, **heads, **layers, tie_word_embeddings=True)
        model = LlamaForCausalLM(theirs).to(scale.dtype).eval()
        prompts = torch.randint(2, config.vocab_size, (int(rows), scale.context))

    class Ticks(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, tokens: torch.Tensor, scores: torch.Tensor, **options: Any) -> torch.Tensor:
            ticks.append(time.perf_counter())
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    lengths = {"min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0, "cache_implementation": "static"}
    for number in range(WARMUP + 1):
        if number == WARMUP:
            ready()
        ticks.clear()
        model.generate(prompts, do_sample=False, stopping_criteria=[Ticks()], **lengths)
    token_ms = 1e3 * median(after - before for before, after in pairwise(ticks))
    yield {"shape": shape, "rows": int(rows), "token_ms": token_ms}
