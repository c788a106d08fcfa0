from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.gpt2 import GPT2
from lts_ray.proxies.agreement import spearman
from lts_ray.proxies.proxy_table import KNOWN, Live, Trained, compare_proxies, read_trained
from lts_ray.proxies.zero_cost import random_batch
from lts_ray.spaces import gpt2_space as gpt2
from tests.proxies.tables import draw_architectures, loss_of

SIZES = ((8, 1, 16), (8, 3, 16), (16, 2, 40), (16, 4, 64), (32, 3, 64), (32, 5, 128))
SMALL = [
    Trained(architecture=Architecture(d_model=d, n_head=(2,) * n, d_inner=(f,) * n, d_embed=d), truth=100 / (d * n))
    for d, n, f in SIZES
]


def build(architecture: Architecture) -> nn.Module:
    model = GPT2(architecture, vocab_size=30, context_length=8)
    model.initialize(torch.Generator().manual_seed(0))
    return model


def live(limit: int | None = None) -> Live:
    tokens = random_batch(30, rows=3, length=6, generator=torch.Generator().manual_seed(0))
    return Live(build=build, tokens=tokens, limit=limit)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def table(count: int = 80) -> list[Trained]:
    return [Trained(architecture=each, truth=math.exp(loss_of(each))) for each in draw_architectures(count, rng())]


def test_parameter_proxies_are_the_counts_of_the_space() -> None:
    rows = table()
    decoder, total = compare_proxies(rows, ["decoder_params", "total_params"], space=gpt2.SPACE, rng=rng())
    truth = [-row.truth for row in rows]
    counts = [gpt2.SPACE.decoder_params(row.architecture) for row in rows]
    assert decoder.spearman == pytest.approx(spearman(counts, truth))
    totals = [gpt2.SPACE.count_total_params(row.architecture, vocab_size=50_264) for row in rows]
    assert total.spearman == pytest.approx(spearman(totals, truth))
    assert (decoder.rows, decoder.flops) == (80, 0)
    assert decoder.common_ratios[100] == 1


def test_a_rows_own_vocabulary_counts_in_its_total_parameters() -> None:
    rows = [replace(row, vocab_size=size) for row, size in zip(table(6), (900, 800, 700, 600, 500, 400), strict=True)]
    (found,) = compare_proxies(rows, ["total_params"], space=gpt2.SPACE, rng=rng())
    totals = [gpt2.SPACE.count_total_params(row.architecture, vocab_size=row.vocab_size or 0) for row in rows]
    assert found.spearman == pytest.approx(spearman(totals, [-row.truth for row in rows]))


def test_few_shot_is_judged_on_rows_that_it_was_not_fitted_on_and_beats_the_counts() -> None:
    decoder, few_shot = compare_proxies(
        table(), ["decoder_params", "few_shot"], space=gpt2.SPACE, rng=rng(), few_shot_rows=40
    )
    assert few_shot.rows == 40
    assert few_shot.spearman > decoder.spearman


def test_live_proxies_build_at_most_the_limit_and_report_progress() -> None:
    calls: list[tuple[str, int, int]] = []
    found = compare_proxies(
        SMALL,
        ["snip", "relu_log_det"],
        space=gpt2.SPACE,
        rng=rng(),
        live=live(limit=4),
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(name, done, 4) for name in ("snip", "relu_log_det") for done in (1, 2, 3, 4)]
    assert all(each.rows == 4 and each.flops > 0 for each in found)


def test_a_live_proxy_that_grows_with_size_agrees_with_a_truth_that_does() -> None:
    (found,) = compare_proxies(SMALL, ["snip"], space=gpt2.SPACE, rng=rng(), live=live())
    assert found.spearman > 0.8


def test_what_is_drawn_does_not_depend_on_what_else_is_asked() -> None:
    alone = compare_proxies(table(), ["few_shot"], space=gpt2.SPACE, rng=rng(), few_shot_rows=20)
    together = compare_proxies(table(), ["total_params", "few_shot"], space=gpt2.SPACE, rng=rng(), few_shot_rows=20)
    assert together[1:] == alone


def test_agreement_within_one_d_model_is_given_where_there_are_enough_rows() -> None:
    """20 rows of d_model 8, and 19 of 16: those are too few."""
    sizes = [(8, n, f) for n in (1, 2) for f in range(16, 26)] + [(16, 1, f) for f in range(32, 51)]
    architectures = [Architecture(d_model=d, n_head=(2,) * n, d_inner=(f,) * n, d_embed=d) for d, n, f in sizes]
    rows = [Trained(architecture=each, truth=1 / gpt2.SPACE.decoder_params(each)) for each in architectures]
    (found,) = compare_proxies(rows, ["decoder_params"], space=gpt2.SPACE, rng=rng())
    assert found.within_d_model == {8: pytest.approx(1)}
    upside_down = [replace(row, truth=1 / row.truth) for row in rows[:20]] + rows[20:]
    (other,) = compare_proxies(upside_down, ["decoder_params"], space=gpt2.SPACE, rng=rng())
    assert other.within_d_model == {8: pytest.approx(-1)}


def test_an_agreement_is_json() -> None:
    (found,) = compare_proxies(SMALL, ["decoder_params"], space=gpt2.SPACE, rng=rng())
    value = json.loads(json.dumps(found.to_json()))
    assert value["proxy"] == "decoder_params"
    assert value["common_ratios"]["100"] == 1


def test_a_table_is_read_with_the_named_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"d_model": 8, "n_head": [2, 2], "d_inner": [16, 32], "n_token": 99, "test_perplexity": 20.5, "other": 1},
        {"d_model": 16, "n_head": 2, "d_inner": 64, "n_layer": 3, "test_perplexity": 18},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")  # no newline at the end
    first, second = read_trained(path, truth="test_perplexity")
    assert first == Trained(
        architecture=Architecture(d_model=8, n_head=(2, 2), d_inner=(16, 32), d_embed=8), truth=20.5, vocab_size=99
    )
    assert second.architecture.d_inner == (64, 64, 64)
    assert second.vocab_size is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"d_model": 8}', "rows.jsonl, line 2: an architecture needs n_head, d_inner"),
        ("not json", "rows.jsonl, line 2: not JSON"),
        (
            '{"d_model": 8, "n_head": [2], "d_inner": [9]}',
            "line 2: the column valid_perplexity must be a positive number",
        ),
        (
            '{"d_model": 8, "n_head": [2], "d_inner": [9], "n_token": "many", "valid_perplexity": 3}',
            "rows.jsonl, line 2: n_token must be a positive whole number",
        ),
    ],
    ids=["architecture", "json", "truth", "vocabulary"],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    good = '{"d_model": 8, "n_head": [2], "d_inner": [9], "valid_perplexity": 3}'
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(LtsRayError, match=message):
        read_trained(path, truth="valid_perplexity")


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="does not exist"):
        read_trained(tmp_path / "none.jsonl", truth="valid_perplexity")
    with pytest.raises(LtsRayError, match=f"unknown proxy magic; known: {', '.join(KNOWN)}"):
        compare_proxies(SMALL, ["magic"], space=gpt2.SPACE, rng=rng())
    with pytest.raises(LtsRayError, match="snip runs models"):
        compare_proxies(SMALL, ["snip"], space=gpt2.SPACE, rng=rng())
    with pytest.raises(LtsRayError, match="fitted on 50 rows and judged on others; the table has 6"):
        compare_proxies(SMALL, ["few_shot"], space=gpt2.SPACE, rng=rng())
    with pytest.raises(LtsRayError, match="two or more rows; got 1"):
        compare_proxies(SMALL[:1], ["decoder_params"], space=gpt2.SPACE, rng=rng())
    with pytest.raises(LtsRayError, match="limit of 2 or more"):
        live(limit=1)
    other = replace(live(), build=lambda _architecture: nn.Linear(2, 2))
    with pytest.raises(LtsRayError, match="needs a backbone; build made a Linear"):
        compare_proxies(SMALL, ["snip"], space=gpt2.SPACE, rng=rng(), live=other)
