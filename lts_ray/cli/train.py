"""`lts-ray train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import Address, Output, Resume, TrainingDevice


def train(
    output: Output,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with model, data and training.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Start from this checkpoint's weights and tokenizer.")] = None,
    architecture: Annotated[
        Path | None, typer.Option(help="architectures.json of a search: train one of its architectures.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Which of --architecture's, e.g. 12.4M.")] = None,
    vocab_size: Annotated[
        int, typer.Option(min=2, max=100_000_000, help="Vocabulary of the tokenizer trained for --architecture.")
    ] = 2_048,
    device: TrainingDevice = None,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Train a nested model, or an architecture that a search found.

    The result is OUTPUT/model. How a nested model's granularities learn, jointly or one a step, from the text alone or
    from a teacher as well, with nested FFNs or independent ones, is --config's to say.
    """
    from dataclasses import replace

    from lts_ray.errors import LtsRayError
    from lts_ray.training.found_architecture import found_architecture
    from lts_ray.training.ray_trainer import run_training
    from lts_ray.training.run_settings import RunSettings, load_run_settings

    settings = RunSettings() if config is None else load_run_settings(config)
    if init_from is not None:
        settings = replace(settings, init_from=str(init_from))
    if architecture is not None:
        chosen = found_architecture(
            architecture, name, vocab_size=vocab_size, context_length=settings.training.sequence_length
        )
        settings = replace(settings, architecture=chosen)
    elif name is not None:
        raise LtsRayError("--name says which of --architecture's to train: give both")
    if device is not None:
        settings = replace(settings, training=replace(settings.training, device=device))
    model = run_training(settings, output, resume=resume, address=address)
    print(f"The checkpoint is in {os.path.relpath(model)}; its log is {output / 'metrics.jsonl'}")
