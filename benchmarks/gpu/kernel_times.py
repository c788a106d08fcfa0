"""Each kernel of a step alone, beside what the card allows, and beside other tiles; and the step: what to tune next."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import Ceilings, CheckScale
from benchmarks.gpu.kernel_call import KernelCall, data_of, kernel_calls
from benchmarks.gpu.shape_times import ShapeTimes
from lts_ray.pick import GREEDY_PICK
from lts_ray.runtime.segment import Segment

LAUNCHES = 100
"""Of a kernel in a graph that is timed, at least: of all layers in turn, so that few weights are in the cache."""
Calls = Sequence[KernelCall]


def alone(scale: CheckScale, shape: str, rows: str, *, ready: Callable[[], Ceilings]) -> Found:
    """A row for each kernel at the widest and the narrowest submodel, then one for the step, with its host's time.

    rows: how many decode, or `prompt`: one in a piece. of_limit: what the bytes or operations must take, over `us`.
    """
    count = max(scale.rows) if rows == "prompt" else int(rows)
    times = ShapeTimes(shape, replace(scale, rows=(count,)))
    runtime, trained = times.runtime, times.config.trained
    of_width = times.prompt if rows == "prompt" else lambda submodel: times.decoding([submodel] * count)
    steps = {width: of_width(trained[width]) for width in ("XL", "S")}

    def begin(width: str) -> Any:
        return runtime.begin(steps[width], [GREEDY_PICK] * len(steps[width]))

    begin("XL").chosen()
    data = data_of(runtime, steps["XL"])
    usual, others = _by_kernel(kernel_calls(runtime, data)), _others(runtime, data)
    resources = {name: _resources(calls[0].run()) for name, calls in usual.items()}
    early = kernel_calls(runtime, data, early=True) if runtime._steps._early else []
    _compile([*others, *_by_kernel(early).values()])
    ceilings, own, what = ready(), dict[str, tuple[float, str]](), {"shape": shape, "rows": rows}
    for width, step in steps.items():
        begin(width).chosen()
        for name, calls in usual.items():
            took_us = _us(scale, calls)
            moved, done = _work(calls[0], runtime, width, step)
            floor_us = 1e6 * max(moved / ceilings.copied, done / ceilings.multiplied)
            own.setdefault(name, (took_us, calls[0].how))
            row = {"width": width, "kernel": name, "launches": len(calls), "us": took_us}
            row |= {"step_ms": took_us * len(calls) / 1e3, "gb_per_s": moved / took_us / 1e3}
            row |= {"of_limit": min(1.0, floor_us / took_us), "how": calls[0].how}
            yield what | row | resources[name]
    begin("XL").chosen()
    kernels_us = sum(took_us * len(usual[name]) for name, (took_us, _) in own.items())
    launched = _launched(scale, kernel_calls(runtime, data), early, kernels_us)
    yield what | {"width": "step"} | launched | _hosted(scale, partial(begin, "XL"))
    for name, mine in own.items():  # last, since nobody has run these tiles before
        if near := list(_tried(scale, [each for each in others if each[0].name == name])):
            best, tried = min([mine, *near]), {"us": mine[0], "how": mine[1], "tried": near}
            yield what | {"width": "tiles", "kernel": name, "best_us": best[0], "best": best[1]} | tried


def _launched(scale: CheckScale, calls: Calls, early: Calls, kernels_us: float) -> dict[str, Any]:
    """Of a step: its kernels in a graph, overlapping or not, or one by one, beside what they take each for itself."""

    eagerly = partial(_run, early or calls)
    graph_ms = len(calls) * _us(scale, calls, least=1) / 1e3
    early_ms = len(early) * _us(scale, early, least=1) / 1e3 if early else None
    gaps = {"kernels_ms": kernels_us / 1e3, "gaps_ms": graph_ms - kernels_us / 1e3}
    eager = {"eager_device_ms": scale.device_ms(eagerly), "eager_host_ms": scale.host_ms(eagerly)}
    return {"graph_ms": graph_ms, "early_graph_ms": early_ms} | gaps | eager


def _hosted(scale: CheckScale, begin: Callable[[], Any]) -> dict[str, Any]:
    """The host's part of a step; where it is, in microseconds a step as the profiler stretches them: with callees."""
    host_ms, profile = scale.host_ms(begin, lambda begun: begun.chosen()), cProfile.Profile()
    for _ in range(scale.repeats):
        begun = profile.runcall(begin)
        begun.chosen()
    found = [
        (1e6 * whole / scale.repeats, 1e6 * own / scale.repeats, f"{file.rpartition('/')[2]}:{name}")
        for (file, _, name), (_, _, own, whole, _) in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    ]
    return {"host_ms": host_ms, "host": sorted(found, reverse=True)[:25]}


def _work(call: KernelCall, runtime: Any, width: str, step: Sequence[Segment]) -> tuple[float, float]:
    """Bytes that a launch must read, and operations of its products: of the weights' matrices that it is given, as much
    as this width has; of attention the keys and values."""
    config, weights, item = runtime.config, runtime._steps._weights, runtime._steps.memory.q.element_size()
    tokens = sum(len(segment.tokens) for segment in step)
    if call.name == "paged_attention":
        pairs = sum(len(segment.tokens) * (segment.start + segment.stop) / 2 for segment in step)
        read = 2 * sum(segment.stop for segment in step) * config.n_kv_head * config.d_head * item
        return read, 4 * pairs * config.n_head * config.d_head
    share = sum(config.trained[width].widths) / sum(config.widths)
    shares = {weights.head.data_ptr(): 1.0}
    for layer in weights.layers:
        shares |= {each.data_ptr(): 1.0 for each in (layer.qkv, layer.out)}
        shares |= {each.data_ptr(): share for each in (layer.gate, layer.up, layer.down) if each is not None}
    tensors = [] if call.name == "embed_rows" else [each for each in call.arguments if isinstance(each, Tensor)]
    numbers = sum(each.numel() * shares.get(each.data_ptr(), 0.0) for each in tensors)
    return numbers * item, 2 * numbers * (len(step) if call.name == "head_logits" else tokens)


def _by_kernel(calls: Calls) -> dict[str, Calls]:
    return {name: [call for call in calls if call.name == name] for name in dict.fromkeys(call.name for call in calls)}


def _others(runtime: Any, data: Any) -> list[Calls]:
    """Of each product the launches with tiles near its own."""
    from lts_ray.runtime.cuda.tiles import step_tiles

    config, found = runtime.config, dict[tuple[str, str], Calls]()
    chosen = step_tiles(config, data.bucket, runtime._steps.memory.q.element_size())
    products = {"qkv": "project_qkv", "ffn": "ffn_in", "head": "head_logits"}
    products |= {"out": f"add_product of {config.n_head * config.d_head}", "down": f"add_product of {config.widths[0]}"}
    for product, kernel in products.items():
        own = getattr(chosen, product)
        for tile in _near(own, columns=product in ("ffn", "head")):
            if tile != own:
                tiles = replace(chosen, **{product: tile})
                calls = _by_kernel(kernel_calls(runtime, data, tiles=tiles))[kernel]
                found[kernel, calls[0].how] = calls
    return list(found.values())


def _near(tile: Any, *, columns: bool) -> Iterator[Any]:
    """Tiles near this one. columns: whether they may have others than it."""
    steps, many = (2 * tile.steps, max(16, tile.steps // 2)), (2 * tile.columns, max(16, tile.columns // 2))
    changes = {"steps": steps, "stages": (tile.stages - 1, tile.stages + 1, tile.stages + 2), "warps": (2, 4, 8)}
    for name, values in (changes | ({"columns": many} if columns else {})).items():
        yield from (replace(tile, **{name: value}) for value in values)


def _compile(kinds: Sequence[Calls]) -> None:
    """On several cores. What does not compile says so when it is run."""
    from triton import AsyncCompileMode

    with ThreadPoolExecutor(4) as pool, AsyncCompileMode(pool, ignore_errors=True):
        for calls in kinds:
            calls[0].compile()


def _tried(scale: CheckScale, kinds: Sequence[Calls]) -> Iterator[tuple[float, str]]:
    """Microseconds of those that find room on the device."""
    for calls in kinds:
        try:
            yield _us(scale, calls), calls[0].how
        except Exception as error:
            print(why := f"{calls[0].name}, {calls[0].how}: {type(error).__name__}: {error}"[:300])
            if "CUDA error" in why:
                raise RuntimeError(why) from error


def _resources(kernel: Any) -> dict[str, int | None]:
    """What one program takes of a multiprocessor, as Triton says: its names have changed before."""
    shared = getattr(getattr(kernel, "metadata", None), "shared", None)
    return {"registers": getattr(kernel, "n_regs", None), "spills": getattr(kernel, "n_spills", None), "shared": shared}


def _run(calls: Calls) -> None:
    for call in calls:
        call.run()


def _us(scale: CheckScale, calls: Calls, *, least: int = LAUNCHES) -> float:
    """Of one call on average, of at least so many that a graph launches."""
    from lts_ray.runtime.cuda.bucket import Bucket
    from lts_ray.runtime.cuda.step_graphs import StepGraphs

    many = list(calls) * -(-least // len(calls))
    launch = partial(_run, many)
    graphs, bucket = StepGraphs(scale.device), Bucket(0)
    graphs.run(bucket, launch)  # which captures it
    return 1e3 * scale.device_ms(lambda: graphs.run(bucket, launch)) / len(many)
