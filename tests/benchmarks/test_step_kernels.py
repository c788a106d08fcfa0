"""Each kernel of whole steps beside plain torch in float32, on the numbers that it was given there.

On a card of real shapes and with the tiles that are used: what fails says which kernel is wrong, and where first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.check_scale import CARD, SHAPE, CheckScale, held, mixture, piece, random_tokens
from benchmarks.gpu.kernel_call import KernelCall, data_of, kernel_calls
from lts_ray.pick import GREEDY_PICK
from lts_ray.runtime.segment import Segment
from tests.runtime.conftest import patched_once  # noqa: F401  # for the interpreter

pytest.importorskip("triton")
TOY = {"toy": SHAPE(vocab_size=40, d_model=24, n_head=2, n_kv_head=1, widths=(40,), context_length=64)}
SCALE = CheckScale()
if not torch.cuda.is_available():
    SCALE = replace(
        SCALE, device=torch.device("cpu"), dtype=torch.float32, shapes=TOY, rows=(1, 2), context=3, prompt=6
    )
ALLOWED = {torch.bfloat16: 3e-2, torch.float32: 1e-4}[SCALE.dtype]
"""Of the largest number that is wanted; rounding alone stays far below."""
EACH = held(SCALE.context + 1)
"""Blocks of a row that decodes."""
Given = Mapping[str, Any]
Wanted = dict[str, tuple[Callable[[], Tensor], Tensor, Tensor]]
"""By output: where it lies once the kernel has run, what it must be, and where that is asked for."""
STEPS = [*(f"{rows} rows" for rows in SCALE.rows), "pieces", "a prompt"]


@cache
def runtime_of(shape: str) -> Any:
    model, blocks = SCALE.model(SCALE.shapes[shape], SCALE.dtype), max(max(SCALE.rows) * EACH, held(SCALE.prompt))
    for parameter in model.parameters():
        if parameter.dim() == 1:  # the norms' gains, all alike in fresh weights
            parameter.data.uniform_(0.5, 1.5, generator=torch.Generator(SCALE.device).manual_seed(2))
    return SCALE.runtime(model, n_blocks=blocks)


def step_of(shape: str, kind: str) -> list[Segment]:
    """Of all widths; rows that decode have their places before in the cache."""
    config, runtime = SCALE.shapes[shape], runtime_of(shape)
    few = max(2, SCALE.prompt // 100)
    sizes = {"pieces": (min(3, max(SCALE.rows)), 1, few), "a prompt": (1, 0, SCALE.prompt)}
    rows, start, count = sizes[kind] if kind in sizes else (int(kind.removesuffix(" rows")), SCALE.context, 1)
    tokens, widths = random_tokens(config, rows, start + count), mixture(config, rows)
    for row in range(rows if start else 0):
        runtime.run([piece(row, tokens[row][:start], 0, EACH, config.universal)])
    return [piece(row, tokens[row][start:], start, EACH, widths[row]) for row in range(rows)]


def wrong_kernels(shape: str, kind: str) -> list[str]:
    """Of each kernel the first launch in which it is wrong."""
    runtime, step, found = runtime_of(shape), step_of(shape, kind), dict[str, str]()
    runtime.begin(step, [GREEDY_PICK] * len(step)).chosen()
    for number, call in enumerate(kernel_calls(runtime, data_of(runtime, step))):
        print(f"launch {number}: {call.name}, {call.how}", flush=True)  # its last words, should it hang
        if call.name not in found and (fault := fault_of(call)):
            found[call.name] = f"{call.name} ({call.how}), launch {number}: {fault}"
    return list(found.values())


def fault_of(call: KernelCall) -> str:
    """Nothing where all is near."""
    wanted = WANTED[call.name.split()[0]](call.given)
    try:
        call.run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for name, (got, right, where) in wanted.items():
        found, most = got().float(), float(torch.where(where, right, 0.0).abs().max().clamp(min=1e-6))
        off = torch.where(where, (found - right).abs(), 0.0).nan_to_num(torch.inf) / most
        bad = (off > ALLOWED).nonzero()
        if len(bad):
            at = tuple(bad[0].tolist())
            many = f"{len(bad)} of {int(where.sum())} wrong, by {float(off.max()):.2g} of {most:.3g}"
            return f"{name}{list(at)} is {float(found[at]):.5g}, not {float(right[at]):.5g}; {many}"
    return ""


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("shape", SCALE.shapes)
def test_each_kernel_of_a_step_computes_what_plain_torch_does(shape: str, kind: str) -> None:
    if wrong := wrong_kernels(shape, kind):
        pytest.fail("; ".join(wrong))


@pytest.mark.skipif(SCALE.device == CARD, reason="one that is broken on purpose")
def test_a_kernel_that_is_wrong_is_named_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    run = KernelCall.run

    def wrong(call: KernelCall) -> None:
        run(call)
        if call.name == "ffn_in":
            call.given["inner"][5] += 1.0

    monkeypatch.setattr(KernelCall, "run", wrong)
    (found,) = wrong_kernels("toy", "1 rows")
    assert found.startswith("ffn_in (1x")
    assert ", launch 4: inner[0, 5] is " in found
    assert "1 of 40 wrong" in found


def _lines(given: Given, name: str, rows: int, columns: int) -> Tensor:
    """The first rows of what lies there, [rows, columns]."""
    return given[name].flatten()[: rows * columns].view(rows, columns)  # type: ignore[no-any-return]


def _emptied(values: Tensor) -> Callable[[], Tensor]:
    """What is written there; what is not, is no number."""
    values.fill_(torch.nan)
    return lambda: values


def _normed(given: Given) -> Tensor:
    """[R, D]: the rows that a product takes, which the step's own norm has left already where there is one."""
    rows, dim = len(given["dims"]), given["D"]
    half = _lines(given, "half", rows, dim).float()
    if not given.get("NORM", True):
        return half
    squares = given["stats"].flatten()[: rows * 2 * given["NT"]].view(rows, 2, -1)[:, 1].sum(1)
    scale = torch.rsqrt(squares / given["dims"].clamp(min=1) + given["eps"])
    return half * scale[:, None] * (1.0 if given["GAINED"] else given["norm"].float())


def _gain(given: Given) -> Tensor | float:
    """By which what is left in half is larger than the residual."""
    return given["gain"].float() if given["GAINED"] else 1.0


def _embedded(given: Given) -> Wanted:
    rows, dim = len(given["dims"]), given["D"]
    right = given["embedding"][given["tokens"].long().clamp(min=0)].float()
    own = torch.arange(dim, device=right.device) < given["dims"][:, None]
    own &= (given["tokens"] >= 0)[:, None]
    x, half = (_emptied(_lines(given, name, rows, dim)) for name in ("x", "half"))
    return {"x": (x, right, own), "half": (half, right * _gain(given), own)}


def _normalised(given: Given) -> Wanted:
    rows = len(given["dims"])
    right = _normed(given)
    there = (given["dims"] > 0)[:, None].expand_as(right)
    return {"out": (_emptied(_lines(given, "out", rows, given["D"])), right, there)}


def _projected(given: Given) -> Wanted:
    rows, n_head, n_kv, d_head = len(given["dims"]), given["N_HEAD"], given["N_KV"], given["D_HEAD"]
    y = (_normed(given) @ given["weight"].float().T).view(rows, -1, d_head)
    q, k, v = y.split([n_head, n_kv, n_kv], 1)
    cosine, sine = (turn[:, None] for turn in given["rotary"][:, given["positions"].long()])
    half = d_head // 2
    q, k = (x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine for x in (q, k))
    own = torch.arange(n_head, device=y.device) < given["heads"][:, None]
    own = own.repeat_interleave(d_head, 1) & (given["dims"] > 0)[:, None]
    place = given["places"].long().clamp(min=0)
    kept = (given["places"] >= 0)[:, None, None].expand_as(k)

    def in_cache(name: str) -> Callable[[], Tensor]:
        return lambda: given[name][place // 16, :, place % 16]

    queries = _emptied(_lines(given, "q", rows, n_head * d_head))
    cached: Wanted = {"keys": (in_cache("keys"), k, kept), "values": (in_cache("values"), v, kept)}
    return {"q": (queries, q.reshape(rows, -1), own)} | cached


def _attended(given: Given) -> Wanted:
    """Of single rows, or of those of pieces."""
    n_head, n_kv, d_head = given["N_HEAD"], given["N_KV"], given["D_HEAD"]
    heads, positions, tables = (given[name].tolist() for name in ("heads", "positions", "tables"))
    tiles = [each for each in zip(given["firsts"].tolist(), given["sizes"].tolist(), strict=True) if each[1]]
    rows = [first + row for first, size in tiles for row in range(size)]
    if given["ROWS"] == 1:
        rows = list(range(min(tiles)[0] if tiles else len(heads)))
    q = _lines(given, "q", len(heads), n_head * d_head).float()
    right, asked = torch.zeros_like(q), torch.zeros_like(q, dtype=torch.bool)
    for row in rows:
        if not heads[row]:
            continue
        places = positions[row] + 1
        blocks = given["blocks"][tables[row] : tables[row] + -(-places // 16)].long()
        keys, values = (
            given[name][blocks].float().transpose(1, 2).flatten(0, 1)[:places].repeat_interleave(n_head // n_kv, 1)
            for name in ("keys", "values")
        )
        shares = torch.einsum("hd,nhd->hn", q[row].view(n_head, d_head), keys).mul(given["scale"]).softmax(-1)
        right[row] = torch.einsum("hn,nhd->hd", shares, values).flatten()
        right[row, heads[row] * d_head :] = 0
        asked[row] = True
    attended = _lines(given, "attended", len(heads), n_head * d_head)
    attended[asked] = torch.nan
    return {"attended": (lambda: attended, right, asked)}


def _added(given: Given) -> Wanted:
    rows, dim, k = len(given["dims"]), given["D"], given["K"]
    limits = torch.full_like(given["dims"], k) if given["WHOLE"] else given["limits"] * given["UNIT"]
    inside = torch.arange(k, device=limits.device) < limits[:, None]
    a = torch.where(inside, _lines(given, "a", rows, k).float(), 0.0)
    x = _lines(given, "x", rows, dim)
    own = torch.arange(dim, device=x.device) < given["dims"][:, None]
    before, added = x.clone(), a @ given["weight"].float().T
    right = torch.where(own, x + added, 0.0)
    sums = torch.stack([right.sum(1), right.square().sum(1)], 1)
    there = (given["dims"] > 0)[:, None].expand_as(sums)

    def stats() -> Tensor:
        return given["stats"].flatten()[: rows * 2 * given["NT"]].view(rows, 2, -1).sum(2)  # type: ignore[no-any-return]

    half = _emptied(_lines(given, "half", rows, dim))
    right = right * _gain(given)
    return {"added": (lambda: x - before, added, own), "half": (half, right, own), "stats": (stats, sums, there)}


def _transformed(given: Given) -> Wanted:
    rows, width = len(given["dims"]), given["F"]
    a = _normed(given)
    right = torch.nn.functional.silu(a @ given["gate"].float().T) * (a @ given["up"].float().T)
    own = torch.arange(width, device=a.device) < given["widths"][:, None]
    return {"inner": (_emptied(_lines(given, "inner", rows, width)), right, own)}


def _logits(given: Given) -> Wanted:
    count = int(given["count"])
    right = (_normed(given) @ given["weight"].float().T)[given["wants"][:count].long()]
    return {"logits": (_emptied(given["logits"][:count]), right, torch.ones_like(right, dtype=torch.bool))}


def _chosen(given: Given) -> Wanted:
    """Greedy: 1 where it is the most likely."""
    count = int(given["counts"])
    chosen, best = given["chosen"][:count].fill_(-1), given["logits"][:count].argmax(-1)
    right = torch.ones(count, device=chosen.device)

    def hits() -> Tensor:
        return (chosen == best).float()

    return {"chosen": (hits, right, right > 0)}


WANTED: Mapping[str, Callable[[Given], Wanted]] = {
    "embed_rows": _embedded,
    "normalise": _normalised,
    "project_qkv": _projected,
    "paged_attention": _attended,
    "add_product": _added,
    "ffn_in": _transformed,
    "head_logits": _logits,
    "choose_token": _chosen,
}
"""Of models of Llama's kind."""
