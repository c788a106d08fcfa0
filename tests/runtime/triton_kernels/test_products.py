"""The kernels that multiply by a matrix, in Triton's interpreter or on a card, against plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.models.feed_forward import ACTIVATIONS
from lts_ray.runtime.triton_kernels.add_product import add_product
from lts_ray.runtime.triton_kernels.embed_rows import embed_rows
from lts_ray.runtime.triton_kernels.ffn_in import ffn_in
from lts_ray.runtime.triton_kernels.head_logits import head_logits
from lts_ray.runtime.triton_kernels.normalise import normalise
from lts_ray.runtime.triton_kernels.project_qkv import project_qkv

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]  # the interpreter's is wrong
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
D, NT, EPS = 40, 3, 1e-5
"""D is no multiple of any tile's columns."""
DIMS = (40, 24, 40, 0, 40)
"""Of five rows: one narrower, one that pads."""


@dataclass(frozen=True)
class Tile:
    rows: int
    columns: int
    steps: int

    @property
    def constants(self) -> dict[str, object]:
        return {"BM": self.rows, "BN": self.columns, "BK": self.steps, "DOT": self.rows > 1, "STAGES": 2}

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        return -(-rows // self.rows), -(-columns // self.columns)


TILES = [Tile(16, 16, 32), Tile(1, 8, 16)]


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


class Rows:
    """Five rows of hidden states, as the kernel before has left them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dims = ints(*DIMS)
        inside = torch.arange(D, device=DEVICE) < self.dims[:, None]
        self.x = drawn(len(DIMS), D, seed=0) * inside
        self.half = self.x.to(dtype)
        stats = torch.rand(len(DIMS), 2, NT, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        stats[:, 0, 0] = self.x.sum(1) - stats[:, 0, 1:].sum(1)
        stats[:, 1, 0] = self.x.square().sum(1) - stats[:, 1, 1:].sum(1)
        self.stats = stats
        self.norm, self.norm_bias = drawn(D, seed=2, dtype=dtype), drawn(D, seed=3, dtype=dtype)

    def read(self, *, gained: bool) -> Tensor:
        """What a product reads that has the norm in it."""
        return (self.x * self.norm.float()).to(self.half.dtype) if gained else self.half

    def normed(self, *, layer: bool) -> Tensor:
        """[5, D], float32."""
        out = torch.zeros_like(self.x)
        for row, dim in enumerate(DIMS):
            if dim:
                x, norm, bias = (each[..., :dim].float() for each in (self.half[row], self.norm, self.norm_bias))
                y = functional.layer_norm(x, (dim,), norm, bias, EPS)
                out[row, :dim] = y if layer else functional.rms_norm(x, (dim,), norm, EPS)
        return out


def gained(dtype: torch.dtype, *, layer: bool = False) -> bool:
    """As a step has it."""
    return dtype != torch.float16 and not layer


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    bound = TOLERANCE[dtype] * max(1.0, float(wanted.abs().max()))
    assert float((found.float() - wanted.float()).abs().max()) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("learned", [False, True])
def test_tokens_are_embedded_also_those_just_chosen(learned: bool, dtype: torch.dtype) -> None:
    rows = Rows(dtype)
    table, places = drawn(9, D, seed=4, dtype=dtype), drawn(7, D, seed=5, dtype=dtype)
    x, half, stats = torch.full_like(rows.x, 7), torch.full_like(rows.half, 7), torch.full_like(rows.stats, 7)
    tokens, positions, chosen = ints(3, -2, 8, 0, -1), ints(6, 0, 1, 0, 2), ints(5, 4)
    constants = {"D": D, "D_PADDED": 64, "NT": NT, "LEARNED": learned, "GAINED": gained(dtype)}
    embed_rows[(5,)](tokens, positions, rows.dims, chosen, table, places, rows.norm, x, half, stats, **constants)
    wanted = table[[3, 4, 8, 0, 5]] + (places[positions.long()] if learned else 0)
    wanted = wanted.float() * (torch.arange(D, device=DEVICE) < rows.dims[:, None])
    near(x, wanted, dtype)
    near(half, wanted * (rows.norm.float() if gained(dtype) else 1), dtype)
    near(stats.sum(2), torch.stack([x.sum(1), x.square().sum(1)], 1), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", [False, True])
def test_rows_are_normalised_over_their_own_dims(layer: bool, dtype: torch.dtype) -> None:
    rows = Rows(dtype)
    normed = torch.full_like(rows.half, 7)
    early = gained(dtype, layer=layer)
    normalise[(5,)](
        rows.read(gained=early), rows.stats, rows.dims, rows.norm, rows.norm_bias, normed, EPS,
        D=D, D_PADDED=64, NT=NT, LAYER_NORM=layer, GAINED=early,
    )  # fmt: skip
    near(normed, rows.normed(layer=layer), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("gated", [True, False])
def test_each_row_has_its_own_first_neurons(gated: bool, tile: Tile, dtype: torch.dtype) -> None:
    """Past a row's width stand zeros, as far as the next product reads; where no row of a tile is so wide, nothing."""
    rows, n_inner, widths = Rows(dtype), 56, (17, 40, 1, 0, 33)
    gate, up = drawn(n_inner, D, seed=6, dtype=dtype), drawn(n_inner, D, seed=7, dtype=dtype)
    gate_bias, up_bias = drawn(n_inner, seed=8, dtype=dtype), drawn(n_inner, seed=9, dtype=dtype)
    inner = torch.full((5, n_inner), 7.0, dtype=dtype, device=DEVICE)
    activation, early = "silu" if gated else "gelu_tanh", gained(dtype, layer=not gated)
    ffn_in[tile.grid(5, n_inner)](
        rows.read(gained=early), rows.stats, rows.dims, ints(*widths), rows.norm, rows.norm_bias, gate, up, gate_bias,
        up_bias, inner, EPS, 5, D=D, F=n_inner, NT=NT, WHOLE=False, NORM=True, LAYER_NORM=not gated, GAINED=early,
        GATED=gated, BIASED=not gated, ACTIVATION=activation, PAD=32, **tile.constants,
    )  # fmt: skip
    a = rows.normed(layer=not gated).to(dtype).float()
    y = a @ up.float().T + (0 if gated else up_bias.float())
    activate = ACTIVATIONS[activation]  # type: ignore[index]
    wanted = activate(a @ gate.float().T) * y if gated else activate(y)
    place, widest = torch.arange(n_inner, device=DEVICE), [[40] * 5, widths][tile.rows == 1]
    own, read = (place < ints(*limits)[:, None] for limits in (widths, [-(-width // 32) * 32 for width in widest]))
    near(inner, torch.where(own, wanted, torch.where(read, 0.0, 7.0)), dtype)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activations(activation: str) -> None:
    rows, tile = Rows(torch.float32), TILES[0]
    up, inner = drawn(16, D, seed=7), torch.zeros(5, 16, device=DEVICE)
    ffn_in[tile.grid(5, 16)](
        rows.half, rows.stats, rows.dims, ints(*[16] * 5), rows.norm, rows.norm, up, up, up, up, inner, EPS, 5,
        D=D, F=16, NT=NT, WHOLE=False, NORM=False, LAYER_NORM=False, GAINED=True, GATED=False, BIASED=False,
        ACTIVATION=activation, PAD=16, **tile.constants,
    )  # fmt: skip
    near(inner, ACTIVATIONS[activation](rows.x @ up.T), torch.float32)  # type: ignore[index]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_rows_are_added_up_to_their_own_limits(tile: Tile, dtype: torch.dtype) -> None:
    rows, n_inner, limits = Rows(dtype), 36, (9, 5, 1, 0, 0)
    """A tile reads as far as its widest row has something; the row that pads may hold anything."""
    own = torch.arange(n_inner, device=DEVICE) < 4 * ints(*limits)[:, None]
    inner = drawn(5, n_inner, seed=10, dtype=dtype)
    weight, bias = drawn(D, n_inner, seed=11, dtype=dtype), drawn(D, seed=12, dtype=dtype)
    n_tiles = tile.grid(5, D)[1]
    x, half = rows.x.clone(), rows.half.clone()
    stats = torch.full((5, 2, n_tiles), 7.0, device=DEVICE)
    dirty = torch.where(own, inner, 0.0)
    dirty[3] = torch.nan
    add_product[tile.grid(5, D)](
        dirty, ints(*limits), rows.dims, weight, bias, rows.norm, x, half, stats, 5,
        D=D, K=n_inner, UNIT=4, NT=n_tiles, WHOLE=False, BIASED=True, GAINED=gained(dtype), **tile.constants,
    )  # fmt: skip
    inside = torch.arange(D, device=DEVICE) < rows.dims[:, None]
    wanted = (rows.x + torch.where(own, inner, 0.0).float() @ weight.float().T + bias.float()) * inside  # [5, D]
    near(x, wanted, dtype)
    near(half, wanted * (rows.norm.float() if gained(dtype) else 1), dtype)
    live = rows.dims > 0
    near(stats.sum(2)[live], torch.stack([x.sum(1), x.square().sum(1)], 1)[live], torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("kind", ["rotary", "norms", "learned"])
def test_heads_are_projected_turned_and_kept(kind: str, tile: Tile, dtype: torch.dtype) -> None:
    n_head, n_kv, d_head, context, early = 2, 1, 20, 30, gained(dtype, layer=kind == "learned")
    rows, size = Rows(dtype), (2 + 2) * 20
    heads, positions, places = (2, 1, 2, 0, 1), ints(3, 29, 0, 0, 7), ints(5, 16, 40, -1, 17)
    weight, bias = drawn(size, D, seed=13, dtype=dtype), drawn(size, seed=14, dtype=dtype)
    gains = [drawn(d_head, seed=seed, dtype=dtype) for seed in (15, 16)]
    angles = drawn(context, d_head // 2, seed=17).repeat(1, 2)
    rotary = torch.stack([angles.cos(), angles.sin()])
    q = torch.full((5, n_head * d_head), 7.0, dtype=dtype, device=DEVICE)
    cache = torch.full((2, 3, n_kv, 16, d_head), 7.0, dtype=dtype, device=DEVICE)
    if kind == "norms":
        tile = Tile(tile.rows, 16, tile.steps)  # a whole head's half
    parts = -(-(d_head // 2) // tile.columns)
    project_qkv[(-(-5 // tile.rows), (n_head + 2 * n_kv) * parts)](
        rows.read(gained=early), rows.stats, rows.dims, ints(*heads), positions, places, rows.norm, rows.norm_bias,
        weight, bias, *gains, rotary, q, cache[0], cache[1], EPS, 5, D=D, N_HEAD=n_head, N_KV=n_kv, D_HEAD=d_head,
        CONTEXT=context, NT=NT, WHOLE=False, NORM=True, LAYER_NORM=kind == "learned", GAINED=early,
        BIASED=kind != "norms", QK_NORM=kind == "norms", ROTARY=kind != "learned", PARTS=parts, **tile.constants,
    )  # fmt: skip
    a = rows.normed(layer=kind == "learned").to(dtype).float()
    y = (a @ weight.float().T + (bias.float() if kind != "norms" else 0)).view(5, -1, d_head)
    queries, keys, values = y.split([n_head, n_kv, n_kv], 1)
    if kind == "norms":
        queries, keys = (
            functional.rms_norm(each, (d_head,), gain.float(), EPS)
            for each, gain in zip((queries, keys), gains, strict=True)
        )
    if kind != "learned":
        cosine, sine = (each[positions.long()][:, None] for each in rotary)
        queries, keys = (
            each * cosine + torch.cat([-each[..., d_head // 2 :], each[..., : d_head // 2]], -1) * sine
            for each in (queries, keys)
        )
    for row, (count, place) in enumerate(zip(heads, places.tolist(), strict=True)):
        if count:
            near(q[row].view(n_head, d_head)[:count], queries[row, :count], dtype)
        if place >= 0:
            near(cache[0][place // 16, :, place % 16], keys[row], dtype)
            near(cache[1][place // 16, :, place % 16], values[row], dtype)
    touched = torch.zeros(48, dtype=torch.bool, device=DEVICE)
    touched[places[places >= 0].long()] = True
    assert bool((cache.transpose(2, 3).flatten(1, 2)[:, ~touched] == 7).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_logits_are_of_the_rows_that_ask(tile: Tile, dtype: torch.dtype) -> None:
    rows, n_words = Rows(dtype), 50
    weight = drawn(n_words, D, seed=18, dtype=dtype)
    weight[33] = weight[7]  # equal logits in two tiles
    n_tops = tile.grid(1, n_words)[1]
    logits = torch.full((4, n_words), 7.0, device=DEVICE)
    tops, top_ids = torch.full((4, n_tops), 7.0, device=DEVICE), torch.full((4, n_tops), 7, device=DEVICE).int()
    head_logits[(-(-4 // tile.rows), n_tops)](
        rows.read(gained=gained(dtype)), rows.stats, rows.dims, ints(4, 0, 1, 2), ints(3), rows.norm, rows.norm_bias,
        weight, logits, tops, top_ids, EPS, D=D, V=n_words, N_TOPS=n_tops, NT=NT, WHOLE=False, LAYER_NORM=False,
        GAINED=gained(dtype), **tile.constants,
    )  # fmt: skip
    wanted = rows.normed(layer=False)[[4, 0, 1]].to(dtype).float() @ weight.float().T
    near(logits[:3], wanted, dtype)
    assert bool((logits[3] == 7).all())
    padded = functional.pad(logits[:3], (0, n_tops * tile.columns - n_words), value=-torch.inf)
    best = padded.view(3, n_tops, tile.columns).max(2)
    assert torch.equal(tops[:3], best.values)
    starts = torch.arange(n_tops, device=DEVICE) * tile.columns
    assert torch.equal(top_ids[:3].long(), starts + padded.view(3, n_tops, tile.columns).argmax(2))


def test_a_logit_that_is_no_number_is_said() -> None:
    rows, tile = Rows(torch.float32), TILES[0]
    weight = drawn(32, D, seed=18)
    weight[20] = torch.nan
    logits, tops, ids = torch.zeros(1, 32, device=DEVICE), torch.zeros(1, 2, device=DEVICE), ints(0, 0)
    head_logits[(1, 2)](
        rows.half, rows.stats, rows.dims, ints(0), ints(1), rows.norm, rows.norm, weight, logits, tops, ids, EPS,
        D=D, V=32, N_TOPS=2, NT=NT, WHOLE=True, LAYER_NORM=False, GAINED=True, **tile.constants,
    )  # fmt: skip
    assert tops.isnan().tolist() == [[False, True]]
