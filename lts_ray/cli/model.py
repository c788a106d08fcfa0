"""Verbs about one model: train, measure, extract, generate."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import SUBMODEL, Address, Json, Model, Output, Resume, Seed
from lts_ray.pretrained import DEFAULT_MODEL


def train(
    output: Output,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with model, data and training.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this checkpoint's weights and tokenizer.")] = None,
    architecture: Annotated[
        Path | None, typer.Option(help="architectures.json of a search: train one of these instead.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Which one, e.g. 12.4M.")] = None,
    vocab_size: Annotated[int, typer.Option(min=2, help="Of the tokenizer trained for --architecture.")] = 2_048,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Train a universal model or a found architecture; OUTPUT/model has it.

    A universal model's granularities learn jointly or drawn one a step, from the text alone or from a teacher as well,
    with nested FFNs or independent ones: --config says which.
    """
    from dataclasses import replace

    from lts_ray.errors import LtsRayError
    from lts_ray.training.found_architecture import found_architecture
    from lts_ray.training.ray_trainer import run_training
    from lts_ray.training.run_settings import RunSettings, load_settings

    settings = RunSettings() if config is None else load_settings(config)
    if init_from is not None:
        settings = replace(settings, init_from=str(init_from))
    if architecture is not None:
        chosen = found_architecture(
            architecture, name, vocab_size=vocab_size, context_length=settings.training.sequence_length
        )
        settings = replace(settings, architecture=chosen)
    elif name is not None:
        raise LtsRayError("--name says which of --architecture's to train: give both")
    model = run_training(settings, output, resume=resume, address=address)
    print(f"The checkpoint is in {os.path.relpath(model)}; its log is {output / 'metrics.jsonl'}")


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
    from lts_ray.checkpoints.universal import load_universal
    from lts_ray.console import print_rows
    from lts_ray.measurement.measurement import measure_submodels
    from lts_ray.target import Target

    universal = load_universal(model).model
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
            "decode_ms": each.cost.decode_ms,
            "decode_iqr_ms": None if each.decode is None else each.decode.iqr_ms,
            "peak_memory_mb": each.peak_memory_bytes / 1e6,
        }
        for name, each in zip(names, measured, strict=True)
    ]
    print_rows(rows, as_json=as_json, title=f"batch {batch_size}, {sequence_length} tokens, {threads} threads, {dtype}")


def extract(
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)],
    output: Output,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Write a submodel as a checkpoint of its own."""
    from lts_ray.checkpoints.extracted import extract_checkpoint

    extracted = extract_checkpoint(model, submodel, output)
    loads = (
        "plain transformers loads it" if extracted.is_plain else "transformers has no such model, so lts-ray loads it"
    )
    print(f"The submodel {extracted.submodel.text} is in {output}; {loads}")


def generate(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to go on with.")],
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)] = "XL",
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the most likely tokens that reach this probability.")] = 1.0,
    seed: Seed = 0,
    draft: Annotated[
        str | None, typer.Option("--draft", "-d", help="A smaller submodel drafts, and --submodel verifies.")
    ] = None,
    draft_length: Annotated[
        str | None,
        typer.Option(
            help="Tokens to draft at a time, or adaptive: what pays here at the acceptance so far, so that sampled "
            "responses differ from run to run. Default: adaptive."
        ),
    ] = None,
) -> None:
    """Continue a prompt with one submodel, printed as it is generated; with --draft, stderr says what the draft did."""
    from itertools import tee

    import torch

    from lts_ray.checkpoints.universal import load_universal
    from lts_ray.decoding.draft_costs import adaptive_length
    from lts_ray.decoding.draft_length import ADAPTIVE, DraftLength, FixedLength, parse_length
    from lts_ray.decoding.plain_loop import generate as run
    from lts_ray.decoding.sampling import Sampling
    from lts_ray.decoding.speculative import Round, Statistics, speculate, tokens_of
    from lts_ray.errors import LtsRayError
    from lts_ray.text.tokenizer import load_tokenizer

    if draft is None and draft_length is not None:
        raise LtsRayError("--draft-length is of what --draft names: give both")
    length = parse_length(draft_length or ADAPTIVE)
    universal = load_universal(model).model
    tokenizer = load_tokenizer(model)
    prompt_ids, chosen = tokenizer.encode(prompt), universal.config.submodel(submodel)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    generator = torch.Generator().manual_seed(seed)
    told: Iterable[Round] = ()
    if draft is None:
        tokens = run(
            universal,
            prompt_ids,
            submodel=chosen,
            max_tokens=max_tokens,
            sampling=sampling,
            eos_id=tokenizer.eos_id,
            generator=generator,
        )
    else:
        small = universal.config.submodel(draft)
        rule: DraftLength = (
            FixedLength(length)
            if isinstance(length, int)
            else adaptive_length(
                universal, prompt_ids, draft=small, submodel=chosen, max_tokens=max_tokens, sampling=sampling
            )
        )
        rounds = speculate(
            universal,
            prompt_ids,
            draft=small,
            submodel=chosen,
            length=rule,
            max_tokens=max_tokens,
            sampling=sampling,
            eos_id=tokenizer.eos_id,
            generator=generator,
        )
        rounds, told = tee(rounds)
        tokens = tokens_of(rounds)
    stream = tokenizer.stream()
    print(prompt, end="", flush=True)
    for token in tokens:
        print(stream.step(token) or "", end="", flush=True)
    print()
    if draft is not None:
        found = Statistics.of([list(told)])
        print(
            f"{found.drafted} tokens drafted, {found.accepted} accepted; {found.tokens_per_step:.2f} tokens a step",
            file=sys.stderr,
        )
