"""The compiled kernels run submodels with fewer heads and a smaller d_model, beside others in one step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.models.family import GPT2, OPT, QWEN3
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.kernel_library import kernel_library, kernel_problem, thread_steps
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel
from tests.runtime.reference import Sequences, random_model

LIBRARY = kernel_library()
if LIBRARY is None:
    pytest.skip(str(kernel_problem()), allow_module_level=True)

SHAPE = MatFormerConfig(
    vocab_size=131,
    d_model=52,
    n_head=10,
    n_kv_head=5,
    head_dim=18,
    widths=(70, 45, 70),
    context_length=96,
    nested_heads={"S": 0.2, "M": 0.5},
    nested_d_model={"S": 0.3, "M": 0.6, "L": 0.8},
)
"""No number is a whole number of registers; queries take several pieces, so that some are left out."""
CONFIGS = {
    "llama": SHAPE,
    "llama-untied": replace(SHAPE, tied=False, n_kv_head=10),
    "qwen3": replace(SHAPE, family=QWEN3),
    "gpt2": replace(SHAPE, family=GPT2, n_kv_head=10),
    "opt": replace(SHAPE, family=OPT, n_kv_head=10),
}
CLOSE = {"atol": 3e-4, "rtol": 3e-4}


@pytest.mark.parametrize("kind", range(len(thread_steps(LIBRARY))), ids="kind {}".format)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_each_row_gets_what_its_sequence_would_get_alone(name: str, kind: int) -> None:
    """Also where a sequence goes on as a wider submodel, and looks at keys of heads that it did not have."""
    model = random_model(CONFIGS[name])
    sequences = Sequences(model, NativeRuntime(model, n_blocks=24, threads=2, kind=kind), n=4)
    for parts in [
        [(0, 5, "XL")],
        [(0, 1, "S"), (1, 21, "S"), (2, 17, "70/2,45/10,10/4@30")],
        [(1, 13, "XL"), (0, 1, "S"), (2, 1, "8/10,20/2,5/6")],
        [(2, 1, "XL"), (3, 33, "M"), (0, 1, "L"), (1, 1, "20,8,5@51")],
        *[[(index, 1, "S" if index % 2 else "M") for index in range(4)]] * 3,
        [(3, 17, "XL"), (2, 1, "M"), (1, 15, "S")],
    ]:
        got, expected = sequences.step(*parts)
        assert expected.std() > 0.1
        torch.testing.assert_close(got, expected, **CLOSE)


MODEL = random_model(SHAPE)
RUNTIME = NativeRuntime(MODEL, n_blocks=24, threads=1)
submodels = st.builds(
    Submodel,
    st.tuples(*[st.integers(1, width) for width in SHAPE.widths]),
    heads=st.tuples(*[st.integers(1, 5).map(lambda each: 2 * each)] * 3),
    d_model=st.integers(1, 52),
).map(SHAPE.check)


def segment(place: int, count: int, submodel: Submodel) -> Segment:
    tokens = torch.randint(131, (count,), generator=torch.Generator().manual_seed(place)).tolist()
    return Segment(tokens=tokens, start=0, blocks=[2 * place, 2 * place + 1], submodel=submodel, wants_logits=True)


@given(st.lists(st.tuples(st.integers(1, 30), submodels), min_size=2, max_size=5))
@settings(max_examples=40)
def test_a_rows_company_changes_not_a_bit(parts: list[tuple[int, Submodel]]) -> None:
    segments = [segment(place, count, submodel) for place, (count, submodel) in enumerate(parts)]
    together = RUNTIME.run(segments).clone()
    for place, each in enumerate(segments):
        assert torch.equal(RUNTIME.run([each])[0], together[place])


@given(submodels)
@settings(max_examples=25)
def test_a_submodel_is_what_is_extracted(submodel: Submodel) -> None:
    small = extract(MODEL, submodel)
    each = segment(0, 12, submodel)
    with torch.inference_mode():
        expected = small(torch.tensor([each.tokens]), submodel=small.config.universal, last_only=True)
    torch.testing.assert_close(RUNTIME.run([each]), expected[0], **CLOSE)


def test_layers_that_differ_in_heads_are_another_runtimes() -> None:
    uneven = extract(MODEL, SHAPE.submodel("70/2,45/10,10/4"))
    with pytest.raises(LtsRayError, match="as many heads in all layers"):
        NativeRuntime(uneven, n_blocks=4, threads=1)
