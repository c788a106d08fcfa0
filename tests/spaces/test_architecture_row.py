from __future__ import annotations

import json
from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces import opt_space as opt
from lts_ray.spaces import transformer_xl_space as transformer_xl
from lts_ray.spaces.architecture_row import ArchitectureRow, read_rows

ROW = {"id": "a", "d_model": 8, "n_head": [2, 2], "d_inner": [16, 24], "d_embed": 4, "div_val": 2, "n_token": 50_000}


def test_a_row_keeps_what_it_has_and_gets_its_counts() -> None:
    """By hand: attention 4·64 + 32, two norms 32, FFNs 2·8·16 + 24 and 2·8·24 + 32, final norm 16.

    Vocabulary: clusters of 19,997, 20,000 and 10,003 words with rows of 4, 2 and 1; a projection of 8·4 in and out
    of the first, 8·2 and 8·1 for the others; 50,000 biases; two cluster rows of 4 and a bias. 192 positions of 8.
    """
    row = ArchitectureRow.parse(json.dumps(ROW)).counted(gpt2.SPACE)
    decoder = 2 * (4 * 64 + 32 + 32) + (256 + 24) + (384 + 32) + 16
    assert row["decoder_params"] == decoder
    embedding = 19_997 * 4 + 20_000 * 2 + 10_003 + 32 + 32 + 16 + 8 + 50_000 + 2 * 5 + 192 * 8
    assert row["total_params"] == decoder + embedding
    assert ROW.items() <= row.items()


def test_a_transformer_xl_row_has_relative_positions_and_biases() -> None:
    row = ArchitectureRow.parse(json.dumps({**ROW, "n_token": 19_000})).counted(transformer_xl.SPACE)
    assert row["decoder_params"] == 2 * (5 * 64 + 16 + 32) + (256 + 24) + (384 + 32)
    assert row["total_params"] == row["decoder_params"] + 19_000 * 4 + 2 * 32 + 19_000  # one cluster


def test_an_opt_row_has_one_value_for_all_layers() -> None:
    row = ArchitectureRow.parse('{"n_layer": 3, "d_model": 8, "n_head": 2, "d_inner": 16}').counted(opt.SPACE)
    assert row["decoder_params"] == 3 * (4 * 72 + 256 + 24 + 32) + 2050 * 8


def test_what_is_there_already_is_counted_anew_but_a_total_is_kept() -> None:
    row = ArchitectureRow.parse(json.dumps({**ROW, "decoder_params": 1, "total_params": 2})).counted(gpt2.SPACE)
    assert row["decoder_params"] > 1
    assert row["total_params"] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl, line 7: not JSON"),
        ("[1]", "rows.jsonl, line 7: a row is a JSON object"),
        ('{"d_model": 8}', "rows.jsonl, line 7: an architecture needs n_head, d_inner"),
        (json.dumps({**ROW, "n_token": 0}), "line 7: n_token must be a positive whole number"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(5 * f"{json.dumps(ROW)}\n" + f"\n{line}\n")
    with pytest.raises(LtsRayError, match=message):
        list(read_rows(path, lambda row: row.counted(gpt2.SPACE)))
