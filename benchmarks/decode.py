"""How fast responses are decoded, ours and others', beside what the machine's memory allows and what they lose.

All ways to decode get the same weights and the same prompts, greedy, and take turns; each in the precisions that it is
used in. The loss of each is of the same windows of a text, token by token, by its own arithmetic.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.turns import Progress, timed_turns
from benchmarks.decoders.decode_result import DecodeResult
from benchmarks.decoders.decode_times import Decoder, DecodeWork, Way, time_decoding, time_reading
from benchmarks.decoders.our_decoders import open_ours
from benchmarks.decoders.rival_decoders import RIVALS, library_versions, open_rivals, why_missing
from benchmarks.decoders.step_python import StepPython
from lts_ray.cli.options import Model, OutputFile, Seed, Text
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import evaluation_blocks
from lts_ray.files import write_json
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import PRECISIONS
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock, torch_threads
from serve.engine.blocks import blocks_for_batch

MEGABYTES = 512
"""Of the buffer: more than any cache holds."""
READS = 5
COLUMNS = 4096

READERS: tuple[Callable[[Tensor], object], ...] = (
    lambda buffer: buffer.sum(),
    lambda buffer: buffer.amax(),
    lambda buffer: buffer.view(-1).dot(buffer.view(-1)),
    lambda buffer: buffer @ buffer[0],
)
"""To read [N, COLUMNS] once. A copy is none: it writes as well."""
WINDOW_TOKENS = 256


def compare_decoders(
    folder: Path,
    work: DecodeWork,
    *,
    rivals: Sequence[str],
    rounds: int,
    seed: int,
    windows: int = 0,
    text: str | None = None,
    progress: Progress = lambda done, total: None,
) -> DecodeResult:
    """windows: of the text, as many as losses are measured on. Raises LtsRayError for what cannot be compared."""
    if not work.submodels or not work.batches or min(work.batches) < 1:
        raise LtsRayError(
            f"decoding needs submodels, and batches of at least 1; got {work.submodels} and {work.batches}"
        )
    checkpoint, most = load_checkpoint(folder), max(work.batches)
    config = checkpoint.model.config
    if work.length > config.context_length:
        raise LtsRayError(f"prompt and response are {work.length} tokens; the model takes {config.context_length}")
    window_tokens = min(WINDOW_TOKENS, config.context_length)
    blocks = evaluation_blocks(folder, text=text, corpus=None, count=windows, length=window_tokens) if windows else None
    submodels = {name: config.submodel(name) for name in work.submodels}
    steps = StepPython()
    with torch_threads(work.threads), tempfile.TemporaryDirectory() as scratch:
        bandwidth = read_bandwidth(threads=work.threads)
        runtime = build_runtime(
            checkpoint.model,
            n_blocks=blocks_for_batch(most, work.length) + blocks_for_batch(windows, window_tokens),
            threads=work.threads,
            precisions=work.precisions,
            quantised=checkpoint.quantised,
        )
        work = replace(work, precisions=runtime.precisions)
        costs = measure_step_costs(runtime)
        with (
            open_rivals(rivals, folder, work, Path(scratch)) as others,
            open_ours(runtime, costs, work, observer=steps) as ours,
        ):
            ways: dict[Way, Decoder] = ours | others
            decodes = {way: decoder.decode for way, decoder in ways.items()}
            prompts = random_prompts(config, count=most, tokens=work.prompt_tokens, seed=seed)
            longer = random_prompts(config, count=1, tokens=work.read_tokens, seed=seed + 1)[0]
            losses = {} if blocks is None else {way: decoder.loss(blocks) for way, decoder in ways.items()}
            read_ms = time_reading(decodes, longer, rounds=rounds)
            with steps.beside_kernels():
                times = time_decoding(decodes, prompts, work, rounds=rounds, progress=progress)
        bandwidth = max(bandwidth, read_bandwidth(threads=work.threads))  # either moment may be a slow one
    context = work.prompt_tokens + work.new_tokens // 2
    return DecodeResult(
        times=times,
        step_bytes={
            (way, batch): step_bytes(config, submodels[way.submodel], decoder, batch=batch, context=context)
            for way, decoder in ways.items()
            for batch in work.batches
        },
        read_ms=read_ms,
        losses=losses,
        work=replace(work, submodels=sorted(submodels, key=lambda name: sum(submodels[name].widths))),
        bandwidth=bandwidth,
        prediction_error=steps.median_error,
        step_python_ms={rows: cpu_ms for rows, cpu_ms in steps.median_ms.items() if rows in work.batches},
        seed=seed,
        machine=Machine.here(),
        versions=library_versions(),
    )


def read_bandwidth(*, threads: int, megabytes: int = MEGABYTES, clock: Clock = time.perf_counter) -> float:
    """Bytes per second that so many torch threads read, which decoding does for every token.

    The fastest run counts: each way is slowed by something of its own, and none can be faster than the memory.
    """
    with torch_threads(threads), torch.inference_mode():
        buffer = torch.ones(max(1, megabytes * 1_000_000 // (4 * COLUMNS)), COLUMNS)
        ways = {way: partial(lambda way, number: way(buffer), way) for way in READERS}
        best_ms = min(chain(*timed_turns(ways, rounds=READS, clock=clock).values()))
    return 4 * buffer.numel() / (best_ms / 1e3)


def step_bytes(config: MatFormerConfig, submodel: Submodel, decoder: Decoder, *, batch: int, context: int) -> float:
    """What a step has to read: all layers, the output matrix, and keys and values of `context` tokens."""
    layers, head = config.decoder_params(submodel), config.vocab_size * config.d_model
    cached = 2 * config.n_layer * config.n_kv_head * config.d_head * context
    head_bytes = decoder.weight_bytes if decoder.head_bytes is None else decoder.head_bytes
    weights = decoder.weight_bytes * layers + head_bytes * head
    return weights + batch * decoder.cache_bytes * cached


def random_prompts(config: MatFormerConfig, *, count: int, tokens: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    prompts: list[list[int]] = torch.randint(config.vocab_size, (count, tokens), generator=generator).tolist()
    return prompts


def decode(
    model: Model = DEFAULT_MODEL,
    batch: Annotated[str, typer.Option(help="Sequences at once, separated by commas.")] = "1,4,8,16",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, drawn at random.")] = 32,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a response.")] = 64,
    read_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a longer prompt that is read alone.")] = 384,
    submodels: Annotated[str, typer.Option(help="Granularities or fractions, separated by commas.")] = "M,L,XL",
    precisions: Annotated[str, typer.Option(help="Of ours, separated by commas.")] = ",".join(PRECISIONS),
    rivals: Annotated[str, typer.Option(help="Other libraries, separated by commas; empty for none.")] = ",".join(
        RIVALS
    ),
    windows: Annotated[
        int, typer.Option(min=0, help=f"Of {WINDOW_TOKENS} tokens of a text, that losses are of; 0: no losses.")
    ] = 16,
    text: Text = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that each library decodes on.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each response is timed in; the median counts.")] = 3,
    output: OutputFile = None,
    seed: Seed = 0,
) -> None:
    """Decoding: this engine beside other libraries, same weights and prompts, taking turns, and what each loses."""
    try:
        batches = [int(number) for number in names_of(batch)]
    except ValueError:
        raise LtsRayError(f"--batch is numbers separated by commas; got {batch!r}") from None
    work = DecodeWork(
        submodels=names_of(submodels),
        precisions=names_of(precisions),
        batches=batches,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        read_tokens=read_tokens,
        threads=threads,
    )
    reasons = {name: why_missing(name) for name in names_of(rivals)}
    for reason in filter(None, reasons.values()):
        print(reason, file=sys.stderr)
    with shown_progress("decoding") as progress:
        result = compare_decoders(
            model,
            work,
            rivals=[name for name, reason in reasons.items() if reason is None],
            rounds=rounds,
            seed=seed,
            windows=windows,
            text=text,
            progress=progress,
        )
    machine = result.machine
    print(f"{machine.cpu}, {threads} of {machine.cores} cores; reads {result.bandwidth / 1e9:.1f} GB/s")
    print(
        f"{', '.join(f'{name} {version}' for name, version in result.versions.items())}; seed {seed}; "
        f"commit {machine.commit or 'unknown'}; prompts of {prompt_tokens} tokens, responses of {new_tokens}"
    )
    print_rows(result.rows(), as_json=False, title=f"steps of decoding, median of {rounds} rounds")
    for what, ratio in result.ratios().items():
        print(f"{what}: {ratio:.4f} nats" if "loss" in what else f"{what}: {ratio:.2f}")
    if result.prediction_error is not None:
        print(f"the engine's steps took what was predicted within {100 * result.prediction_error:.1f} % (median)")
    for rows, cpu_ms in result.step_python_ms.items():
        print(f"beside the kernels the engine's thread needs {cpu_ms:.3f} ms of CPU time for a step of {rows} rows")
    if output is not None:
        write_json(output, result.to_json())
    print(json.dumps(result.to_json()))


if __name__ == "__main__":
    run_benchmark(decode)
