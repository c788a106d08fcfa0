"""The shape of a Gemma 3n, its submodels, and what of a configuration is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import Gemma3nConfig as TheirConfig
from transformers import Gemma3nTextConfig

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.gemma3n.raw_config import read_raw, write_raw
from lts_ray.submodel import Submodel
from tests.models.gemma3n.tiny import TEXT

E4B = Gemma3nConfig()
TINY = read_raw(Gemma3nTextConfig(**TEXT).to_dict())


def test_the_defaults_are_those_of_transformers() -> None:
    assert read_raw({"model_type": "gemma3n_text"}) == E4B
    assert read_raw(Gemma3nTextConfig().to_dict()) == E4B


def test_the_whole_model_has_the_same_decoder() -> None:
    text = Gemma3nTextConfig(**TEXT).to_dict()
    assert read_raw({"model_type": "gemma3n", "text_config": text}) == TINY
    assert read_raw(TheirConfig().to_dict()) == E4B


def test_what_is_written_is_read_again_and_transformers_reads_it_alike() -> None:
    for config in (E4B, TINY, replace(TINY, eos_token_id=(1, 9), granularities={"tiny": 0.1, "XL": 1.0})):
        assert read_raw(write_raw(config)) == config
    theirs = Gemma3nTextConfig(**write_raw(TINY)).to_dict()
    expected = Gemma3nTextConfig(**TEXT).to_dict()
    assert {key: theirs[key] for key in expected if key != "architectures"} == {
        key: value for key, value in expected.items() if key != "architectures"
    }


def test_rotary_bases_are_read_from_todays_and_from_earlier_files() -> None:
    old = {"model_type": "gemma3n_text", "rope_theta": 5e5, "rope_local_base_freq": 3e3, "rope_scaling": None}
    kinds = {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 3e3}}
    inside = {**old, "rope_theta": 7.0, "rope_scaling": {"rope_type": "default", "rope_theta": 5e5}}
    for raw in (old, inside, {"model_type": "gemma3n_text", "rope_parameters": kinds}):
        config = read_raw(raw)
        assert (config.rope_theta, config.local_rope_theta) == (5e5, 3e3)


def test_e2b_is_a_submodel_of_e4b_by_name() -> None:
    assert list(E4B.trained) == ["E2B", "S", "XL"]
    assert E4B.submodel("E2B") == Submodel((8192,) * 20 + (0,) * 5 + (8192,) * 10)
    assert E4B.submodel("S") == Submodel((8192,) * 35)
    assert E4B.relative_size(E4B.submodel("E2B")) == E4B.granularities["E2B"]
    assert list(TINY.trained) == ["S", "XL"]


def test_of_e4b_only_layers_18_and_19_cannot_be_skipped() -> None:
    assert [layer for layer in range(35) if E4B.may_skip(layer)] == [18, 19]
    with pytest.raises(LtsRayError, match=r"layer 18 cannot be skipped: it is the last sliding_attention layer with"):
        E4B.check(Submodel((16384,) * 18 + (0,) + (16384,) * 16))
    with pytest.raises(LtsRayError, match=r"layer 19 cannot be skipped: it is the last full_attention layer with"):
        E4B.check(Submodel((16384,) * 19 + (0,) + (16384,) * 15))


def test_a_layer_looks_at_its_own_keys_or_at_the_last_of_its_type() -> None:
    assert [E4B.key_layer(layer) for layer in (0, 17, 18, 19, 20, 24, 33, 34)] == [0, 17, 18, 19, 18, 19, 18, 19]
    assert E4B.cache_shape.n_layer == 20
    alone = replace(TINY, n_shared=0)
    assert [alone.key_layer(layer) for layer in range(9)] == list(range(9))
    assert not any(alone.may_skip(layer) for layer in range(9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_activation": "silu"}, "hidden_activation='silu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, "only has default rotary positions"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "only has default rotary positions"),
        ({"intermediate_size": [24] * 8}, "8 values of intermediate_size for 9 layers"),
        ({"layer_types": ["chunked_attention"] * 9}, "got \\['chunked_attention'\\]"),
        ({"activation_sparsity_pattern": [0.5]}, "sparsity needs one value per layer, 9; got 1"),
        ({"activation_sparsity_pattern": [1.0] * 9}, "at least 0 and below 1"),
        ({"num_kv_shared_layers": 9}, "0 to 8 can share keys; got 9"),
        ({"num_kv_shared_layers": 8}, "no layer has keys for the full_attention layers from 1 on"),
        ({"num_key_value_heads": 3}, "multiple of n_kv_head"),
        ({"head_dim": 7}, "even number"),
        ({"altup_active_idx": 3}, "one of 3 streams, from 0; got 3"),
        ({"laurel_rank": 0}, "d_laurel must be at least 1"),
    ],
)
def test_what_is_not_built_here_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LtsRayError, match=message) as caught:
        read_raw({**Gemma3nTextConfig(**TEXT).to_dict(), **changes})
    assert "\n" not in str(caught.value)
