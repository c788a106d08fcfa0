"""`lts-ray evaluate`: on a text, or on downstream tasks."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import SUBMODEL, Corpus, DeviceName, Json, Model, Text, listed
from lts_ray.pretrained import DEFAULT_MODEL


def evaluate(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[
        list[str] | None,
        typer.Option("--submodel", "-s", help=f"{SUBMODEL}, or a point of --frontier; default: all that have names."),
    ] = None,
    frontier: Annotated[Path | None, typer.Option(help="frontier.json whose points --submodel may name.")] = None,
    text: Text = None,
    corpus: Corpus = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Sequences to evaluate on; default: all.")] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a sequence; default: 512, or a shorter context.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Downstream tasks of lm-evaluation-harness instead of a text: TASK,TASK; see docs/tasks.md."),
    ] = None,
    shots: Annotated[
        list[int] | None, typer.Option(min=0, help="Examples before a question; may be repeated; default: 0.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of a task at most; default: all.")] = None,
    beside: Annotated[
        Path | None, typer.Option(help="A plain transformers checkpoint to run under the same tasks.")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with tasks of your own, in YAML.")] = None,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Say how good submodels are: loss on a text, or scores on tasks.

    On a text, also their perplexity and consistency with the universal model: the share of positions at which both find
    the same next token most likely, and the KL divergence of the submodel's distribution from the universal one's, in
    nats per token.
    """
    import io
    from contextlib import nullcontext, redirect_stderr

    from lts_ray.console import print_rows, progress_bars
    from lts_ray.device import device_here
    from lts_ray.errors import LtsRayError
    from lts_ray.evaluation.harness import check_lm_eval
    from lts_ray.evaluation.text_quality import evaluate as run
    from lts_ray.evaluation.text_quality import text_name

    if tasks is not None:
        if text is not None or blocks is not None or length is not None:
            raise LtsRayError("--tasks bring their own texts: leave out --text, --blocks and --length")
        names = listed(tasks)
        if not names:
            raise LtsRayError(f"--tasks is TASK,TASK; got {tasks!r}")
        check_lm_eval()
        from lts_ray.evaluation.harness.harness_subjects import load_subjects
        from lts_ray.evaluation.harness.task_run import evaluate_tasks, task_manager
        from lts_ray.evaluation.harness.task_score import TaskScore, averages, json_rows, table_rows

        # JSON is printed task by task; lm_eval's own progress bars are shown on a terminal, without --json
        stderr = sys.stderr
        is_watched = stderr.isatty() and not as_json
        with nullcontext() if is_watched else redirect_stderr(io.StringIO()):
            subjects = load_subjects(
                model, submodel, frontier=frontier, beside=beside, device=device_here(device, what="--device")
            )
            scores: list[TaskScore] = []
            for scored in evaluate_tasks(
                subjects.models,
                names,
                manager=task_manager(names, include_path),
                shots=shots or [0],
                limit=limit,
                progress=lambda line: print(line, file=stderr) if is_watched else None,
                left_out=lambda line: print(f"lts-ray: {line}", file=stderr),
            ):
                scores += scored
                if as_json:
                    rows = json_rows([*scored, *averages(scored)], subjects.config, subjects.submodels)
                    print_rows(rows, as_json=True)
        if not as_json:
            print_rows(table_rows([*scores, *averages(scores)]), as_json=False)
        return
    if shots or limit is not None or beside is not None or include_path is not None:
        raise LtsRayError("--shots, --limit, --beside and --include-path are for --tasks: say which tasks")
    with progress_bars() as progress:
        results = run(
            model,
            submodel,
            frontier=frontier,
            text=text,
            corpus=corpus,
            blocks=blocks,
            length=length,
            device=device_here(device, what="--device"),
            progress=partial(progress, "evaluating"),
        )
    print(f"losses are on {text_name(model, text=text, corpus=corpus)}", file=sys.stderr)
    rows = [
        {
            "submodel": result.name,
            **result.submodel.fields(),
            "decoder_params": result.decoder_params,
            "loss_nats": result.loss,
            "perplexity": result.perplexity,
            "consistency": result.agreement,
            "kl_nats": result.kl,
            "tokens": result.tokens,
        }
        for result in results
    ]
    print_rows(rows, as_json=as_json)
