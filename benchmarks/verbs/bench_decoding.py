"""`python -m benchmarks.speculation`."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from typing import Annotated

import typer

from lts_ray.cli.options import SUBMODEL, Corpus, Model, Seed, Text
from lts_ray.pretrained import DEFAULT_MODEL

Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]
Repeats = Annotated[int, typer.Option(min=1, help="Turns that every response is timed in; the median counts.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Tokens of a prompt, from the text.")]


class Sharing(StrEnum):
    both = "both"
    shared = "shared"
    separate = "separate"


def speculation(
    model: Model = DEFAULT_MODEL,
    draft: Annotated[list[str] | None, typer.Option("--draft", "-d", help=f"{SUBMODEL}; default: S, M, L.")] = None,
    verifier: Annotated[str, typer.Option(help="The submodel whose tokens are wanted.")] = "XL",
    length: Annotated[
        list[str] | None,
        typer.Option("--length", "-l", help="Tokens to draft, or adaptive; default: 1-4, 6, adaptive."),
    ] = None,
    cache: Annotated[Sharing, typer.Option(help="KV caches of drafter and verifier.")] = Sharing.both,
    prompts: Annotated[int, typer.Option(min=1, help="Responses.")] = 4,
    prompt_tokens: PromptTokens = 64,
    tokens: Annotated[int, typer.Option(min=2, help="Of a response.")] = 48,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the most likely tokens that reach this probability.")] = 1.0,
    draft_vocabulary: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Draft only so many most frequent tokens: of what training read of --corpus, or of the parts of "
            "--text that hold neither prompts nor what follows them. Default: all.",
        ),
    ] = None,
    doubt: Annotated[
        float, typer.Option(min=0, max=1, help="End a draft once the drafter gives it less than this chance to stand.")
    ] = 0.0,
    repeats: Repeats = 3,
    text: Text = None,
    corpus: Corpus = "sotu",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Speculative decoding: what each submodel's drafts gain over the verifier alone, and where they cannot."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.speculation import LENGTHS, run
    from benchmarks.speculation_text import choose_text, training_tokens
    from lts_ray.console import print_rows
    from lts_ray.decoding.draft_length import parse_length
    from lts_ray.decoding.sampling import Sampling
    from lts_ray.evaluation.text_quality import evaluation_blocks
    from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
    from lts_ray.timing import torch_threads

    lengths = [parse_length(each) for each in length] if length else LENGTHS
    universal = load_checkpoint(model).model
    chosen = choose_text(
        evaluation_blocks(model, text=text, corpus=corpus, count=None, length=prompt_tokens + tokens),
        prompts=prompts,
        prompt_tokens=prompt_tokens,
        draft_vocabulary=draft_vocabulary,
        counted=training_tokens(model, corpus) if draft_vocabulary is not None and text is None else None,
    )
    with torch_threads(threads), Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("decoding", total=None)
        result = run(
            universal,
            chosen,
            drafts=draft or ("S", "M", "L"),
            verifier=verifier,
            lengths=lengths,
            sharing=[shared for shared, name in ((True, "shared"), (False, "separate")) if cache in (name, "both")],
            tokens=tokens,
            sampling=Sampling(temperature=temperature, top_p=top_p),
            doubt=doubt,
            repeats=repeats,
            seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    found = result.to_json()
    alone = f"{verifier} alone: {result.token_ms:.2f} ms a token, {threads} of {os.cpu_count()} threads"
    rows = [
        {
            "draft": row["draft"],
            "cache": "shared" if row["shared"] else "separate",
            "length": row["length"],
            "acceptance": row["acceptance"],
            "tokens a step": row["tokens_per_step"],
            "speed": row["speed"],
            "predicted": row["predicted_speed"],
        }
        for row in found["rows"]
    ]
    print_rows(rows, as_json=False, title=f"Speed over {alone}")
    costs = [
        {
            "draft": name,
            "a drafted token": each["draft"],
            **{f"verify {count}": each["verify"][count] for count in range(1, len(each["verify"]))},
            "acceptance to gain": "never" if each["break_even"] is None else each["break_even"],
        }
        for name, each in found["costs"].items()
    ]
    print_rows(costs, as_json=False, title=f"Costs, in steps of {verifier}")
    for name in result.costs:
        gain = result.sharing_gain(name)
        if gain is not None:
            print(f"{name}: a shared cache is {gain:.2f}x as fast as separate ones (median over the lengths)")
    print("\n".join(result.verdicts()))
    print(json.dumps(found))
