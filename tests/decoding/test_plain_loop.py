from __future__ import annotations

import pytest
import torch

from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig

CONFIG = MatFormerConfig(vocab_size=61, d_model=32, n_head=4, n_kv_head=2, widths=(64,) * 3, context_length=48)
PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model() -> MatFormer:
    model = MatFormer(CONFIG).eval()
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # logits far apart: rounding cannot flip an argmax
    return model


@pytest.mark.parametrize("name", ["S", "XL"])
def test_the_cache_changes_nothing(model: MatFormer, name: str) -> None:
    """Oracle: the whole sequence through the model again for every token."""
    submodel = CONFIG.trained[name]
    tokens = list(PROMPT)
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens]), submodel=submodel)[0, -1].argmax()))
    assert list(generate(model, PROMPT, submodel=submodel, max_tokens=12)) == tokens[len(PROMPT) :]


def test_the_end_token_ends_the_response_and_is_not_part_of_it(model: MatFormer) -> None:
    tokens = list(generate(model, PROMPT, submodel=CONFIG.universal, max_tokens=12))
    ends = (tokens[7], tokens[4])
    ended = list(generate(model, PROMPT, submodel=CONFIG.universal, max_tokens=12, eos_ids=ends))
    assert ended == tokens[: min(map(tokens.index, ends))]


def test_a_seed_gives_the_same_response(model: MatFormer) -> None:
    def run(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        sampling = Sampling(temperature=2.0)
        return list(
            generate(model, PROMPT, submodel=CONFIG.universal, max_tokens=20, sampling=sampling, generator=generator)
        )

    assert run(1) == run(1) != run(2)


def test_inference_mode_does_not_leak_to_the_caller_between_tokens(model: MatFormer) -> None:
    tokens = generate(model, PROMPT, submodel=CONFIG.universal, max_tokens=2)
    next(tokens)
    assert not torch.is_inference_mode_enabled()


def test_what_does_not_fit_the_context_is_refused_before_the_first_token(model: MatFormer) -> None:
    with pytest.raises(LtsRayError, match="context of 48"):
        generate(model, PROMPT, submodel=CONFIG.universal, max_tokens=44)
    assert len(list(generate(model, PROMPT, submodel=CONFIG.universal, max_tokens=43))) == 43
