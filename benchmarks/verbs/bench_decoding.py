"""`python -m benchmarks.speculation` and `python -m benchmarks.confidence`."""

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


class Measure(StrEnum):
    margin = "margin"
    entropy = "entropy"


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


def confidence(
    model: Model = DEFAULT_MODEL,
    small: Annotated[list[str] | None, typer.Option("--small", "-s", help=f"{SUBMODEL}; default: S, M.")] = None,
    share: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="Of universal tokens; default: 0.1, 0.2, 0.3, 0.5.")
    ] = None,
    measure: Annotated[Measure, typer.Option(help="Of how sure the small one is.")] = Measure.margin,
    blocks: Annotated[int, typer.Option(min=1, help="Sequences to take the loss on.")] = 8,
    calibration_blocks: Annotated[int, typer.Option(min=1, help="Other sequences to choose thresholds on.")] = 4,
    block_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 256,
    responses: Annotated[int, typer.Option(min=1, help="To time.")] = 4,
    prompt_tokens: PromptTokens = 32,
    tokens: Annotated[int, typer.Option(min=2, help="Of a timed response.")] = 48,
    repeats: Repeats = 3,
    text: Text = None,
    corpus: Corpus = "sotu",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Confidence routing: loss and time where the universal model takes the tokens that a small one is unsure of."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.confidence import run
    from lts_ray.console import print_rows
    from lts_ray.errors import LtsRayError
    from lts_ray.evaluation.text_quality import evaluation_blocks
    from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
    from lts_ray.spaces.least_slope import nearest
    from lts_ray.timing import torch_threads

    universal = load_checkpoint(model).model
    every = evaluation_blocks(model, text=text, corpus=corpus, count=None, length=block_tokens)
    if len(every) < blocks + calibration_blocks:
        raise LtsRayError(
            f"the text has {len(every)} sequences, fewer than --blocks and --calibration-blocks together; ask for fewer"
        )
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    with torch_threads(threads), Progress(console=Console(stderr=True), transient=True) as shown:
        tasks = {stage: shown.add_task(stage, total=None) for stage in ("calibrating", "reading", "decoding")}
        result = run(
            universal,
            every[order[blocks : blocks + calibration_blocks]],
            every[order[:blocks]],
            small=small or ("S", "M"),
            shares=share or (0.1, 0.2, 0.3, 0.5),
            fixed=[nearest(universal.config, size) for size in (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)],
            measure=measure.value,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            responses=responses,
            repeats=repeats,
            seed=seed,
            progress=lambda stage, done, total: shown.update(tasks[stage], completed=done, total=total),
        )
    quality = ("loss", "agreement", "kl", "universal_share", "token_ms")
    found = result.to_json()
    print_rows(
        [{"of its neurons": each["relative_size"], **{key: each[key] for key in quality}} for each in found["fixed"]],
        as_json=False,
        title=f"Fixed submodels, over {result.tokens} tokens; {threads} of {os.cpu_count()} threads",
    )
    print_rows(
        [
            {
                "small": each["small"],
                "threshold": each["threshold"],
                **{key: each[key] for key in quality},
                "fixed loss": each["fixed_loss"],
                "gain": each["gain"],
            }
            for each in found["pairs"]
        ],
        as_json=False,
        title="Routed; fixed loss: of fixed submodels that take the same time, gain: what routing is better by",
    )
    print(json.dumps(found))
