"""Each kernel of a decoding step alone, and the tiles of each product beside others: what to tune next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.check_scale import CheckScale
from benchmarks.gpu.shape_times import ShapeTimes
from lts_ray.pick import GREEDY_PICK

LAUNCHES = 100
"""Of a kernel in a graph that is timed, at least: of all layers in turn, so that few weights are in the cache."""
Calls = Sequence[partial[None]]


def kernel_times(
    scale: CheckScale, shape: str, rows: int, *, ready: Callable[[], None] = lambda: None
) -> Mapping[str, Any]:
    """`rows`: one of each kernel, with its best tile; and of the step, whose launches overlap where it is "early"."""
    from lts_ray.runtime.cuda.launch import StepLaunch, launch_step, run_kernel
    from lts_ray.runtime.cuda.tiles import step_tiles

    times = ShapeTimes(shape, replace(scale, rows=(rows,)))
    config = times.config
    times.runtime.begin(times.decoding([config.universal] * rows), [GREEDY_PICK] * rows).chosen()
    steps = times.runtime._steps
    weights, memory, data = steps._weights, steps.memory, list(steps._of_bucket.values())[-1]
    chosen = step_tiles(config, data.bucket)

    def launches(tiles: Any) -> dict[str, Calls]:
        """Of a step, by kernel."""
        found: dict[str, list[partial[None]]] = {}

        def record(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
            name = f"{kernel.fn.__name__} of {constants['K']}" if "K" in constants else kernel.fn.__name__
            found.setdefault(name, []).append(partial(run_kernel, kernel, grid, *arguments, **constants))

        StepLaunch(weights, memory, data, tiles, False, record).step(weights.layers)
        return dict(found)

    products = {"qkv": "project_qkv", "ffn": "ffn_in", "head": "head_logits"}
    products |= {"out": f"add_product of {config.n_head * config.d_head}", "down": f"add_product of {config.widths[0]}"}
    whole = {
        name: [partial(launch_step, weights, memory, data, early=early)]
        for name, early in (("step", False), ("step, early", True))
        if not early or (scale.device.type == "cuda" and torch.cuda.get_device_capability() >= (9, 0))
    }
    usual: dict[str, Calls] = {**launches(chosen), **whole}
    others = [
        (kernel, _text(tile), launches(replace(chosen, **{product: tile}))[kernel])
        for product, kernel in products.items()
        for tile in _others(getattr(chosen, product), columns=product in ("ffn", "head"))
    ]
    for calls in usual.values():
        calls[0]()
    compiled = [each for each in others if _runs(each[2])]
    ready()
    matrices = [each for layer in weights.layers for each in (layer.qkv, layer.out, layer.gate, layer.up, layer.down)]
    sizes = {each.data_ptr(): each.nbytes for each in (*matrices, weights.head) if each is not None}
    cached = rows * (scale.context + 1) * 2 * config.n_kv_head * config.d_head * scale.dtype.itemsize
    tile_of = {kernel: _text(getattr(chosen, product)) for product, kernel in products.items()}
    found = []
    for kernel, calls in usual.items():
        took_us = _us(scale, calls, least=1 if kernel in whole else LAUNCHES)
        tensors = [each for each in calls[0].args if isinstance(each, Tensor)]
        read = cached if kernel == "paged_attention" else sum(sizes.get(each.data_ptr(), 0) for each in tensors)
        near = [(_us(scale, each), tile) for name, tile, each in compiled if name == kernel]
        best_us, best = min([(took_us, tile_of.get(kernel, "")), *near])
        what = {"shape": shape, "rows": rows, "kernel": kernel, "launches": len(calls), "us": took_us}
        speed = {"gb_per_s": 0.0 if kernel == "embed_rows" else read / took_us / 1e3}
        found.append(what | speed | {"tile": tile_of.get(kernel, ""), "best_us": best_us, "best": best})
    return {"rows": found}


def _others(tile: Any, *, columns: bool) -> Iterator[Any]:
    """Tiles near this one. columns: whether they may have others than it."""
    for change in ({"steps": 2 * tile.steps}, {"steps": max(16, tile.steps // 2)}, {"stages": tile.stages - 1}):
        yield replace(tile, **change)
    yield replace(tile, warps=12 - tile.warps if tile.warps in (4, 8) else 4)
    if columns:
        yield replace(tile, columns=2 * tile.columns)
        yield replace(tile, columns=max(16, tile.columns // 2))


def _text(tile: Any) -> str:
    return f"{tile.rows}x{tile.columns}x{tile.steps}, {tile.warps} warps, {tile.stages} stages"


def _runs(calls: Calls) -> bool:
    """Compiles it. Whether it fits on the device."""
    try:
        calls[0]()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return False
    return True


def _us(scale: CheckScale, calls: Calls, *, least: int = LAUNCHES) -> float:
    """Of one call, of at least so many."""
    many = list(calls) * -(-least // len(calls))

    def launch() -> None:
        for call in many:
            call()

    if scale.device.type != "cuda":
        return 1e3 * scale.device_ms(launch) / len(many)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return 1e3 * scale.device_ms(graph.replay) / len(many)
