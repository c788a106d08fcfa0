"""`lts-ray`: one function a verb. Each parses, calls and prints; libraries that load slowly are imported when used."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.errors import LtsRayError
from lts_ray.pretrained import DEFAULT_MODEL

app = typer.Typer(
    name="lts-ray",
    help="Train one nested Transformer, search its submodels on real hardware, and serve the right one per request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[Path, typer.Option("--model", "-m", help="Checkpoint folder; default: the model that ships.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what --output holds.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster; default: RAY_ADDRESS, else a local one.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines instead of a table.")]
Text = Annotated[
    str | None, typer.Option(help="Text file or glob, used whole; default: what training held out of --corpus.")
]
Corpus = Annotated[str, typer.Option(help="Corpus whose held-out documents are the text.")]
SUBMODEL = "S, M, L, XL, a fraction such as 0.5, or one width per layer such as 352,704,2816"


class QualityName(StrEnum):
    validation_loss = "validation_loss"
    decoder_params = "decoder_params"


class LatencyName(StrEnum):
    prefill = "prefill"
    decode = "decode"
    both = "both"


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("runs/quickstart"),
) -> None:
    """Train on, search, serve and ask: the whole way in a few minutes. Run again, it goes on where it stopped."""
    from lts_ray.quickstart import run_quickstart

    run_quickstart(output)


@app.command()
def train(
    output: Output,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with model, data and training.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this checkpoint's weights and tokenizer.")] = None,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Train a universal model with the MatFormer joint objective; the checkpoint is OUTPUT/model."""
    from dataclasses import replace

    from lts_ray.training.settings import RunSettings, load_settings
    from lts_ray.training.trainer import run_training

    settings = RunSettings() if config is None else load_settings(config)
    if init_from is not None:
        settings = replace(settings, init_from=str(init_from))
    model = run_training(settings, output, resume=resume, address=address)
    print(f"The checkpoint is in {os.path.relpath(model)}; its log is {output / 'metrics.jsonl'}")


@app.command()
def search(
    targets: Annotated[Path, typer.Option("--targets", "-t", help="YAML list of kinds of node to measure on.")],
    output: Output,
    model: Model = DEFAULT_MODEL,
    space: Annotated[str, typer.Option(help="What to search.")] = "mix-n-match",
    evaluations: Annotated[int, typer.Option(help="Candidates to evaluate.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the search; the same seed asks for the same candidates.")] = 0,
    quality: Annotated[QualityName, typer.Option(help="What stands for quality.")] = QualityName.validation_loss,
    latency: Annotated[LatencyName, typer.Option(help="Which latency is an objective.")] = LatencyName.decode,
    text: Text = None,
    corpus: Corpus = "sotu",
    blocks: Annotated[int, typer.Option(min=1, help="Sequences of text to measure the loss on.")] = 16,
    simulate: Annotated[bool, typer.Option("--simulate", help="One simulated node per target, here.")] = False,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Search for the submodels worth running on each target; writes frontier.json and report.html."""
    from contextlib import nullcontext

    from lts_ray.evaluation.evaluate import evaluation_blocks
    from lts_ray.measurement.target import load_targets
    from lts_ray.search.run import run_search
    from lts_ray.search.settings import SearchSettings
    from lts_ray.simulated_cluster import nodes_for, simulated_cluster

    settings = SearchSettings(evaluations=evaluations, seed=seed, quality=quality.value, latency=latency.value)
    chosen = load_targets(targets)
    data = evaluation_blocks(model, text=text, corpus=corpus, count=blocks) if quality == "validation_loss" else None
    with simulated_cluster(nodes_for(chosen)) if simulate else nullcontext(address) as where:
        frontier = run_search(
            model_dir=model,
            space=space,
            targets=chosen,
            settings=settings,
            validation_blocks=data,
            output=output,
            resume=resume,
            address=where,
        )
    for target in frontier.targets:
        print(f"{target}: {len(frontier.front(target))} submodels on the front")
    print(f"The frontier is {output / 'frontier.json'}; the report is {output / 'report.html'}")


@app.command()
def measure(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", "-s", help=SUBMODEL)] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    sequence_length: Annotated[
        int, typer.Option(min=1, help="Tokens of the prefill, and before the decode step.")
    ] = 192,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    as_json: Json = False,
) -> None:
    """Measure submodels on this machine: prefill, one decode step with KV cache, and peak memory."""
    from lts_ray.measurement.measure import measure_submodels
    from lts_ray.measurement.target import Target
    from lts_ray.models.checkpoint import load_checkpoint
    from lts_ray.report.table import print_rows

    universal = load_checkpoint(model).model
    names = submodel or list(universal.config.granularities)
    target = Target(
        name="here",
        local=True,
        threads=threads,
        device=device,
        dtype=dtype,
        sequence_length=sequence_length,
        batch_size=batch_size,
    )
    measured = measure_submodels(universal, [universal.config.submodel(name) for name in names], target)
    rows = [
        {
            "submodel": name,
            "prefill_ms": each.prefill.median_ms,
            "prefill_iqr_ms": each.prefill.iqr_ms,
            "decode_ms": each.decode.median_ms,
            "decode_iqr_ms": each.decode.iqr_ms,
            "peak_memory_mb": each.peak_memory_bytes / 1e6,
        }
        for name, each in zip(names, measured, strict=True)
    ]
    print_rows(rows, as_json=as_json, title=f"batch {batch_size}, {sequence_length} tokens, {threads} threads, {dtype}")


@app.command()
def evaluate(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", "-s", help=SUBMODEL)] = None,
    text: Text = None,
    corpus: Corpus = "sotu",
    blocks: Annotated[int | None, typer.Option(min=1, help="Sequences to evaluate on; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Loss and perplexity of submodels on a text."""
    from rich.progress import track

    from lts_ray.evaluation.evaluate import evaluate as run
    from lts_ray.models.checkpoint import read_config
    from lts_ray.report.table import print_rows

    names = submodel or list(read_config(model)[0].granularities)
    results = run(model, names, text=text, corpus=corpus, blocks=blocks)
    rows = [
        {
            "submodel": each.name,
            "widths": each.submodel.to_json(),
            "decoder_params": each.decoder_params,
            "loss_nats": each.loss,
            "perplexity": each.perplexity,
            "tokens": each.tokens,
        }
        for each in track(results, "evaluating", total=len(names), transient=True, disable=as_json)
    ]
    print_rows(rows, as_json=as_json)


@app.command()
def extract(
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)],
    output: Output,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Write a submodel as a checkpoint of its own."""
    from lts_ray.models.extract import extract_checkpoint

    chosen = extract_checkpoint(model, submodel, output)
    loads = (
        "plain transformers loads it" if len(set(chosen.widths)) == 1 else "its widths differ, so only lts-ray loads it"
    )
    print(f"The submodel {','.join(map(str, chosen.widths))} is in {output}; {loads}")


@app.command()
def generate(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to go on with.")],
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)] = "XL",
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the most likely tokens that reach this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Continue a prompt with one submodel, printed as it is generated."""
    import torch

    from lts_ray.decoding.generate import generate as run
    from lts_ray.decoding.sampling import Sampling
    from lts_ray.models.checkpoint import load_checkpoint
    from lts_ray.tokenizer import load_tokenizer

    universal = load_checkpoint(model).model
    tokenizer = load_tokenizer(model)
    tokens = run(
        universal,
        tokenizer.encode(prompt),
        submodel=universal.config.submodel(submodel),
        max_tokens=max_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p),
        eos_id=tokenizer.eos_id,
        generator=torch.Generator().manual_seed(seed),
    )
    stream = tokenizer.stream()
    print(prompt, end="", flush=True)
    for token in tokens:
        print(stream.step(token) or "", end="", flush=True)
    print()


@app.command()
def report(
    results: Annotated[Path, typer.Option("--search", help="Folder that `lts-ray search` wrote, finished or not.")],
    model: Model = DEFAULT_MODEL,
) -> None:
    """Draw a search's report.html again from its log."""
    from lts_ray.report.html import write_report
    from lts_ray.search.reopen import read_session

    path = results / "report.html"
    write_report(read_session(results, model_dir=model), path)
    print(f"The report is {path}")


def main() -> None:
    """Run a verb. A problem the user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except LtsRayError as error:
        print(f"lts-ray: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
