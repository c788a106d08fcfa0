"""How fast responses are decoded, ours and others', beside what the machine's memory allows.

All ways to decode get the same weights and the same prompts, greedy and in float32, and take turns.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.turns import Progress, timed_turns
from benchmarks.decoders.decode_times import (
    CONTINUOUS,
    CTRANSLATE2,
    ENGINE,
    TRANSFORMERS,
    DecodeTimes,
    DecodeWork,
    Way,
    time_decoding,
)
from benchmarks.decoders.our_decoders import open_ours
from benchmarks.decoders.rival_decoders import library_versions, open_rivals, why_missing
from benchmarks.decoders.step_python import StepPython
from lts_ray.cli.options import Model, OutputFile, Seed
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.submodel import Submodel
from lts_ray.timing import Clock, torch_threads
from serve.engine.blocks import blocks_for_batch

SCHEMA = 2
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
OTHERS = {"transformers' best": (TRANSFORMERS, CONTINUOUS), CTRANSLATE2: (CTRANSLATE2,)}


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    times: tuple[DecodeTimes, ...]
    step_bytes: Mapping[tuple[str, int], int]
    """What a step must read, by submodel and batch."""
    work: DecodeWork
    """Its submodels are in the order of their sizes."""
    bandwidth: float
    """Bytes a second that the machine reads."""
    prediction_error: float | None
    """Of the times that the engine predicted for its steps, the median relative error; None where none was timed."""
    step_python_ms: Mapping[int, float]
    """CPU time of the engine's thread for a step, the kernels' own taken off, by the number of rows; the median."""
    seed: int
    machine: Machine
    versions: Mapping[str, str]
    """Of the libraries compared."""

    def of(self, engine: str, submodel: str, batch: int) -> DecodeTimes | None:
        way = Way(engine, submodel)
        return next((times for times in self.times if times.way == way and times.batch == batch), None)

    def bandwidth_share(self, times: DecodeTimes) -> float:
        read = self.step_bytes[times.way.submodel, times.batch]
        return read / (times.step_ms / 1e3) / self.bandwidth

    def ratios(self) -> dict[str, float]:
        """The engine's speed over others', and what narrow submodels gain, of what was measured."""
        ratios: dict[str, float] = {}
        full = self.work.submodels[-1]
        for submodel in self.work.submodels:
            for batch in self.work.batches:
                ours, whole = self.of(ENGINE, submodel, batch), self.of(ENGINE, full, batch)
                if ours is None or whole is None:
                    continue
                at = f"{submodel}, batch {batch}"
                for other, engines in OTHERS.items():
                    theirs = [times.step_ms for name in engines if (times := self.of(name, submodel, batch))]
                    if theirs:
                        ratios[f"{at}: x {other}"] = min(theirs) / ours.step_ms
                if submodel != full:
                    bytes_gain = self.step_bytes[full, batch] / self.step_bytes[submodel, batch]
                    gain = whole.step_ms / ours.step_ms
                    ratios[f"{at}: gain over {full}, of what its bytes promise"] = gain / bytes_gain
        return ratios

    def rows(self) -> list[dict[str, Any]]:
        """One for each way and batch, by submodel and batch."""
        order = self.work.submodels.index
        return [
            {
                "submodel": times.way.submodel,
                "batch": times.batch,
                "engine": times.way.engine,
                "tokens_per_second": times.tokens_per_second,
                "step_ms": times.step_ms,
                "step_mb": self.step_bytes[times.way.submodel, times.batch] / 1e6,
                "bandwidth_share": self.bandwidth_share(times),
                "agreement": times.agreement,
            }
            for times in sorted(self.times, key=lambda times: (order(times.way.submodel), times.batch))
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "versions": dict(self.versions),
            "dtype": "float32",
            "seed": self.seed,
            **asdict(self.work),
            "read_bandwidth_gb_s": self.bandwidth / 1e9,
            "step_prediction_error": self.prediction_error,
            "step_python_ms": {str(rows): cpu_ms for rows, cpu_ms in self.step_python_ms.items()},
            "rows": self.rows(),
            "ratios": self.ratios(),
        }


def compare_decoders(
    folder: Path,
    work: DecodeWork,
    *,
    rivals: Sequence[str],
    rounds: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> DecodeResult:
    """Raises LtsRayError for what cannot be compared."""
    if not work.submodels or not work.batches or min(work.batches) < 1:
        raise LtsRayError(
            f"decoding needs submodels, and batches of at least 1; got {work.submodels} and {work.batches}"
        )
    model, most = load_checkpoint(folder).model, max(work.batches)
    config = model.config
    if work.length > config.context_length:
        raise LtsRayError(f"prompt and response are {work.length} tokens; the model takes {config.context_length}")
    submodels = {name: config.submodel(name) for name in work.submodels}
    steps = StepPython()
    with torch_threads(work.threads), tempfile.TemporaryDirectory() as scratch:
        bandwidth = read_bandwidth(threads=work.threads)
        runtime = build_runtime(model, n_blocks=blocks_for_batch(most, work.length), threads=work.threads)
        costs = measure_step_costs(runtime)
        with (
            open_rivals(rivals, folder, work, Path(scratch)) as others,
            open_ours(runtime, costs, submodels, work, observer=steps) as ours,
            steps.beside_kernels(),
        ):
            times = time_decoding(
                ours | others,
                random_prompts(config, count=most, tokens=work.prompt_tokens, seed=seed),
                work,
                rounds=rounds,
                progress=progress,
            )
        bandwidth = max(bandwidth, read_bandwidth(threads=work.threads))  # either moment may be a slow one
    context = work.prompt_tokens + work.new_tokens // 2
    return DecodeResult(
        times=times,
        step_bytes={
            (name, batch): step_bytes(config, submodel, batch=batch, context=context)
            for name, submodel in submodels.items()
            for batch in work.batches
        },
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


def step_bytes(config: MatFormerConfig, submodel: Submodel, *, batch: int, context: int) -> int:
    """What a step has to read in float32: all layers, the output matrix, and keys and values of `context` tokens."""
    weights = config.decoder_params(submodel) + config.vocab_size * config.d_model
    cached = 2 * config.n_layer * config.n_kv_head * config.d_head * context
    return 4 * (weights + batch * cached)


def random_prompts(config: MatFormerConfig, *, count: int, tokens: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    prompts: list[list[int]] = torch.randint(config.vocab_size, (count, tokens), generator=generator).tolist()
    return prompts


def decode(
    model: Model = DEFAULT_MODEL,
    batch: Annotated[str, typer.Option(help="Sequences at once, separated by commas.")] = "1,4,8,16",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, drawn at random.")] = 32,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a response.")] = 64,
    submodels: Annotated[str, typer.Option(help="Granularities or fractions, separated by commas.")] = "M,L,XL",
    rivals: Annotated[
        str,
        typer.Option(
            help="Other libraries: transformers, transformers-cb, ctranslate2, separated by commas; empty for none."
        ),
    ] = "transformers,transformers-cb,ctranslate2",
    threads: Annotated[int, typer.Option(min=1, help="Threads that each library decodes on.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each response is timed in; the median counts.")] = 3,
    output: OutputFile = None,
    seed: Seed = 0,
) -> None:
    """Decoding in float32: this engine beside transformers and CTranslate2, same weights and prompts, taking turns."""
    try:
        batches = [int(number) for number in names_of(batch)]
    except ValueError:
        raise LtsRayError(f"--batch is numbers separated by commas; got {batch!r}") from None
    work = DecodeWork(
        submodels=names_of(submodels),
        batches=batches,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
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
            progress=progress,
        )
    machine = result.machine
    print(f"{machine.cpu}, {threads} of {machine.cores} cores; reads {result.bandwidth / 1e9:.1f} GB/s")
    print(
        f"{', '.join(f'{name} {version}' for name, version in result.versions.items())}; float32; seed {seed}; "
        f"commit {machine.commit or 'unknown'}; prompts of {prompt_tokens} tokens, responses of {new_tokens}"
    )
    print_rows(result.rows(), as_json=False, title=f"steps of decoding, median of {rounds} rounds")
    for what, ratio in result.ratios().items():
        print(f"{what}: {ratio:.2f}")
    if result.prediction_error is not None:
        print(f"the engine's steps took what was predicted within {100 * result.prediction_error:.1f} % (median)")
    for rows, cpu_ms in result.step_python_ms.items():
        print(f"beside the kernels the engine's thread needs {cpu_ms:.3f} ms of CPU time for a step of {rows} rows")
    if output is not None:
        write_json(output, result.to_json())
    print(json.dumps(result.to_json()))


if __name__ == "__main__":
    run_benchmark(decode)
