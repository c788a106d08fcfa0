"""`python -m benchmarks.decode`: tokens a second, ours and other libraries', and the share of the memory's speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import Model, Seed
from lts_ray.pretrained import DEFAULT_MODEL


def decode(
    model: Model = DEFAULT_MODEL,
    batch: Annotated[str, typer.Option(help="Sequences at once, separated by commas.")] = "1,4,8,16",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, drawn at random.")] = 32,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a response.")] = 64,
    submodels: Annotated[str, typer.Option(help="Granularities or fractions, separated by commas.")] = "M,L,XL",
    rivals: Annotated[
        str, typer.Option(help="Separated by commas: transformers, transformers-cb, ctranslate2; empty for none.")
    ] = "transformers,transformers-cb,ctranslate2",
    threads: Annotated[int, typer.Option(min=1, help="Of each library.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each response is timed in; the median counts.")] = 3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the results, as JSON.")] = None,
    seed: Seed = 0,
) -> None:
    """Decoding in float32: this engine beside transformers and CTranslate2, same weights and prompts, taking turns."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.decode_engine import run
    from lts_ray.console import print_rows
    from lts_ray.errors import LtsRayError
    from lts_ray.files import write_json

    console = Console(stderr=True)
    try:
        batches = [int(each) for each in _names(batch)]
    except ValueError:
        raise LtsRayError(f"--batch is numbers separated by commas; got {batch!r}") from None
    with Progress(console=console, transient=True) as shown:
        task = shown.add_task("preparing", total=None)
        result = run(
            model,
            submodels=_names(submodels),
            rivals=_names(rivals),
            batches=batches,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            threads=threads,
            rounds=rounds,
            seed=seed,
            say=lambda line: console.print(line, markup=False, highlight=False),
            progress=lambda done, total: shown.update(task, description="decoding", completed=done, total=total),
        )
    machine = result.machine
    print(f"{machine.cpu}, {threads} of {machine.cores} cores; reads {result.bandwidth / 1e9:.1f} GB/s")
    print(
        f"{', '.join(f'{name} {version}' for name, version in result.versions.items())}; float32; seed {seed}; "
        f"commit {machine.commit or 'unknown'}; prompts of {prompt_tokens} tokens, responses of {new_tokens}"
    )
    rows = [
        {
            "submodel": row.way.submodel,
            "batch": row.batch,
            "decoded by": row.way.engine,
            "tokens/s": row.tokens_per_second,
            "ms a step": row.step_ms,
            "MB a step": row.step_bytes / 1e6,
            "of the bandwidth, %": 100 * result.bandwidth_share(row),
            "same tokens, %": 100 * row.agreement,
        }
        for row in sorted(result.rows, key=lambda row: (result.submodels.index(row.way.submodel), row.batch))
    ]
    print_rows(rows, as_json=False, title=f"steps of decoding, median of {rounds} rounds")
    for wanted in result.wanted():
        print(wanted)
    if result.prediction_error is not None:
        print(f"the engine's steps took what was predicted within {100 * result.prediction_error:.1f} % (median)")
    found = result.to_json()
    if output is not None:
        write_json(output, found)
    print(json.dumps(found))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
