"""The compiled kernels in every precision against a model that computes as they do, only slowly, on every kind of CPU
that this one is; and that neither a row's company nor its neighbours' precision matters to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models import feed_forward
from lts_ray.models.family import GPT2, LLAMA, QWEN3, Family
from lts_ray.models.matformer import grouped_attention, matformer
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.precision import PRECISIONS, QUANTISED
from lts_ray.quantisation.quantised_matrix import GROUP, QuantisedMatrix
from lts_ray.quantisation.quantised_weights import at_precision, matrices_of
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.kernel_library import kernel_library, kernel_problem, thread_steps
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.submodel import Submodel
from tests.runtime.test_native_runtime import model_of, reference, tokens_of

LIBRARY = kernel_library()
if LIBRARY is None:
    pytest.skip(str(kernel_problem()), allow_module_level=True)
KINDS = range(len(thread_steps(LIBRARY)))
WIDTHS = ((70, 70, 70), (35, 64, 1), (33, 31, 32))


def in_8_bits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of inputs that are rounded to whole numbers of 8 bits, each 32 with a scale."""
    groups = functional.pad(x, (0, -x.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    scales = groups.abs().amax(dim=-1, keepdim=True) / 127
    rounded = torch.where(scales > 0, (groups / scales).round(), 0) * scales
    return functional.linear(rounded.flatten(-2)[..., : x.shape[-1]], weight, bias)


@pytest.fixture
def rounds_inputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models' own passes do what the kernels do where the weights are whole numbers."""
    for module in (feed_forward, grouped_attention, matformer):
        monkeypatch.setattr(module, "linear", in_8_bits)
    return


def segment_of(tokens: list[int], submodel: Submodel, first_block: int, *, wants_logits: bool = True) -> Segment:
    blocks = range(first_block, first_block + -(-len(tokens) // 16))
    return Segment(tokens=tokens, start=0, blocks=list(blocks), submodel=submodel, wants_logits=wants_logits)


@pytest.mark.usefixtures("rounds_inputs")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [LLAMA, QWEN3, GPT2], ids=lambda family: family.name)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_whole_numbers_give_what_a_model_of_rounded_weights_and_inputs_gives(
    family: Family, tied: bool, kind: int
) -> None:
    model = model_of(family, tied=tied)
    runtime = NativeRuntime(model, n_blocks=8, threads=2, precisions=QUANTISED, kind=kind)
    tokens = tokens_of(40)
    for precision in QUANTISED:
        rounded = at_precision(model, precision)
        for widths in WIDTHS:
            expected = reference(rounded, tokens, Submodel(widths))
            (given_logits,) = runtime.run([segment_of(tokens, Submodel(widths, precision=precision), 2)])
            # An input that lies between two codes may be rounded to the other one: floats differ in their last bits.
            assert (given_logits - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights_are_multiplied_exactly(kind: int) -> None:
    model = model_of(LLAMA, tied=False)
    runtime = NativeRuntime(model, n_blocks=8, threads=1, precisions=["bfloat16"], kind=kind)
    submodel = Submodel(WIDTHS[1])
    expected = reference(at_precision(model, "bfloat16"), tokens_of(40), submodel)
    torch.testing.assert_close(runtime.run([segment_of(tokens_of(40), submodel, 0)])[0], expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_is_added_up_exactly(kind: int) -> None:
    """Weights and inputs at the ends of their ranges: no sum of products may pass what its register holds."""
    model = model_of(LLAMA)
    ends = torch.tensor([0, 255], dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    quantised = {
        name: QuantisedMatrix(
            ends[torch.randint(0, 2, matrix.shape, generator=generator)],
            torch.full((len(matrix), -(-matrix.shape[1] // GROUP)), 2.0**-9, dtype=torch.float16),
        )
        for name, matrix in matrices_of(model).items()
    }
    for precision in QUANTISED:
        plain = at_precision(model, precision, quantised)
        runtime = NativeRuntime(model, n_blocks=8, threads=1, precisions=QUANTISED, quantised=quantised, kind=kind)
        submodel = Submodel(WIDTHS[0], precision=precision)
        with pytest.MonkeyPatch.context() as patch:
            for module in (feed_forward, grouped_attention, matformer):
                patch.setattr(module, "linear", in_8_bits)
            expected = reference(plain, tokens_of(3), Submodel(WIDTHS[0]))
        (logits,) = runtime.run([segment_of(tokens_of(3), submodel, 0)])
        assert (logits - expected).norm() < 2e-2 * expected.norm()


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return model_of(LLAMA)


@pytest.fixture(scope="module")
def everything(model: MatFormer) -> NativeRuntime:
    return NativeRuntime(model, n_blocks=64, threads=2, precisions=PRECISIONS)


Rows = st.lists(
    st.tuples(st.integers(1, 20), st.sampled_from(WIDTHS), st.sampled_from(PRECISIONS), st.booleans()),
    min_size=2,
    max_size=12,
)


@settings(deadline=None, max_examples=25)
@given(rows=Rows)
def test_neither_company_nor_precision_of_others_changes_a_bit(
    model: MatFormer, everything: NativeRuntime, rows: list[tuple[int, tuple[int, ...], str, bool]]
) -> None:
    segments = [
        segment_of(tokens_of(count, seed), Submodel(widths, precision=precision), 2 * seed, wants_logits=wants)
        for seed, (count, widths, precision, wants) in enumerate(rows)
    ]
    together = everything.run(segments).clone()
    alone = [everything.run([each]).clone() for each in segments]
    asked = [logits for logits, each in zip(alone, segments, strict=True) if each.wants_logits]
    assert torch.equal(together, torch.cat(asked) if asked else together[:0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prompt_in_pieces_and_one_precision_alone_give_the_same_bits(
    model: MatFormer, everything: NativeRuntime, precision: str
) -> None:
    tokens, submodel = tokens_of(45), Submodel(WIDTHS[1], precision=precision)
    alone = NativeRuntime(model, n_blocks=4, threads=1, precisions=[precision])
    whole = everything.run([segment_of(tokens, submodel, 0)]).clone()
    for start, stop in ((0, 7), (7, 40), (40, 44), (44, 45)):
        piece = replace(segment_of(tokens, submodel, 0), tokens=tokens[start:stop], start=start)
        last = alone.run([piece]).clone()
    assert torch.equal(whole, last)


def test_a_submodel_that_names_no_precision_runs_in_the_most_precise(model: MatFormer) -> None:
    runtime = NativeRuntime(model, n_blocks=4, threads=1, precisions=QUANTISED)
    named = runtime.run([segment_of(tokens_of(9), Submodel(WIDTHS[0], precision="int8"), 0)]).clone()
    assert torch.equal(runtime.run([segment_of(tokens_of(9), Submodel(WIDTHS[0]), 0)]), named)
    with pytest.raises(LtsRayError, match="this runtime has int8, int4; a segment asks for bfloat16"):
        runtime.run([segment_of(tokens_of(9), Submodel(WIDTHS[0], precision="bfloat16"), 0)])


def test_8_bits_take_a_quarter_of_the_memory_and_4_half_of_that() -> None:
    model = model_of(LLAMA, d_model=256)
    sizes = {each: _weight_bytes(build_runtime(model, n_blocks=1, threads=1, precisions=[each])) for each in PRECISIONS}
    assert sizes["bfloat16"] == pytest.approx(sizes["float32"] / 2, rel=0.1)
    assert sizes["int8"] == pytest.approx(sizes["float32"] * 1.0625 / 4, rel=0.1)
    both = _weight_bytes(build_runtime(model, n_blocks=1, threads=1, precisions=QUANTISED))
    assert sizes["int4"] < both == sizes["int8"]


def _weight_bytes(runtime: object) -> int:
    assert isinstance(runtime, NativeRuntime)
    return runtime._packed.memory.nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_in_bfloat16_gives_what_the_model_gives_but_for_its_rounding(model: MatFormer, kind: int) -> None:
    tokens, submodel = tokens_of(45), Submodel(WIDTHS[0])
    expected = reference(model, tokens, submodel)
    runtimes = [
        NativeRuntime(model, n_blocks=4, threads=1, half_cache=True, kind=kind),
        TorchRuntime(model, n_blocks=4, threads=1, half_cache=True),
    ]
    for runtime in runtimes:
        whole = runtime.run([segment_of(tokens, submodel, 0)]).clone()
        error = float((whole - expected).norm() / expected.norm())
        assert 1e-5 < error < 2e-2  # nothing is rounded, or more than keys and values
    for start, stop in ((0, 31), (31, 44), (44, 45)):
        piece = replace(segment_of(tokens, submodel, 0), tokens=tokens[start:stop], start=start)
        last = runtimes[0].run([piece]).clone()
    exact = runtimes[0].run([segment_of(tokens, submodel, 0)])
    assert torch.equal(exact, last)
    floats = NativeRuntime(model, n_blocks=4, threads=1)
    assert runtimes[0]._cache.nbytes == floats._cache.nbytes // 2
