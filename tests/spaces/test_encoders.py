"""What spaces with encoders add: a second stack of layers, and counts of each stack."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_config import model_of
from lts_ray.proxies.layer_design import design
from lts_ray.spaces import bert_space as bert
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.spaces import t5_space as t5
from lts_ray.spaces.architecture_row import ArchitectureRow, read_rows
from lts_ray.spaces.backbone_space import BackboneSpace

ROW = {"d_model": 8, "n_head": [2, 4], "d_inner": [16, 24]}
ENCODER = {"n_layer": 3, "n_head": 2, "d_inner": 20}


def test_a_bert_row_gets_its_encoders_parameters() -> None:
    """By hand: attention 4·64 + 32, two norms 32, FFNs 2·8·16 + 24 and 2·8·24 + 32; 512 positions, 2 types, a norm."""
    row = ArchitectureRow.parse(json.dumps({**ROW, "n_token": 100})).counted(bert.SPACE)
    encoder = 2 * (4 * 64 + 32 + 32) + (256 + 24) + (384 + 32)
    assert row["encoder_params"] == encoder
    assert row["total_params"] == encoder + (100 + 512 + 2 + 2) * 8
    assert "decoder_params" not in row


def test_a_t5_row_gets_the_parameters_of_both_stacks() -> None:
    """By hand: attention 4·64 each, norms of 8, FFNs 2·8·f; 32 buckets for each number of heads; a final norm."""
    row = ArchitectureRow.parse(json.dumps({**ROW, "encoder": ENCODER, "n_token": 100})).counted(t5.SPACE)
    encoder = 3 * (4 * 64 + 2 * 8 * 20 + 2 * 8) + 32 * 2 + 8
    decoder = 2 * (8 * 64 + 3 * 8) + 2 * 8 * (16 + 24) + 32 * (2 + 4) + 8
    assert (row["encoder_params"], row["decoder_params"]) == (encoder, decoder)
    assert row["total_params"] == encoder + decoder + 100 * 8
    assert t5.SPACE.decoder_params(Architecture.from_json(row)) == encoder + decoder  # what stands for quality


@pytest.mark.parametrize("space", [bert.SPACE, t5.SPACE, t5.HOMOGENEOUS], ids=lambda each: str(each.name))
def test_samples_build_and_have_as_many_parameters_as_the_formulas_say(space: BackboneSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        candidate = space.sample(rng)
        with torch.device("meta"):
            model = model_of(space.backbone, candidate, space.vocab_size, 192)
        counts = dict(model.parameter_counts())
        assert space.stack_params(candidate) == {
            f"{name}_params": n for name, n in counts.items() if name != "embedding"
        }
        assert space.count_total_params(candidate, vocab_size=space.vocab_size) == sum(counts.values())


@given(seed=st.integers(0, 2**32))
def test_the_stacks_of_a_t5_have_depths_and_layers_of_their_own(seed: int) -> None:
    space, rng = t5.SPACE, np.random.default_rng(seed)
    parents = space.sample(rng), space.sample(rng)
    child = space.crossover(*parents, rng)
    assert child.encoder is not None
    encoders = [each.encoder for each in parents if each.encoder is not None]
    assert child.encoder.n_layer in {each.n_layer for each in encoders}
    assert child.n_layer in {each.n_layer for each in parents}
    for layer in range(child.encoder.n_layer):
        assert child.encoder.n_head[layer] in {each.n_head[layer] for each in encoders if layer < each.n_layer}
        assert child.encoder.d_inner[layer] in {each.d_inner[layer] for each in encoders if layer < each.n_layer}


def test_samples_differ_in_both_stacks_and_between_them() -> None:
    samples = [t5.SPACE.sample(np.random.default_rng(seed)) for seed in range(10)]
    assert len({each.encoder for each in samples}) == len({each.stacks[0] for each in samples}) == 10
    assert all(each.encoder != each.stacks[0] for each in samples)
    assert any(each.encoder is not None and each.encoder.n_layer != each.n_layer for each in samples)


def test_a_homogeneous_t5_has_one_layer_for_both_stacks() -> None:
    space, rng = t5.HOMOGENEOUS, np.random.default_rng(3)
    first, second = space.sample(rng), space.sample(rng)
    for candidate in (first, *space.seeds(), space.mutate(first, rng, 0.5), space.crossover(first, second, rng)):
        assert candidate.encoder == candidate.stacks[0]
        assert len(set(candidate.n_head)) == len(set(candidate.d_inner)) == 1
    uneven = replace(first, encoder=Stack(n_head=(*first.n_head, 2), d_inner=(*first.d_inner, first.d_inner[0])))
    assert not space.contains(uneven)
    assert space.size == sum(3 * len(space.ranges.d_inner_for(each)) * 15 for each in space.ranges.d_model)


def test_the_sizes_of_small_spaces_are_what_counting_gives() -> None:
    ranges = replace(t5.SPACE.ranges, n_layer=(1, 2), d_model=(8,), n_head=(2,), d_inner=(16, 24, 32))
    assert replace(bert.SPACE, ranges=ranges).size == 3 + 9
    assert replace(t5.SPACE, ranges=ranges).size == (3 + 9) ** 2
    space = replace(t5.SPACE, ranges=ranges)
    found = {space.sample(rng) for rng in [np.random.default_rng(0)] for _ in range(3000)}
    assert len(found) == space.size
    assert all(space.contains(each) for each in found)


def test_features_tell_the_stacks_apart() -> None:
    space = t5.SPACE
    deep, flat = Stack(n_head=(2,) * 4, d_inner=(512,) * 4), Stack(n_head=(2,) * 2, d_inner=(512,) * 2)
    first, second = space.architecture(256, deep, flat), space.architecture(256, flat, deep)
    assert space.features(first) != space.features(second)
    rng = np.random.default_rng(0)
    for each in (space, t5.HOMOGENEOUS, bert.SPACE):
        assert len({len(each.features(each.sample(rng))) for _ in range(20)}) == 1


def test_a_design_of_two_stacks_covers_the_depths_of_both() -> None:
    stacks = design(t5.SPACE, count=60, rng=np.random.default_rng(1))
    assert len(set(stacks)) == 60
    assert all(t5.SPACE.contains(each) for each in stacks)
    assert {each.encoder.n_layer for each in stacks if each.encoder} >= {2, 16}
    assert any(each.encoder is not None and each.encoder.n_layer != each.n_layer for each in stacks)
    assert all(each.encoder == each.stacks[0] for each in design(t5.HOMOGENEOUS, rng=np.random.default_rng(1)))


def test_an_architecture_with_an_encoder_survives_json_and_one_without_has_none_there() -> None:
    both = Architecture.from_json({**ROW, "encoder": ENCODER})
    assert both.encoder == Stack(n_head=(2, 2, 2), d_inner=(20, 20, 20))
    assert both.to_json()["encoder"] == {"n_layer": 3, "n_head": [2, 2, 2], "d_inner": [20, 20, 20]}
    assert Architecture.from_json(both.to_json()) == both
    assert "encoder" not in Architecture.from_json(ROW).to_json()


@pytest.mark.parametrize(
    ("space", "row", "message"),
    [
        (t5.SPACE, ROW, 'line 7: an encoder–decoder needs its encoder .*"encoder": {"n_layer": 2'),
        (
            t5.SPACE,
            {**ROW, "encoder": 3},
            "line 7: an architecture's encoder is an object with n_head and d_inner; got 3",
        ),
        (t5.SPACE, {**ROW, "encoder": {"n_head": [2]}}, "line 7: an architecture's encoder needs d_inner"),
        (t5.SPACE, {**ROW, "encoder": {**ENCODER, "n_head": [2]}}, "one value per layer; got 1 and 3"),
        (t5.SPACE, {**ROW, "encoder": {"n_layer": 2, "n_head": [2], "d_inner": [8]}}, "n_layer is 2"),
        (t5.SPACE, {**ROW, "encoder": {"n_head": [0], "d_inner": [8]}}, "positive whole numbers"),
        (bert.SPACE, {**ROW, "encoder": ENCODER}, "the space bert has one stack of layers"),
        (gpt2.SPACE, {**ROW, "encoder": ENCODER}, "the space gpt2 has one stack of layers"),
    ],
)
def test_a_row_with_other_stacks_than_the_spaces_is_named(
    tmp_path: Path, space: BackboneSpace, row: dict[str, object], message: str
) -> None:
    path = tmp_path / "rows"
    path.write_text(6 * "\n" + json.dumps(row))
    with pytest.raises(LtsRayError, match=message):
        list(read_rows(path, lambda row: row.counted(space)))
