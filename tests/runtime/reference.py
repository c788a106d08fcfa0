"""What every runtime must compute: MatFormer.forward, each sequence alone over a cache of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lts_ray.models.family import GPT2, LLAMA, MISTRAL, OPT, QWEN2, QWEN3
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.rope_scaling import RopeScaling
from lts_ray.runtime.runtime import BLOCK_TOKENS, Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel

SHAPE = MatFormerConfig(vocab_size=120, d_model=32, n_head=4, n_kv_head=2, widths=(48,) * 3, context_length=96)
CONFIGS: Mapping[str, MatFormerConfig] = {
    "llama": SHAPE,
    "llama-untied": replace(SHAPE, tied=False, rope_theta=500.0),
    "llama-biased": replace(SHAPE, family=replace(LLAMA, qkv_bias=True, out_bias=True, ffn_bias=True), head_dim=16),
    "llama-uneven": replace(SHAPE, widths=(40, 24, 48), n_kv_head=4),
    "qwen2": replace(SHAPE, family=QWEN2, n_kv_head=1),
    "qwen2-yarn": replace(
        SHAPE, family=QWEN2, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_length=24, magnitude=1.14)
    ),
    "llama-llama3": replace(SHAPE, rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_length=24)),
    "qwen3": replace(SHAPE, family=QWEN3, head_dim=12),
    "mistral": replace(SHAPE, family=MISTRAL, head_dim=12),
    "gpt2": replace(SHAPE, family=GPT2, n_kv_head=4),
    "gpt2-gelu": replace(SHAPE, family=replace(GPT2, activation="gelu"), n_kv_head=4, tied=False),
    "llama-axes": replace(SHAPE, nested_heads={"S": 0.5}, nested_d_model={"S": 0.5, "M": 0.5, "L": 0.75}),
    "gpt2-axes": replace(SHAPE, family=GPT2, n_kv_head=4, nested_heads={"S": 0.25, "M": 0.5}),
    "opt": replace(SHAPE, family=OPT, n_kv_head=4),
    "opt-unbiased": replace(SHAPE, family=replace(OPT, qkv_bias=False, out_bias=False, ffn_bias=False), n_kv_head=4),
}


def random_model(config: MatFormerConfig, *, seed: int = 0) -> MatFormer:
    """All parameters are random, biases and norms too: one that is forgotten changes the logits."""
    model = MatFormer(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.0 if parameter.dim() > 1 else 0.5, std=0.2, generator=generator)
    return model


class Sequences:
    """Random sequences, run by a runtime over scattered blocks, and by the model alone."""

    def __init__(
        self, model: MatFormer, runtime: Runtime, *, n: int, seed: int = 0, at: Mapping[str, MatFormer] | None = None
    ) -> None:
        """at: what computes the submodels that name a precision."""
        generator = torch.Generator().manual_seed(seed)
        config = model.config
        self.model, self.runtime, self._at = model, runtime, at or {}
        self.tokens = torch.randint(config.vocab_size, (n, config.context_length), generator=generator).tolist()
        self._free = torch.randperm(runtime.n_blocks, generator=generator).tolist()
        self.tables: list[list[int]] = [[] for _ in range(n)]
        weight = model.embed_tokens.weight
        self._caches = [
            KVCache.empty(config, rows=1, length=config.context_length, dtype=weight.dtype, device=weight.device)
            for _ in range(n)
        ]

    def step(self, *parts: tuple[int, int, str]) -> tuple[Tensor, Tensor]:
        """Run the next tokens of each part's sequence: (sequence, how many, submodel). What came, and what should have.

        Whoever runs an odd number of tokens wants logits.
        """
        segments, expected = [], []
        for index, n, name in parts:
            submodel = self.model.config.submodel(name)
            segments.append(self._segment(index, n, submodel))
            logits = self._alone(index, n, submodel)
            if segments[-1].wants_logits:
                expected.append(logits)
        return self.runtime.run(segments).clone(), torch.stack(expected)

    def held(self, index: int) -> int:
        return int(self._caches[index].lengths[0])

    def _segment(self, index: int, n: int, submodel: Submodel) -> Segment:
        start, table = self.held(index), self.tables[index]
        while len(table) * BLOCK_TOKENS < start + n:
            table.append(self._free.pop())
        tokens: Sequence[int] = tuple(self.tokens[index][start : start + n])
        return Segment(tokens=tokens, start=start, blocks=tuple(table), submodel=submodel, wants_logits=n % 2 == 1)

    def _alone(self, index: int, n: int, submodel: Submodel) -> Tensor:
        start = self.held(index)
        tokens = torch.tensor([self.tokens[index][start : start + n]], device=self.model.embed_tokens.weight.device)
        model, shape = self._at.get(submodel.precision, self.model), replace(submodel, precision="")
        with torch.inference_mode():
            logits = model(tokens, submodel=shape, cache=self._caches[index], last_only=True)
        return logits[0, -1].float().cpu()
