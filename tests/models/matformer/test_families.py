"""Every family's checkpoint of transformers computes here what it computes there, and goes back the same way.

All parameters are random, biases and norms too: one that is forgotten changes the logits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from lts_ray.checkpoints.extracted import extract, extract_checkpoint
from lts_ray.errors import LtsRayError
from lts_ray.measurement.subjects.submodel_subject import UniversalSubjects
from lts_ray.models.elastic_config import GRANULARITIES
from lts_ray.models.family import GPT2, LLAMA, OPT, QWEN3, Family
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.kv_cache import KVCache
from lts_ray.models.matformer.hugging_face.checkpoint import (
    fingerprint,
    hugging_face_config,
    load_checkpoint,
    read_config,
    save_checkpoint,
)
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.foreign_tokenizer import assert_same_tokenizer, write_foreign_tokenizer
from tests.measurement.resident import ExtractedSubmodel, candidate_from_json

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
VOCABULARY = 300
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 3,
    "eos_token_id": 5,
}
GPT2_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}
OPT_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
THEIRS: Mapping[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama-untied": LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_theta=500.0),
    "llama-biased": LlamaConfig(**SHAPE, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True, rope_theta=1e6),
    "qwen3": Qwen3Config(**{**SHAPE, "eos_token_id": [5, 6]}, tie_word_embeddings=True, head_dim=12),
    "qwen2-yarn": Qwen2Config(
        **SHAPE, rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    ),
    "llama-llama3": LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3, rope_theta=500.0),
    "mistral-linear": MistralConfig(
        **SHAPE, head_dim=12, sliding_window=None, rope_parameters={"rope_type": "linear", "factor": 3.0}
    ),
    "qwen3-dynamic": Qwen3Config(**SHAPE, head_dim=12, rope_parameters={"rope_type": "dynamic", "factor": 3.0}),
    "qwen3-untied": Qwen3Config(**SHAPE, tie_word_embeddings=False, head_dim=8, attention_bias=True),
    "mistral": MistralConfig(**SHAPE, head_dim=12, sliding_window=None),
    "gpt2": GPT2Config(**GPT2_SHAPE),
    "gpt2-untied": GPT2Config(**{**GPT2_SHAPE, "n_inner": None}, tie_word_embeddings=False, activation_function="gelu"),
    "opt": OPTConfig(**OPT_SHAPE),
    "opt-unbiased": OPTConfig(**OPT_SHAPE, enable_bias=False, activation_function="gelu_new"),
}
EVERY = pytest.mark.parametrize("name", list(THEIRS))
OF_EACH_KIND = pytest.mark.parametrize("name", ["llama-untied", "qwen2", "qwen3", "mistral", "gpt2", "opt"])


def random_transformer(name: str) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_config(deepcopy(THEIRS[name])).eval()  # saving one notes its dtype there
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.0 if parameter.dim() > 1 else 0.5, std=0.2, generator=generator)
    return model


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What transformers saved, by name."""
    root = tmp_path_factory.mktemp("families")
    for name in THEIRS:
        random_transformer(name).save_pretrained(root / name)
    return {name: root / name for name in THEIRS}


def their_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits


def our_logits(folder: Path, tokens: torch.Tensor, submodel: str = "XL") -> torch.Tensor:
    model = load_checkpoint(folder).model
    with torch.inference_mode():
        return model(tokens, submodel=model.config.submodel(submodel))


def copied(folder: Path, destination: Path, **changes: object) -> Path:
    """A copy with other settings in its config.json."""
    shutil.copytree(folder, destination)
    path = destination / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return destination


@EVERY
def test_a_checkpoint_of_transformers_computes_the_same_here(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor
) -> None:
    model = load_checkpoint(folders[name]).model
    expected = their_logits(folders[name], tokens)
    assert expected.std() > 0.5
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens, submodel=model.config.universal), expected, **CLOSE)
    assert model.config.granularities == GRANULARITIES


@EVERY
def test_what_is_written_back_is_a_checkpoint_of_transformers_again(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    """With all tensors of the original under their names, and its special tokens."""
    checkpoint = load_checkpoint(folders[name])
    save_checkpoint(checkpoint.model, tmp_path / "again")
    torch.testing.assert_close(their_logits(tmp_path / "again", tokens), their_logits(folders[name], tokens), **CLOSE)
    original, again = (load_file(folder / "model.safetensors") for folder in (folders[name], tmp_path / "again"))
    assert original.keys() == again.keys()
    for key in original.keys() - {"model.decoder.embed_positions.weight"}:  # two rows of which no text reads
        torch.testing.assert_close(again[key], original[key], atol=0, rtol=0)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (folders[name], tmp_path / "again"))
    for key in ("architectures", "model_type", "bos_token_id", "eos_token_id"):
        assert after[key] == before[key]
    assert load_checkpoint(tmp_path / "again").model.config == checkpoint.model.config


@EVERY
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor
) -> None:
    """For rows of different width and, after the prefill, of different length."""
    model = load_checkpoint(folders[name]).model
    rows = [model.config.submodel(each) for each in ("XL", "S", "6,20,48", "M")]
    cache = KVCache.empty(model.config, rows=4, length=32, dtype=torch.float32)
    held = [12, 7, 12, 9]
    with torch.inference_mode():
        model(tokens[:, :12], submodel=rows, cache=cache)
        for row, length in enumerate(held):
            cache.truncate(row, length)
        for step in range(8):
            following = torch.stack([tokens[row, held[row] + step] for row in range(4)])[:, None]
            logits = model(following, submodel=rows, cache=cache)
            for row, submodel in enumerate(rows):
                alone = model(tokens[row : row + 1, : held[row] + step + 1], submodel=submodel)
                torch.testing.assert_close(logits[row, -1], alone[0, -1], **CLOSE)


@EVERY
def test_fanned_out_submodels_compute_what_each_does_alone(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor
) -> None:
    model = load_checkpoint(folders[name]).model
    chosen = list(model.config.trained.values())
    with torch.inference_mode():
        together = model.logits(model.fan_out(tokens, chosen))
        alone = torch.cat([model(tokens, submodel=each) for each in chosen])
    torch.testing.assert_close(together, alone, **CLOSE)


@EVERY
def test_a_uniform_submodel_is_a_checkpoint_of_transformers(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    extract_checkpoint(folders[name], "M", tmp_path / "small")
    expected = our_logits(folders[name], tokens, "M")
    torch.testing.assert_close(their_logits(tmp_path / "small", tokens), expected, **CLOSE)
    torch.testing.assert_close(our_logits(tmp_path / "small", tokens), expected, **CLOSE)
    written = json.loads((tmp_path / "small" / "config.json").read_text())
    assert written["eos_token_id"] == THEIRS[name].eos_token_id


@OF_EACH_KIND
@pytest.mark.parametrize("submodel", ["M", "6,48,20"])
def test_an_extracted_submodel_has_the_tokenizer_of_its_source(
    name: str, submodel: str, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    source = copied(folders[name], tmp_path / "source")
    write_foreign_tokenizer(source)
    extract_checkpoint(source, submodel, tmp_path / "small")
    found = assert_same_tokenizer(source, tmp_path / "small")
    assert (found.bos_token, found.pad_token, found.model_max_length) == ("<s>", "<pad>", 77)


@EVERY
def test_a_submodel_with_a_width_per_layer_loads_here_and_plain_transformers_refuses_it(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    extract_checkpoint(folders[name], "6,48,20", tmp_path / "mix")
    expected = our_logits(folders[name], tokens, "6,48,20")
    torch.testing.assert_close(our_logits(tmp_path / "mix", tokens), expected, **CLOSE)
    config = load_checkpoint(tmp_path / "mix").model.config
    assert config.family == load_checkpoint(folders[name]).model.config.family
    with pytest.raises(ValueError, match="lts_ray_matformer"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "mix")


@EVERY
def test_the_parameters_are_those_of_the_decoder_and_of_the_embedding(name: str, folders: Mapping[str, Path]) -> None:
    model, target = load_checkpoint(folders[name]).model, Target(name="t", local=True, sequence_length=8)
    for submodel in (model.config.universal, Submodel((6, 48, 20))):
        small = extract(model, submodel)
        sizes = {key: each.numel() for key, each in small.named_parameters()}
        embedding = sum(size for key, size in sizes.items() if key.startswith(("embed_", "lm_head")))
        assert model.config.embedding_params == embedding
        assert model.config.decoder_params(submodel) == sum(sizes.values()) - embedding
        alone = sum(each.nbytes for each in (*small.parameters(), *small.buffers()))
        assert UniversalSubjects.of(model, target).subject(submodel).weight_bytes == alone


@EVERY
def test_a_candidate_of_any_family_crosses_to_another_process_as_data(name: str, folders: Mapping[str, Path]) -> None:
    config = load_checkpoint(folders[name]).model.config
    candidate = ExtractedSubmodel(config=config, submodel=Submodel((6, 48, 20)))
    assert candidate_from_json(json.loads(json.dumps(candidate.to_json()))) == candidate
    target = Target(name="t", local=True, sequence_length=16)
    subject = candidate.tiny().subject(target)
    subject.run(torch.zeros(1, 4, dtype=torch.int64), subject.empty_cache(rows=1, length=4))


@OF_EACH_KIND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_of_half_precision_are_read(
    name: str, dtype: torch.dtype, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    random_transformer(name).to(dtype).save_pretrained(tmp_path / "half")
    torch.testing.assert_close(our_logits(tmp_path / "half", tokens), their_logits(tmp_path / "half", tokens), **CLOSE)
    extract_checkpoint(tmp_path / "half", "L", tmp_path / "small")
    stored = load_file(tmp_path / "small" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {dtype}


@OF_EACH_KIND
def test_weights_in_shards_are_read_and_a_missing_shard_is_named(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    random_transformer(name).save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert not (tmp_path / "model.safetensors").exists()
    torch.testing.assert_close(our_logits(tmp_path, tokens), our_logits(folders[name], tokens), **CLOSE)
    before = fingerprint(tmp_path)
    tensors = load_file(shards[-1])
    save_file({key: value + 1 for key, value in tensors.items()}, shards[-1], metadata={"format": "pt"})
    assert fingerprint(tmp_path) != before
    shards[-1].unlink()
    with pytest.raises(LtsRayError, match=f"has no {shards[-1].name}"):
        load_checkpoint(tmp_path)


def test_an_index_may_only_name_files_beside_it(folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../outside.safetensors"}}')
    with pytest.raises(LtsRayError, match="does not name the files beside it"):
        load_checkpoint(folder)


def test_pickled_weights_are_not_read_and_the_error_says_what_to_do(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["opt"], tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LtsRayError, match=r"save its pytorch_model.bin as safetensors first"):
        load_checkpoint(folder)


def rewrite(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


def as_of_old(folder: Path, *, drop: tuple[str, ...], prefix: tuple[str, str], **settings: Any) -> None:
    """Rewrite a folder the way earlier versions wrote it: other keys, another prefix, the tied matrix twice."""
    path = folder / "config.json"
    raw = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps({**raw, **settings, "torch_dtype": "float32"}))
    tensors = load_file(folder / "model.safetensors")
    embedding = next(value for name, value in tensors.items() if name.endswith(("embed_tokens.weight", "wte.weight")))
    renamed = {name.replace(*prefix, 1): value for name, value in tensors.items()}
    rewrite(folder, {"lm_head.weight": embedding.clone(), **renamed})


def test_files_of_earlier_versions_load(folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path) -> None:
    """rope_theta on its own, no head_dim, biases' keys absent, masks stored as weights, bare names."""
    llama = copied(folders["llama-untied"], tmp_path / "llama")
    old = {
        "drop": ("rope_parameters", "dtype", "head_dim", "attention_bias", "mlp_bias"),
        "prefix": ("model.", "model."),
    }
    as_of_old(llama, **old, rope_theta=500.0, rope_scaling=None)
    rewrite(
        llama, {**load_file(llama / "model.safetensors"), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    )
    torch.testing.assert_close(our_logits(llama, tokens), our_logits(folders["llama-untied"], tokens), **CLOSE)

    for prefix in (("transformer.", ""), ("transformer.", "transformer.")):
        gpt2 = copied(folders["gpt2"], tmp_path / f"gpt2{prefix[1]}")
        as_of_old(gpt2, drop=("dtype", "tie_word_embeddings", "add_cross_attention"), prefix=prefix, n_ctx=64)
        masks = {f"{prefix[1]}h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(3)}
        masks |= {f"{prefix[1]}h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}
        rewrite(gpt2, {**load_file(gpt2 / "model.safetensors"), **masks})
        torch.testing.assert_close(our_logits(gpt2, tokens), our_logits(folders["gpt2"], tokens), **CLOSE)

    opt = copied(folders["opt"], tmp_path / "opt")
    drop = ("dtype", "tie_word_embeddings", "enable_bias", "layer_norm_elementwise_affine")
    as_of_old(opt, drop=drop, prefix=("model.decoder.", "decoder."))
    torch.testing.assert_close(our_logits(opt, tokens), our_logits(folders["opt"], tokens), **CLOSE)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "low_freq_factor"),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 0}}, "usable"),
        ("llama", {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor must be above"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -2.0}}, "rope_scaling.factor must be above 0"),
        ("llama", {"rope_scaling": {**LLAMA3, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ("qwen2", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one for all layers"),
        ("llama", {"rope_theta": -3.0, "rope_parameters": None}, "rope_theta must be above 1"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"hidden_act": "mish"}, "hidden_act='mish'"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": None},
            "use_sliding_window=True from layer 1",
        ),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "layer_types=.*sliding_attention"),
        ("qwen2", {"num_key_value_heads": 3}, "multiple of n_kv_head"),
        ("mistral", {"hidden_size": None}, "is not usable"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=False"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim=16"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine=False"),
        ("opt", {"activation_function": "tanh"}, "activation_function='tanh'"),
        ("llama-untied", {"tie_word_embeddings": True, "lts_ray": {"schema": 1, "widths": [1, 2]}}, "should be"),
        ("gpt2", {"n_head": 8, "lts_ray": 3}, "schema None"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_change_the_function_is_refused_by_name(
    name: str, changes: dict[str, object], message: str, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(LtsRayError, match=message) as caught:
        load_checkpoint(copied(folders[name], tmp_path / "model", **changes))
    assert "\n" not in str(caught.value)


def test_heads_of_a_qwen3_without_a_head_dimension_are_as_in_transformers(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    assert read_config(copied(folders["qwen3"], tmp_path / "model", head_dim=None))[0].d_head == Qwen3Config().head_dim


def test_an_output_matrix_that_is_missing_is_not_taken_from_the_embedding(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llama"], tmp_path / "model", tie_word_embeddings=False)
    with pytest.raises(LtsRayError, match=r"lm_head.weight should be \(300, 32\) but is absent"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt"])
def test_an_output_matrix_of_its_own_counts_whatever_the_configuration_says(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    """As in transformers; and what is written of it says that it is not the embedding."""
    folder = copied(folders[name], tmp_path / "model")
    output = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(3))
    rewrite(folder, {**load_file(folder / "model.safetensors"), "lm_head.weight": output})
    expected = their_logits(folder, tokens)
    assert (expected - their_logits(folders[name], tokens)).abs().max() > 1
    torch.testing.assert_close(our_logits(folder, tokens), expected, **CLOSE)
    extract_checkpoint(folder, "XL", tmp_path / "again")
    torch.testing.assert_close(their_logits(tmp_path / "again", tokens), expected, **CLOSE)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_the_output_matrix_may_be_the_one_of_the_two_that_is_in_the_file(
    name: str, folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    folder = copied(folders[name], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    key = next(each for each in tensors if each.endswith(("embed_tokens.weight", "wte.weight")))
    rewrite(folder, {"lm_head.weight": tensors.pop(key), **tensors})
    torch.testing.assert_close(our_logits(folder, tokens), their_logits(folder, tokens), **CLOSE)


def test_a_tensor_that_is_in_two_shards_is_named(folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    names = {str(index): f"{letter}.safetensors" for index, letter in enumerate("ab")}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(LtsRayError, match=r"has lm_head.weight|has model\.\S+ in b.safetensors and in an earlier file"):
        load_checkpoint(folder)


def test_mistrals_context_ends_at_its_sliding_window(
    folders: Mapping[str, Path], tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Up to there the window hides nothing; one token further it would."""
    folder = copied(folders["mistral"], tmp_path / "model", sliding_window=16)
    model = load_checkpoint(folder).model
    assert model.config.context_length == 16
    torch.testing.assert_close(our_logits(folder, tokens[:, :16]), their_logits(folder, tokens[:, :16]), **CLOSE)
    with pytest.raises(LtsRayError, match="context is 16 tokens"):
        model(tokens[:, :17], submodel=model.config.universal)
    wide = load_checkpoint(copied(folders["mistral"], tmp_path / "wide", sliding_window=4096)).model
    assert wide.config.context_length == 64


@pytest.mark.parametrize(("window", "expected"), [("absent", 4096), (None, 8192), (16384, 8192)], ids=str)
def test_a_mistral_that_does_not_speak_of_its_window_has_that_of_transformers(
    window: object, expected: int, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["mistral"], tmp_path / "model", max_position_embeddings=8192, sliding_window=window)
    raw = json.loads((folder / "config.json").read_text())
    if window == "absent":
        del raw["sliding_window"]
        (folder / "config.json").write_text(json.dumps(raw))
    assert read_config(folder)[0].context_length == expected
    theirs = AutoConfig.from_pretrained(folder)
    assert expected == min(theirs.max_position_embeddings, theirs.sliding_window or theirs.max_position_embeddings)


@pytest.mark.parametrize("family", [LLAMA, GPT2, OPT], ids=lambda family: family.name)
def test_bands_add_up_to_the_block_and_a_new_order_of_neurons_leaves_it_as_it_was(family: Family) -> None:
    torch.manual_seed(0)
    ffn = FeedForward(8, 24, family)
    x = torch.randn(2, 3, 8)
    with torch.inference_mode():
        whole = ffn(x, 24)
        torch.testing.assert_close(ffn.band(x, 0, 7) + ffn.band(x, 7, 20) + ffn.band(x, 20, 24), whole, **CLOSE)
        half = ffn(x, 12)
        ffn.reorder(torch.randperm(24, generator=torch.Generator().manual_seed(1)))
        torch.testing.assert_close(ffn(x, 24), whole, **CLOSE)
        assert (ffn(x, 12) - half).abs().max() > 0.01


def test_fresh_weights_have_biases_of_zero_and_norms_of_one() -> None:
    model = MatFormer(config_of(GPT2))
    model.initialize(torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert parameter.unique().tolist() == [0.0 if name.endswith("bias") else 1.0]


def config_of(family: Family, **changes: Any) -> MatFormerConfig:
    shape = {"vocab_size": 300, "d_model": 32, "n_head": 4, "n_kv_head": 4, "widths": (48,) * 2, "context_length": 64}
    return MatFormerConfig(**{**shape, "family": family, **changes})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config_of(OPT, rms_norm_eps=1e-6), "cannot describe"),
        (config_of(replace(LLAMA, qkv_bias=True)), "cannot describe"),
        (config_of(replace(QWEN3, norm="layer")), "cannot describe"),
        (config_of(replace(LLAMA, name="bloom")), "no family 'bloom'"),
    ],
    ids=str,
)
def test_a_shape_that_its_family_has_no_words_for_is_not_written_as_another(
    config: MatFormerConfig, message: str, tmp_path: Path
) -> None:
    model = MatFormer(config)
    with pytest.raises(LtsRayError, match=message):
        save_checkpoint(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("config", [config_of(GPT2, n_kv_head=2), config_of(OPT, head_dim=16)], ids=["gpt2", "opt"])
def test_heads_that_its_family_has_no_words_for_are_in_our_key(config: MatFormerConfig, tmp_path: Path) -> None:
    model = MatFormer(config)
    model.initialize(torch.Generator().manual_seed(0))
    save_checkpoint(model, tmp_path / "model")
    again = load_checkpoint(tmp_path / "model").model
    assert again.config == replace(config, head_dim=config.d_head, bos_token_id=0)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "lts_ray_matformer"
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        got, expected = (each.eval()(tokens, submodel=config.universal) for each in (again, model))
    torch.testing.assert_close(got, expected)


def test_a_head_dimension_that_is_the_usual_one_may_be_named() -> None:
    config = config_of(GPT2, head_dim=8)
    assert hugging_face_config(config, torch.float32, {}) == hugging_face_config(config_of(GPT2), torch.float32, {})


def test_a_llama_configuration_is_written_as_ever() -> None:
    """A frontier names its model by the digest of these keys and values: none may come or go."""
    config = config_of(LLAMA, n_kv_head=2, widths=(48, 24), granularities={"XL": 1.0})
    assert hugging_face_config(config, torch.float16, {}) == {
        "architectures": ["MatFormer"],
        "model_type": "lts_ray_matformer",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-05,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": "float16",
        "lts_ray": {"schema": 1, "granularities": {"XL": 1.0}, "widths": [48, 24]},
    }


def test_the_special_tokens_do_not_change_a_fingerprint(folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path / "model", bos_token_id=7, eos_token_id=[8, 9])
    assert fingerprint(folder) == fingerprint(folders["llama"])
    assert load_checkpoint(folder).model.config.eos_token_id == (8, 9)


@pytest.mark.parametrize("change", [{"norm": "batch"}, {"activation": "tanh"}, {"positions": "alibi"}], ids=str)
def test_an_unknown_trait_of_a_family_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(LtsRayError, match=next(iter(change))):
        Family(name="llama", **change)  # type: ignore[arg-type]
