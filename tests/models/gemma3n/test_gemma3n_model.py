"""Any submodel run without slicing computes what plain transformers computes of its slice."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma3nForCausalLM

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.gemma3n_checkpoint import load_gemma3n
from lts_ray.models.gemma3n.gemma3n_layer import Gemma3nLayer
from lts_ray.models.kv_cache import KVCache
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from tests.models.gemma3n.tiny import SUBMODELS, tiny_model

close = partial(torch.testing.assert_close, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SUBMODELS)
@torch.inference_mode()
def test_a_submodel_computes_what_transformers_computes_of_its_slice(
    name: str, gemma: Gemma3n, gemma_tokens: Tensor, expected: dict[str, Tensor]
) -> None:
    actual = gemma(gemma_tokens, submodel=gemma.config.submodel(SUBMODELS[name]))
    close(actual, expected[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_shared_layers": 0},
        {"altup_num_inputs": 2, "altup_active_idx": 1},
        {"altup_correct_scale": False},
        {"num_key_value_heads": 1, "sliding_window": 1},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 50.0}}},
        {"rms_norm_eps": 0.5},
    ],
    ids=", ".join,
)
@torch.inference_mode()
def test_other_settings_mean_what_they_mean_to_transformers(
    changes: dict[str, Any], gemma_tokens: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    theirs = tiny_model(**changes)
    theirs.save_pretrained(tmp_path)
    model = load_gemma3n(tmp_path).model
    actual = model(gemma_tokens, submodel=model.config.universal)
    close(actual, theirs(gemma_tokens).logits)
    assert (actual - expected["universal"]).abs().max() > 0.1


def test_in_training_the_coefficients_are_limited(gemma_tokens: Tensor, tmp_path: Path) -> None:
    theirs = tiny_model(altup_coef_clip=0.1)
    theirs.save_pretrained(tmp_path)
    model = load_gemma3n(tmp_path).model
    unlimited = model(gemma_tokens, submodel=model.config.universal)
    limited = model.train()(gemma_tokens, submodel=model.config.universal)
    close(limited, theirs.train()(gemma_tokens).logits)
    assert (limited - unlimited).abs().max() > 0.1


def test_the_submodels_disagree(expected: dict[str, Tensor]) -> None:
    """So that agreement with one of them is no accident."""
    logits = list(expected.values())
    for index, each in enumerate(logits):
        for other in logits[index + 1 :]:
            assert (each - other).abs().max() > 0.1


@torch.inference_mode()
def test_each_row_of_a_mixed_batch_gets_what_its_slice_computes(
    gemma: Gemma3n, gemma_tokens: Tensor, expected: dict[str, Tensor]
) -> None:
    submodels = [gemma.config.submodel(text) for text in SUBMODELS.values()]
    actual = gemma(gemma_tokens, submodel=submodels)
    for row, logits in enumerate(expected.values()):
        close(actual[row], logits[row])


@pytest.mark.parametrize("pieces", [(11,), (5, 1, 1, 1, 1, 1, 1), (2, 6, 3)], ids=str)
@torch.inference_mode()
def test_rows_of_a_mixed_batch_go_on_from_a_cache(
    pieces: tuple[int, ...], gemma: Gemma3n, gemma_tokens: Tensor, expected: dict[str, Tensor]
) -> None:
    submodels = [gemma.config.submodel(text) for text in SUBMODELS.values()]
    cache = KVCache.empty(gemma.config, rows=len(submodels), length=16, dtype=torch.float32)
    found = [gemma(part, submodel=submodels, cache=cache) for part in torch.split(gemma_tokens, list(pieces), dim=1)]
    actual = torch.cat(found, dim=1)
    for row, logits in enumerate(expected.values()):
        close(actual[row], logits[row])


def test_the_engine_runs_each_sequence_at_its_own_submodel(
    gemma: Gemma3n, gemma_tokens: Tensor, expected: dict[str, Tensor]
) -> None:
    """Prompts in two pieces, one sequence a step behind the others, then token by token: all in shared steps."""
    runtime = TorchRuntime(gemma, n_blocks=len(SUBMODELS))
    submodels = [gemma.config.submodel(text) for text in SUBMODELS.values()]
    assert gemma_tokens.shape[1] <= BLOCK_TOKENS
    for start, stop in [(0, 3), (3, 8), (8, 9), (9, 10), (10, 11)]:
        segments = [
            Segment(
                tokens=gemma_tokens[row, max(0, start - late) : stop - late].tolist(),
                start=max(0, start - late),
                blocks=[row],
                submodel=submodel,
                wants_logits=True,
            )
            for row, submodel in enumerate(submodels)
            for late in [int(row == 2)]
        ]
        found = runtime.run(segments)
        for row, logits in enumerate(expected.values()):
            close(found[row], logits[row, segments[row].stop - 1])


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside a wider row"])
@torch.inference_mode()
def test_a_skipped_layer_leaves_the_keys_that_it_would_leave_if_it_ran(
    alone: bool, gemma: Gemma3n, gemma_tokens: Tensor
) -> None:
    """What enters layer 1 does not depend on whether it runs; a wider submodel may look at its keys later."""
    without, whole = gemma.config.submodel("24,0,24,24,24,24,24,24,24"), gemma.config.universal
    rows = 1 if alone else 2
    caches = []
    for first in (without, whole):
        cache = KVCache.empty(gemma.config, rows=rows, length=16, dtype=torch.float32)
        gemma(gemma_tokens[:1].expand(rows, -1), submodel=[first, whole][:rows], cache=cache)
        caches.append(cache)
    close(caches[0].keys[1], caches[1].keys[1])
    close(caches[0].values[1], caches[1].values[1])
    assert caches[0].keys[1, :, :, :11].abs().amin(dim=-1).all()
    assert not torch.allclose(caches[0].keys[2, 0], caches[1].keys[2, 0])


@torch.inference_mode()
def test_only_layers_with_keys_of_their_own_take_room_in_the_cache(gemma: Gemma3n) -> None:
    cache = KVCache.empty(gemma.config, rows=2, length=5, dtype=torch.float32)
    assert cache.keys.shape == (6, 2, 2, 5, 8)


@pytest.mark.parametrize("layer", [4, 5])
def test_a_layer_that_cannot_be_skipped_is_refused_by_name(layer: int, gemma: Gemma3n, gemma_tokens: Tensor) -> None:
    widths = ["12"] * 9
    widths[layer] = "0"
    kind = "full_attention" if layer == 4 else "sliding_attention"
    with pytest.raises(LtsRayError, match=rf"^layer {layer} cannot be skipped: it is the last {kind} layer with keys"):
        gemma.config.submodel(",".join(widths))


def test_gradients_reach_what_a_mixed_batch_uses(gemma: Gemma3n, gemma_tokens: Tensor) -> None:
    """And nothing of a layer that no row has: of layer 3, which both skip, not even its keys without a cache."""
    submodels = [gemma.config.submodel(SUBMODELS[name]) for name in ("skipping", "nothing shared")]
    gemma(gemma_tokens[:2], submodel=submodels).sum().backward()
    missing = {name.split(".")[1] for name, each in gemma.named_parameters() if each.grad is None}
    layer = gemma.layers[2]
    assert isinstance(layer, Gemma3nLayer)
    gradient = layer.mlp.up_proj.weight.grad
    gemma.zero_grad(set_to_none=True)
    assert gradient is not None
    assert missing == {"3", "6"}
    assert gradient[:12].abs().sum() > 0
    assert gradient[12:].abs().sum() == 0


@torch.inference_mode()
def test_in_bfloat16_logits_stay_near_those_of_transformers(
    gemma_dir: Path, gemma_tokens: Tensor, sliced: dict[str, Path]
) -> None:
    """As near as transformers' own bfloat16 is to float32, within a factor."""
    folder = sliced["mixed"]
    theirs = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()(gemma_tokens).logits.float()
    exact = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(gemma_tokens).logits
    model = load_gemma3n(gemma_dir, dtype=torch.bfloat16).model
    ours = model(gemma_tokens, submodel=model.config.submodel(SUBMODELS["mixed"])).float()
    error = (theirs - exact).square().mean().sqrt()
    assert (ours - exact).square().mean().sqrt() < 1.5 * error


def test_an_output_matrix_of_its_own_is_refused_by_name(gemma_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gemma_dir, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    embedding = next(value for name, value in tensors.items() if name.endswith("embed_tokens.weight"))
    save_file({**tensors, "lm_head.weight": embedding.clone()}, folder / "model.safetensors")
    load_gemma3n(folder)
    save_file({**tensors, "lm_head.weight": embedding + 1}, folder / "model.safetensors")
    with pytest.raises(LtsRayError, match=r"lm_head.weight of its own"):
        load_gemma3n(folder)
