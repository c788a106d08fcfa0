"""`lts-ray proxies`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lts_ray.cli.options import DeviceName, Json, Seed, listed


def proxies(
    space: Annotated[str, typer.Option(help="gpt2, transformer-xl, opt, bert or t5")],
    rows: Annotated[Path, typer.Option("--input", "-i", help="JSON Lines: trained architectures, one a line.")],
    names: Annotated[
        str, typer.Option("--proxies", help="Separated by commas; all that exist: docs/proxies.md.")
    ] = "decoder_params,total_params,few_shot",
    truth: Annotated[str, typer.Option(help="Column with what training led to; lower is better.")] = "valid_perplexity",
    latency: Annotated[str | None, typer.Option(help="Column with a latency, for d_avg between fronts.")] = None,
    few_shot_rows: Annotated[int, typer.Option(min=4, help="Rows that few_shot is fitted on.")] = 50,
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(help="Rows that live proxies are computed for; default: all.")] = None,
    vocab_size: Annotated[int, typer.Option(min=2, max=10_000_000, help="Of models that live proxies build.")] = 1_000,
    batch_size: Annotated[int, typer.Option(min=2, max=100_000, help="Random sequences that live proxies see.")] = 8,
    length: Annotated[int, typer.Option(min=2, max=100_000, help="Tokens of each.")] = 32,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Compare estimates of quality with what training led to.

    Per estimate: Spearman's rank correlation, how much of the best rows it finds, the distance of the front it chooses
    from the true one (d_avg), and its FLOPs.
    """
    import numpy as np

    from lts_ray.architecture import Architecture
    from lts_ray.console import print_rows, progress_bars
    from lts_ray.device import device_here
    from lts_ray.models.backbones.backbone import Backbone
    from lts_ray.models.backbones.backbone_config import backbone_of
    from lts_ray.proxies.proxy_table import Live, compare_proxies, read_trained
    from lts_ray.proxies.zero_cost import random_batch
    from lts_ray.seeds import seeded_generator
    from lts_ray.spaces.named_spaces import backbone_space

    chosen = backbone_space(space)
    generator, place = seeded_generator(seed), device_here(device, what="--device")

    def build(architecture: Architecture) -> Backbone:
        model = backbone_of(chosen.backbone, architecture, vocab_size, length)
        model.initialize(seeded_generator(seed))
        return model.to(place)

    tokens = random_batch(vocab_size, rows=batch_size, length=length, generator=generator)
    with progress_bars() as progress:
        agreements = compare_proxies(
            read_trained(rows, truth=truth, latency=latency),
            listed(names),
            space=chosen,
            rng=np.random.default_rng(seed),
            few_shot_rows=few_shot_rows,
            live=Live(build=build, tokens=tokens.to(place), limit=limit),
            progress=progress,
        )
    if as_json:
        print_rows([agreement.to_json() for agreement in agreements], as_json=True)
        return
    print_rows(
        [
            {
                "proxy": agreement.proxy,
                "rows": agreement.rows,
                "spearman": agreement.spearman,
                "within d_model": " ".join(
                    f"{d_model}: {rho:.3f}" for d_model, rho in agreement.within_d_model.items()
                ),
                "best 10 %": agreement.common_ratios[10],
                "best 20 %": agreement.common_ratios[20],
                **({} if agreement.front_distance is None else {"d_avg": agreement.front_distance}),
                "flops": f"{agreement.flops:.2e}" if agreement.flops else "0",
            }
            for agreement in agreements
        ],
        as_json=False,
        title=f"agreement with {truth}; best k %: the share in common",
    )
