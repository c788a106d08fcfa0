"""`lts-ray generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from lts_ray.cli.options import SUBMODEL, DeviceName, Model, Seed
from lts_ray.pretrained import DEFAULT_MODEL


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
    device: DeviceName = "auto",
) -> None:
    """Continue a prompt with one submodel, or with one that drafts for another.

    One in int8 or int4 (S@int8) computes in float32 with what its weights stand for: these tokens, not that speed.
    Text is printed as it is generated. With --draft, a line on stderr says how many drafted tokens stood, or why
    none was drafted.
    """
    from itertools import tee

    from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
    from lts_ray.checkpoints.universal import load_universal, read_universal
    from lts_ray.decoding.draft_costs import adaptive_length
    from lts_ray.decoding.draft_length import ADAPTIVE, Adaptive, DraftLength, FixedLength, parse_length
    from lts_ray.decoding.drafter import check_draft
    from lts_ray.decoding.plain_loop import generate as run
    from lts_ray.decoding.sampling import Sampling
    from lts_ray.decoding.speculative import Round, Statistics, speculate, tokens_of
    from lts_ray.device import device_here
    from lts_ray.errors import LtsRayError
    from lts_ray.seeds import seeded_generator

    if draft is None and draft_length is not None:
        raise LtsRayError("--draft-length is how much --draft drafts: give both")
    length, there = parse_length(draft_length or ADAPTIVE), device_here(device, what="--device")
    tokenizer = load_model_tokenizer(model, vocab_size=read_universal(model)[0].vocab_size)
    checkpoint = load_universal(model, device=there)
    config = checkpoint.model.config
    prompt_ids, chosen = tokenizer.encode(prompt), config.submodel(submodel)
    universal, plain = checkpoint.run_by(chosen)
    generator = seeded_generator(seed)
    wanted: dict[str, Any] = {
        "submodel": plain,
        "max_tokens": max_tokens,
        "sampling": Sampling(temperature=temperature, top_p=top_p),
    }
    drafted: Iterable[Round] = ()
    if draft is None:
        tokens = run(universal, prompt_ids, **wanted, eos_ids=tokenizer.eos_ids, generator=generator)
    else:
        drafter = config.submodel(draft)
        check_draft(drafter, chosen)
        wanted["draft_model"], wanted["draft"] = checkpoint.run_by(drafter)
        rule: DraftLength = (
            FixedLength(length) if isinstance(length, int) else adaptive_length(universal, prompt_ids, **wanted)
        )
        rounds, drafted = tee(
            speculate(universal, prompt_ids, **wanted, length=rule, eos_ids=tokenizer.eos_ids, generator=generator)
        )
        tokens = tokens_of(rounds)
    stream = tokenizer.stream(prompt_ids)
    print(prompt, end="", flush=True)
    for token in tokens:
        print(stream.step(token), end="", flush=True)
    print(stream.finish())
    if draft is not None:
        total = Statistics.of([list(drafted)])
        if isinstance(rule, Adaptive) and not rule.tokens:
            said = f"nothing drafted: {rule.costs.reason_not_to_draft}; --draft-length 2 drafts all the same"
        else:
            said = (
                f"{total.drafted} tokens drafted, {total.accepted} accepted; {total.tokens_per_step:.2f} tokens a step"
            )
        print(said, file=sys.stderr)
