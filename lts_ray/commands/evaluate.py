"""The verb that says how good submodels are, and how consistent with the universal model."""

from __future__ import annotations

from typing import Annotated

import typer

from lts_ray.commands.options import SUBMODEL, Corpus, Json, Model, Text
from lts_ray.pretrained import DEFAULT_MODEL


def evaluate(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", "-s", help=SUBMODEL)] = None,
    text: Text = None,
    corpus: Corpus = "sotu",
    blocks: Annotated[int | None, typer.Option(min=1, help="Sequences to evaluate on; default: all.")] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a sequence; default: 512, or a shorter context.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Loss and perplexity of submodels on a text, and their consistency with the universal model.

    Consistency: the share of positions at which both find the same next token most likely, and the KL divergence of
    the submodel's distribution from the universal one's, in nats per token.
    """
    from rich.console import Console
    from rich.progress import Progress

    from lts_ray.evaluation.evaluate import evaluate as run
    from lts_ray.models.checkpoint import read_config
    from lts_ray.report.table import print_rows

    names = submodel or list(read_config(model)[0].granularities)
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as shown:
        task = shown.add_task("evaluating", total=None)
        results = run(
            model,
            names,
            text=text,
            corpus=corpus,
            blocks=blocks,
            length=length,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    rows = [
        {
            "submodel": each.name,
            "widths": each.submodel.to_json(),
            "decoder_params": each.decoder_params,
            "loss_nats": each.loss,
            "perplexity": each.perplexity,
            "consistency": each.agreement,
            "kl_nats": each.kl,
            "tokens": each.tokens,
        }
        for each in results
    ]
    print_rows(rows, as_json=as_json)
