"""`lts-ray measure`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from lts_ray.cli.options import SUBMODEL, DeviceName, Json, Model
from lts_ray.cli.serve import become
from lts_ray.files import check_output
from lts_ray.pretrained import DEFAULT_MODEL


def measure(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", "-s", help=SUBMODEL)] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    sequence_length: Annotated[
        int, typer.Option(min=1, help="Tokens of the prefill, and before the decode step.")
    ] = 192,
    device: DeviceName = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(show_default="float32 on a CPU, on a GPU bfloat16 where it has it"),
    ] = None,
    step_costs: Annotated[
        Path | None,
        typer.Option(
            help="Instead: file for what steps cost here, how they stray and what a replica's start takes, for "
            "`lts-ray simulate`; of the model with its threads, device and dtype."
        ),
    ] = None,
    precisions: Annotated[
        str, typer.Option(help="Of --step-costs: as `lts-ray serve` has them; none: as it serves the model.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Time submodels on this machine: prefill, a decode step, peak memory."""
    if step_costs is not None:
        check_output(step_costs.parent)
        become("serve.calibrate_command", [str(step_costs), str(model), str(threads), device, dtype or "", precisions])
    from lts_ray.checkpoints.model_tokenizer import check_tokenizer
    from lts_ray.checkpoints.universal import load_universal, read_universal
    from lts_ray.console import print_rows, progress_bars
    from lts_ray.device import device_here, dtype_here
    from lts_ray.measurement.latency import UNSTEADY_MEANS
    from lts_ray.measurement.measurement import measure_submodels
    from lts_ray.runtime.kernel_library import warn_of_missing_kernels
    from lts_ray.submodel import Submodel
    from lts_ray.target import read_target

    check_tokenizer(model, vocab_size=read_universal(model)[0].vocab_size)
    warn_of_missing_kernels()
    checkpoint = load_universal(model)
    universal, quantised = checkpoint.model, checkpoint.quantised
    names = submodel or list(universal.config.granularities)
    sizes = {"threads": threads, "sequence_length": sequence_length, "batch_size": batch_size}
    there = device_here(device, what="--device")
    number = dtype or dtype_here(there)
    target = read_target({"name": "here", "local": True, "device": there, "dtype": number, **sizes})
    submodels = [universal.config.submodel(name) for name in names]
    with progress_bars() as show:

        def told() -> Iterator[Submodel]:
            for place, chosen in enumerate(submodels):
                show("measuring", place, len(submodels))
                yield chosen

        asked = sorted({universal.config.precision_of(chosen) for chosen in submodels})
        measured = measure_submodels(universal, told(), target, precisions=asked, quantised=quantised)
    rows = [
        {
            "submodel": name,
            "prefill_ms": result.prefill.median_ms,
            "prefill_iqr_ms": result.prefill.iqr_ms,
            "decode_ms": result.cost.decode_ms,
            "decode_iqr_ms": None if result.decode is None else result.decode.iqr_ms,
            "peak_memory_mb": result.peak_memory_bytes / 1e6,
            "unsteady": result.unsteady,
        }
        for name, result in zip(names, measured, strict=True)
    ]
    where = f"{threads} threads" if there == "cpu" else "a GPU"
    print_rows(rows, as_json=as_json, title=f"batch {batch_size}, {sequence_length} tokens, {where}, {number}")
    if not as_json and any(result.is_unsteady for result in measured):
        print(f"unsteady: {UNSTEADY_MEANS}")
