"""The published E2B, cut out of the published E4B on the meta device, has exactly the published parameters."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3nAudioConfig, Gemma3nForCausalLM, Gemma3nTextConfig, Gemma3nVisionConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder, Gemma3nMultimodalEmbedder

from lts_ray.models.gemma3n.cut import cut_of, prefix_of, sliced_config
from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.gemma3n_checkpoint import UNUSED
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.gemma3n.raw_config import sliced_raw, write_raw
from tests.models.gemma3n.counts import published_counts
from tests.models.gemma3n.tiny import SUBMODELS
from tests.models.gemma3n.vision_tower import vision_params

EFFECTIVE, OF_TEXT, TOTAL = 1_905_495_648, 4_456_156_768, 5_976_833_408
E4B = Gemma3nConfig()
E2B = E4B.submodel("E2B")
HEAD = "lm_head.weight"
TABLES = ("model.embed_tokens.weight", "model.embed_tokens_per_layer.weight")

Shapes = dict[str, tuple[int, ...]]


def numel(shapes: Shapes) -> int:
    return sum(torch.Size(each).numel() for each in shapes.values())


@pytest.fixture(scope="module")
def published() -> Shapes:
    """Of the E4B's decoder, from transformers, with what the files have beside: keys and values that nothing reads."""
    with torch.device("meta"):
        model = Gemma3nForCausalLM(Gemma3nTextConfig())
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for layer in range(20, 35):
        shapes |= {f"model.layers.{layer}.{part}": shapes[f"model.layers.19.{part}"] for part in UNUSED}
    return shapes


@pytest.fixture(scope="module")
def e2b(published: Shapes) -> Shapes:
    found = {}
    for name, shape in published.items():
        cut = cut_of(name, E4B, E2B, prefix=prefix_of(published))
        if cut is not None:
            found[cut.name] = cut.shape(shape)
    return found


def towers() -> int:
    """Vision and audio, with what leads from each to the decoder."""
    vision, audio = Gemma3nVisionConfig(), Gemma3nAudioConfig()
    with torch.device("meta"):
        modules = [
            Gemma3nAudioEncoder(audio),
            *(Gemma3nMultimodalEmbedder(each, Gemma3nTextConfig()) for each in (vision, audio)),
        ]
    return vision_params() + numel(
        {
            f"{i}.{name}": tuple(each.shape)
            for i, module in enumerate(modules)
            for name, each in module.state_dict().items()
        }
    )


def test_the_slice_has_the_published_parameters(e2b: Shapes) -> None:
    text = {name: shape for name, shape in e2b.items() if name != HEAD}
    assert numel({name: shape for name, shape in text.items() if name not in TABLES}) == EFFECTIVE
    assert numel(text) == OF_TEXT
    assert numel(e2b) + towers() == TOTAL


def test_the_formulas_have_the_published_parameters() -> None:
    counts = published_counts(E4B, E2B, towers=towers())
    assert (counts.effective, counts.text, counts.total) == (EFFECTIVE, OF_TEXT, TOTAL)


def test_transformers_of_the_sliced_configuration_has_the_tensors_of_the_slice(e2b: Shapes) -> None:
    """But for the keys that nothing reads."""
    raw = sliced_raw(write_raw(E4B), sliced_config(E4B, E2B))
    with torch.device("meta"):
        theirs = Gemma3nForCausalLM(Gemma3nTextConfig(**raw))
    read = {name: shape for name, shape in e2b.items() if not (name.endswith(UNUSED) and int(name.split(".")[2]) >= 20)}
    assert {name: tuple(value.shape) for name, value in theirs.state_dict().items()} == read


def test_the_formulas_count_what_our_modules_have() -> None:
    for config in (E4B, sliced_config(E4B, E2B)):
        with torch.device("meta"):
            model = Gemma3n(config)
        counted = sum(each.numel() for each in model.parameters())
        assert counted == config.decoder_params() + config.embedding_params
    assert E4B.decoder_params(E2B) == sliced_config(E4B, E2B).decoder_params()


@pytest.mark.parametrize("name", SUBMODELS)
def test_a_submodel_counts_what_its_slice_has(name: str, gemma: Gemma3n) -> None:
    config = gemma.config
    chosen = config.submodel(SUBMODELS[name])
    smaller = Gemma3n(sliced_config(config, chosen))
    counted = sum(each.numel() for each in smaller.parameters())
    assert counted == config.decoder_params(chosen) + config.table_params(chosen) == config.parameters(chosen)


def test_one_step_of_one_layer_is_50_million_parameters() -> None:
    half = E4B.submodel("S")
    wider = E4B.submodel(",".join(["16384", *map(str, half.widths[1:])]))
    assert E4B.decoder_params(wider) - E4B.decoder_params(half) == 50_331_648
