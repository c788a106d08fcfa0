"""What lies on the device beside the weights: the KV cache, and what is in between within a step."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.triton_kernels.choose_token import choice_options


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Of the largest bucket; every bucket uses the beginning. Graphs hold the addresses: none of it ever moves.

    R rows, W rows of logits, D d_model, F the widest layer's width. Half: in the weights' dtype.
    """

    keys: Tensor
    """[n_layer, n_blocks, n_kv_head, block_tokens, d_head], half; values: likewise."""
    values: Tensor
    x: Tensor
    """[R, D], float32, the residual; half: the same, half."""
    half: Tensor
    normed: Tensor
    """[R, D], half: x normalised, where a step has so many rows that it pays to do this apart."""
    stats: Tensor
    """[R, 2, stat_tiles], float32: sums of x, and of its squares, by tile of D."""
    q: Tensor
    """[R, n_head · d_head], half; attended: likewise."""
    attended: Tensor
    inner: Tensor
    """[R · F], half: of a layer of f neurons as [R, f]."""
    partial: Tensor
    """[parts · n_head · d_head], float32: what each part of a long context gives. Parts: of all single rows."""
    marks: Tensor
    """[parts · n_head · 2], float32: the largest score of each part, and the sum of its exponentials."""
    arrived: Tensor
    """[R, n_kv_head], int32: parts that are done. 0 before a step and behind it."""
    logits: Tensor
    """[W, vocab_size], float32."""
    tops: Tensor
    """[W · head_tiles], float32: each row's largest logit by tile of the vocabulary; top_ids, int32: whose it is."""
    top_ids: Tensor
    spare: Tensor
    """[W, 2, …], float32: where choose_token sorts."""
    chosen: Tensor
    """[…], int32: each want's token, kept until the next step has read it. Longer than W: see `CudaSteps`."""

    @classmethod
    def of(
        cls,
        config: MatFormerConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        n_blocks: int,
        block_tokens: int,
        rows: int,
        wants: int,
        stat_tiles: int,
        head_tiles: int,
        parts: int,
        most_chosen: int,
    ) -> StepMemory:
        def zeros(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        heads, d_head = config.n_head, config.d_head
        cache = (config.n_layer, n_blocks, config.n_kv_head, block_tokens, d_head)
        return cls(
            keys=zeros(*cache, kind=dtype),
            values=zeros(*cache, kind=dtype),
            x=zeros(rows, config.d_model),
            half=zeros(rows, config.d_model, kind=dtype),
            normed=zeros(rows, config.d_model, kind=dtype),
            stats=zeros(rows, 2, stat_tiles),
            q=zeros(rows, heads * d_head, kind=dtype),
            attended=zeros(rows, heads * d_head, kind=dtype),
            inner=zeros(rows * max(config.widths), kind=dtype),
            partial=zeros(parts * heads * d_head),
            marks=zeros(parts * heads * 2),
            arrived=zeros(rows, config.n_kv_head, kind=torch.int32),
            logits=zeros(wants, config.vocab_size),
            tops=zeros(wants * head_tiles),
            top_ids=zeros(wants * head_tiles, kind=torch.int32),
            spare=zeros(wants, 2, choice_options(config.vocab_size, head_tiles)["SPARE"]),
            chosen=zeros(most_chosen, kind=torch.int32),
        )

    @property
    def nbytes(self) -> int:
        return sum(int(getattr(self, each.name).nbytes) for each in fields(self))
