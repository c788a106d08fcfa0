"""The kernels of one step, in their order: five a layer, seven where the norm is apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton import AsyncCompileMode, cdiv, next_power_of_2

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.cuda.cuda_weights import CudaWeights, LayerWeights
from lts_ray.runtime.cuda.step_data import StepData
from lts_ray.runtime.cuda.step_memory import StepMemory
from lts_ray.runtime.cuda.tiles import StepTiles, Tile, step_tiles
from lts_ray.runtime.triton_kernels.add_product import add_product
from lts_ray.runtime.triton_kernels.choose_token import choice_options, choose_token
from lts_ray.runtime.triton_kernels.embed_rows import embed_rows
from lts_ray.runtime.triton_kernels.ffn_in import ffn_in
from lts_ray.runtime.triton_kernels.head_logits import head_logits
from lts_ray.runtime.triton_kernels.normalise import normalise
from lts_ray.runtime.triton_kernels.paged_attention import paged_attention, rows_options, tiles_options
from lts_ray.runtime.triton_kernels.project_qkv import project_qkv

Grid = tuple[int, ...]


def launch_step(
    weights: CudaWeights, memory: StepMemory, data: StepData, *, early: bool = False, tiles: StepTiles | None = None
) -> None:
    """On the current stream. early: each kernel is launched while the one before it still runs, and waits there for
    its end: on GPUs that can (compute capability 9). tiles: None: what suits the bucket."""
    tiles = step_tiles(weights.config, data.bucket, memory.q.element_size()) if tiles is None else tiles
    StepLaunch(weights, memory, data, tiles, early, run_kernel).step(weights.layers)


def compile_steps(weights: CudaWeights, memory: StepMemory, steps: Iterable[StepData], *, early: bool = False) -> None:
    """Compile these steps' kernels on all cores, where Triton's cache does not hold them. See `launch_step`."""
    kinds = list({len(layer.up): layer for layer in weights.layers}.values())
    with ThreadPoolExecutor() as pool, AsyncCompileMode(pool):
        for data in steps:
            tiles = step_tiles(weights.config, data.bucket, memory.q.element_size())
            StepLaunch(weights, memory, data, tiles, early, warm_up_kernel).step(kinds)


def run_kernel(kernel: Any, grid: Grid, *arguments: Any, **constants: Any) -> None:
    kernel[grid](*arguments, **constants)


def warm_up_kernel(kernel: Any, grid: Grid, *arguments: Any, **constants: Any) -> None:
    kernel.warmup(*arguments, grid=grid, **constants)


@dataclass(frozen=True, slots=True)
class StepLaunch:
    weights: CudaWeights
    memory: StepMemory
    data: StepData
    tiles: StepTiles
    early: bool
    start: Callable[..., None]
    """`run_kernel` or `warm_up_kernel`."""

    def step(self, layers: Sequence[LayerWeights]) -> None:
        self.embed(layers[0].norm)
        for index, layer in enumerate(layers):
            self.attend(index, layer)
            self.transform(index, layer, layers[index + 1].norm if index + 1 < len(layers) else self.weights.norm)
        if self.data.bucket.wants:
            self.choose()

    @property
    def config(self) -> MatFormerConfig:
        return self.weights.config

    @property
    def rows(self) -> int:
        return self.data.bucket.rows

    @property
    def normed(self) -> dict[str, Any]:
        """What all kernels with a norm in them are told; so is `stats`."""
        return {
            "D": self.config.d_model,
            "NT": cdiv(self.config.d_model, self.tiles.out.columns),
            "WHOLE": self._whole,
            "LAYER_NORM": self.config.family.norm == "layer",
            "GAINED": self._gained,
        }

    @property
    def _gained(self) -> bool:
        """Whether what writes the residual multiplies it by the next norm's gains: half is then x · gain. float16's
        range is too small for that, and a LayerNorm takes its mean away first."""
        return self.config.family.norm == "rms" and self.memory.half.dtype != torch.float16

    @property
    def _whole(self) -> bool:
        """Whether no row has less of d_model and heads, and programs of padding alone are not worth a look."""
        return self.config.nests_ffn_alone and not self.tiles.norm_apart

    def embed(self, gain: Tensor) -> None:
        """Waits for the end of all that came before: what a step is told is then there for all of its kernels."""
        config, weights, memory, data = self.config, self.weights, self.memory, self.data
        self.start(
            embed_rows, (self.rows,),
            data.tokens, data.positions, data.dims, memory.chosen, weights.embedding, weights.position_table,
            gain, memory.x, memory.half, memory.stats,
            D=config.d_model, D_PADDED=next_power_of_2(config.d_model), NT=self.normed["NT"],
            LEARNED=config.family.positions == "learned", GAINED=self._gained, enable_fp_fusion=True,
        )  # fmt: skip

    def attend(self, index: int, layer: LayerWeights) -> None:
        config, family, memory, data, tile = self.config, self.config.family, self.memory, self.data, self.tiles.qkv
        parts = cdiv(cdiv(config.d_head, 2), tile.columns)
        keys, values, heads = memory.keys[index], memory.values[index], data.heads[index]
        self.start(
            project_qkv, (self._row_tiles(tile), (config.n_head + 2 * config.n_kv_head) * parts),
            self._input(layer.norm, layer.norm_bias), memory.stats, data.dims, heads, data.positions, data.places,
            layer.norm, layer.norm_bias, layer.qkv, layer.qkv_bias, layer.q_norm, layer.k_norm, self.weights.rotary,
            memory.q, keys, values, config.rms_norm_eps, self.rows,
            N_HEAD=config.n_head, N_KV=config.n_kv_head, D_HEAD=config.d_head, CONTEXT=config.context_length,
            NORM=not self.tiles.norm_apart, BIASED=family.qkv_bias, QK_NORM=family.qk_norm,
            ROTARY=family.positions == "rotary", PARTS=parts, **self.normed, **self._options(tile),
        )  # fmt: skip
        item_size, bucket = memory.q.element_size(), data.bucket
        if bucket.singles:
            how = rows_options(bucket.singles, config.n_kv_head, config.d_head, item_size)
            self._look(bucket.singles, keys, values, heads, how)
        if bucket.tiles:
            self._look(bucket.tiles, keys, values, heads, tiles_options(config.head_step, config.d_head, item_size))
        of_out = {"UNIT": config.d_head, "WHOLE": self._whole}
        self._add(memory.attended, heads, layer.out, layer.out_bias, layer.ffn_norm, self.tiles.out, of_out)

    def _look(self, programs: int, keys: Tensor, values: Tensor, heads: Tensor, how: dict[str, int]) -> None:
        """programs: single rows, or tiles of pieces."""
        config, memory, data = self.config, self.memory, self.data
        self.start(
            paged_attention, (programs, config.n_kv_head, how["SPLITS"]),
            memory.q, keys, values, data.positions, data.tables, data.blocks, heads, data.singles,
            data.firsts, data.sizes, memory.partial, memory.marks, memory.arrived, memory.attended, config.d_head**-0.5,
            N_HEAD=config.n_head, N_KV=config.n_kv_head, D_HEAD=config.d_head, **how, **self._launched,
        )  # fmt: skip

    def transform(self, index: int, layer: LayerWeights, gain: Tensor) -> None:
        """gain: of the norm behind it."""
        family, memory, data, tile = self.config.family, self.memory, self.data, self.tiles.ffn
        width = len(layer.up)
        self.start(
            ffn_in, (self._row_tiles(tile), cdiv(width, tile.columns)),
            self._input(layer.ffn_norm, layer.ffn_norm_bias), memory.stats, data.dims, data.widths[index],
            layer.ffn_norm, layer.ffn_norm_bias, layer.gate, layer.up, layer.gate_bias, layer.up_bias,
            memory.inner, self.config.rms_norm_eps, self.rows,
            F=width, NORM=not self.tiles.norm_apart, GATED=family.gated, BIASED=family.ffn_bias,
            ACTIVATION=family.activation, PAD=self.tiles.down.steps, **self.normed, **self._options(tile),
        )  # fmt: skip
        of_down = {"UNIT": 1, "WHOLE": False}
        self._add(memory.inner, data.widths[index], layer.down, layer.down_bias, gain, self.tiles.down, of_down)

    def choose(self) -> None:
        """After the logits of the rows that are asked for."""
        weights, memory, data, tile, wants = (
            self.weights,
            self.memory,
            self.data,
            self.tiles.head,
            self.data.bucket.wants,
        )
        vocab_size, n_tops = self.config.vocab_size, cdiv(self.config.vocab_size, tile.columns)
        self.start(
            head_logits, (cdiv(wants, tile.rows), n_tops),
            memory.half, memory.stats, data.dims, data.wants, data.counts, weights.norm, weights.norm_bias,
            weights.head, memory.logits, memory.tops, memory.top_ids, self.config.rms_norm_eps,
            V=vocab_size, N_TOPS=n_tops, **self.normed, **self._options(tile),
        )  # fmt: skip
        self.start(
            choose_token, (wants,),
            memory.logits, memory.tops, memory.top_ids, data.counts, data.temperatures, data.top_ks, data.top_ps,
            data.min_ps, data.draws, memory.spare, memory.chosen,
            **choice_options(vocab_size, n_tops), **self._launched,
        )  # fmt: skip

    def _add(
        self,
        a: Tensor,
        limits: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        gain: Tensor,
        tile: Tile,
        constants: dict[str, Any],
    ) -> None:
        memory, d_model = self.memory, self.config.d_model
        n_tiles = cdiv(d_model, tile.columns)
        self.start(
            add_product, (self._row_tiles(tile), n_tiles),
            a, limits, self.data.dims, matrix, bias, gain, memory.x, memory.half, memory.stats, self.rows,
            D=d_model, K=matrix.shape[1], NT=n_tiles, BIASED=bias is not None, GAINED=self._gained,
            **constants, **self._options(tile),
        )  # fmt: skip

    def _row_tiles(self, tile: Tile) -> int:
        return int(cdiv(self.rows, tile.rows))

    def _input(self, norm: Tensor, bias: Tensor | None) -> Tensor:
        """What the next product reads, which has the norm in itself unless it is apart."""
        memory, d_model = self.memory, self.config.d_model
        if not self.tiles.norm_apart:
            return memory.half
        self.start(
            normalise, (self.rows,),
            memory.half, memory.stats, self.data.dims, norm, bias, memory.normed, self.config.rms_norm_eps,
            D_PADDED=next_power_of_2(d_model),
            **{name: value for name, value in self.normed.items() if name != "WHOLE"}, **self._launched,
        )  # fmt: skip
        return memory.normed

    def _options(self, tile: Tile) -> dict[str, Any]:
        constants = {"BM": tile.rows, "BN": tile.columns, "BK": tile.steps, "DOT": tile.rows > 1, "STAGES": tile.stages}
        return {**constants, **self._launched, "num_warps": tile.warps, "num_stages": tile.stages}

    @property
    def _launched(self) -> dict[str, Any]:
        # The interpreter does not know of launches that overlap.
        return {"EARLY": self.early, "enable_fp_fusion": True, **({"launch_pdl": True} if self.early else {})}
