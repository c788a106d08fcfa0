"""The compiled kernels against the model itself, for every family; and that a row's company never matters to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.models.family import GPT2, LLAMA, MISTRAL, OPT, QWEN2, QWEN3, Family
from lts_ray.models.feed_forward import ACTIVATIONS
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime import kernel_library as kernel_library_module
from lts_ray.runtime import native_runtime
from lts_ray.runtime.kernel_library import LAYOUT, constant, kernel_library, kernel_problem, thread_steps
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel

FAMILIES = (LLAMA, QWEN2, QWEN3, MISTRAL, GPT2, OPT, replace(GPT2, name="exact-gelu", activation="gelu"))
VOCABULARY = 301
LIBRARY = kernel_library()
if LIBRARY is None:
    pytest.skip(str(kernel_problem()), allow_module_level=True)


def model_of(family: Family, *, tied: bool = True, n_kv_head: int = 2, d_model: int = 32) -> MatFormer:
    """No dimension is a whole number of registers: every rest of a loop is used. Biases and norms are random."""
    config = MatFormerConfig(
        vocab_size=VOCABULARY,
        d_model=d_model,
        n_head=n_kv_head * 2,
        n_kv_head=n_kv_head,
        widths=(70,) * 3,
        context_length=96,
        family=family,
        tied=tied,
    )
    model = MatFormer(config).eval()
    randomize(model)
    return model


def randomize(model: MatFormer) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def tokens_of(count: int, seed: int = 1) -> list[int]:
    return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def reference(model: MatFormer, tokens: list[int], submodel: Submodel) -> torch.Tensor:
    """Logits after the last token."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens]), submodel=submodel)
    return logits[0, -1]


def whole(tokens: list[int], submodel: Submodel, blocks: list[int]) -> Segment:
    return Segment(tokens=tokens, start=0, blocks=blocks, submodel=submodel, wants_logits=True)


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return model_of(LLAMA)


@pytest.fixture(scope="module")
def runtime(model: MatFormer) -> NativeRuntime:
    return NativeRuntime(model, n_blocks=24, threads=1)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
def test_a_step_computes_what_the_model_computes(family: Family, tied: bool) -> None:
    """One sequence in two pieces and another one in one, at different submodels, in the same steps."""
    model = model_of(family, tied=tied, d_model=40 if family.positions == "learned" else 32)
    runtime = NativeRuntime(model, n_blocks=8, threads=2)
    mixed, small = model.config.submodel("8,70,33"), model.config.trained["S"]
    long, short = tokens_of(37), tokens_of(5, seed=2)
    first = Segment(tokens=long[:20], start=0, blocks=[3, 7], submodel=mixed, wants_logits=False)
    logits = runtime.run([first, whole(short[:4], small, [4])]).clone()
    torch.testing.assert_close(logits[0], reference(model, short[:4], small), atol=2e-5, rtol=1e-4)
    rest = Segment(tokens=long[20:], start=20, blocks=[3, 7, 1], submodel=mixed, wants_logits=True)
    last = Segment(tokens=short[4:], start=4, blocks=[4], submodel=small, wants_logits=True)
    logits = runtime.run([last, rest]).clone()
    torch.testing.assert_close(logits[0], reference(model, short, small), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(logits[1], reference(model, long, mixed), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", range(len(thread_steps(LIBRARY))), ids=lambda each: f"kind {each}")
def test_every_kind_of_cpu_that_this_one_is_computes_the_same(model: MatFormer, kind: int) -> None:
    """The plainest has no fused multiply-add: close, not equal."""
    runtime = NativeRuntime(model, n_blocks=32, threads=1, kind=kind)
    submodels = list(model.config.trained.values())
    segments = [whole(tokens_of(3 + 4 * i, seed=i), submodels[i % 4], [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(9)]
    for row, segment in zip(runtime.run(segments), segments, strict=True):
        torch.testing.assert_close(row, reference(model, list(segment.tokens), segment.submodel), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("n_kv_head", [1, 4], ids=["one head of keys", "four"])
def test_any_number_of_query_heads_may_share_a_head_of_keys(n_kv_head: int) -> None:
    model = model_of(replace(LLAMA, qkv_bias=True), n_kv_head=n_kv_head)
    runtime = NativeRuntime(model, n_blocks=8, threads=1)
    tokens = tokens_of(50)
    logits = runtime.run([whole(tokens, model.config.universal, [5, 0, 2, 6])])
    torch.testing.assert_close(logits[0], reference(model, tokens, model.config.universal), atol=2e-5, rtol=1e-4)


@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_a_row_gets_the_same_bits_in_any_company(model: MatFormer, runtime: NativeRuntime, data: st.DataObject) -> None:
    """However its prompt is cut, whatever runs beside it, in whichever blocks: it is what makes seeds reproducible."""
    names = list(model.config.trained)
    tokens = tokens_of(data.draw(st.integers(2, 60), label="length"))
    submodel = model.config.trained[data.draw(st.sampled_from(names), label="submodel")]
    alone = runtime.run([whole(tokens, submodel, [0, 1, 2, 3])]).clone()[0]
    order = data.draw(st.permutations(range(4, 24)), label="blocks")
    mine, others = order[:4], order[4:]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(tokens) - 1), max_size=3), label="cuts"))
    for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        company = [
            whole(
                tokens_of(data.draw(st.integers(1, 16), label="beside"), seed=number),
                model.config.trained[data.draw(st.sampled_from(names), label="their submodel")],
                [others[number]],
            )
            for number in range(data.draw(st.integers(0, 9), label="how many beside"))
        ]
        piece = Segment(tokens=tokens[start:stop], start=start, blocks=mine, submodel=submodel, wants_logits=True)
        at = data.draw(st.integers(0, len(company)), label="where among them")
        logits = runtime.run([*company[:at], piece, *company[at:]])[at]
    assert torch.equal(logits, alone)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    """Not even for a thread that is far behind: its caller was once put aside while it normalised, and then spoiled the
    rows that the others had made ready for the head. One narrow layer and a large head make that likely: that kernel
    failed here in each of six runs.
    """
    config = MatFormerConfig(vocab_size=60_000, d_model=512, n_head=8, n_kv_head=2, widths=(64,), context_length=16)
    model = MatFormer(config).eval()
    randomize(model)
    segments = [whole(tokens_of(1, seed=i), config.universal, [i]) for i in range(16)]
    expected = NativeRuntime(model, n_blocks=16, threads=1).run(segments)
    for threads in (2, 4):
        runtime = NativeRuntime(model, n_blocks=16, threads=threads)
        assert sum(not torch.equal(runtime.run(segments), expected) for _ in range(150)) == 0


def test_sequences_may_share_the_blocks_of_a_common_prefix(model: MatFormer, runtime: NativeRuntime) -> None:
    prefix, first, second = tokens_of(32), tokens_of(3, seed=3), tokens_of(4, seed=4)
    submodel = model.config.universal
    runtime.run([whole(prefix, submodel, [8, 9])])
    ends = [
        Segment(tokens=tokens, start=32, blocks=[8, 9, own], submodel=submodel, wants_logits=True)
        for tokens, own in ((first, 10), (second, 11))
    ]
    logits = runtime.run(ends).clone()
    for row, tokens in zip(logits, (first, second), strict=True):
        assert torch.equal(row, runtime.run([whole([*prefix, *tokens], submodel, [12, 13, 14])])[0])


def test_a_response_may_change_its_width_from_step_to_step(model: MatFormer, runtime: NativeRuntime) -> None:
    """As the model does it with its own cache."""
    from lts_ray.models.kv_cache import KVCache

    tokens, names = tokens_of(24), ["XL", "S", "L", "M"]
    cache = KVCache.empty(model.config, rows=1, length=24, dtype=torch.float32)
    for index, token in enumerate(tokens):
        submodel = model.config.trained[names[index % 4]]
        step = Segment(tokens=[token], start=index, blocks=[2, 5], submodel=submodel, wants_logits=True)
        logits = runtime.run([step])[0]
        with torch.inference_mode():
            expected = model(torch.tensor([[token]]), submodel=submodel, cache=cache)[0, -1]
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)


def test_steps_of_any_size_get_room(model: MatFormer) -> None:
    runtime = NativeRuntime(model, n_blocks=200, threads=1)
    segments = [whole(tokens_of(3, seed=i), model.config.universal, [i]) for i in range(150)]
    logits = runtime.run(segments).clone()
    for i in (0, 77, 149):
        assert torch.equal(logits[i], runtime.run([segments[i]])[0])


def test_sets_of_submodels_that_are_let_go_are_read_again(model: MatFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lts_ray.runtime.native_runtime.MOST_KEPT", 1)
    runtime = NativeRuntime(model, n_blocks=2, threads=1)
    tokens, widths = tokens_of(5), model.config.trained.values()
    expected = [reference(model, tokens, submodel) for submodel in widths]
    for _ in range(2):
        for submodel, logits in zip(widths, expected, strict=True):
            torch.testing.assert_close(runtime.run([whole(tokens, submodel, [1])])[0], logits, atol=2e-5, rtol=1e-4)
            runtime.run([whole(tokens, submodel, [0]), whole(tokens, model.config.universal, [1])])


def test_the_first_step_may_want_no_logits(model: MatFormer) -> None:
    piece = Segment(tokens=[1, 2], start=0, blocks=[0], submodel=model.config.universal, wants_logits=False)
    assert NativeRuntime(model, n_blocks=1, threads=1).run([piece]).shape == (0, VOCABULARY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "no tokens"),
        ({"tokens": [VOCABULARY]}, "vocabulary"),
        ({"tokens": [-1]}, "vocabulary"),
        ({"blocks": [24]}, "one of the cache's 24"),
        ({"blocks": []}, "do not fit"),
        ({"start": 16}, "do not fit"),
        ({"start": 96, "blocks": list(range(7))}, "context of 96"),
        ({"submodel": Submodel((1, 1))}, "3 layers"),
        ({"submodel": Submodel((1, 1, 71))}, "layer 2"),
    ],
    ids=str,
)
def test_numbers_that_would_lead_out_of_memory_are_refused(
    model: MatFormer, runtime: NativeRuntime, change: dict[str, object], message: str
) -> None:
    good = Segment(tokens=[1], start=0, blocks=[0], submodel=model.config.universal, wants_logits=True)
    with pytest.raises(LtsRayError, match=message):
        runtime.run([good, replace(good, **change)])  # type: ignore[arg-type]


def test_a_model_in_another_precision_is_refused() -> None:
    with pytest.raises(LtsRayError, match="float32"):
        NativeRuntime(model_of(LLAMA).double(), n_blocks=1, threads=1)


@pytest.fixture
def loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library_module, "_load", kernel_library_module._load.__wrapped__)


@pytest.mark.usefixtures("loaded_anew")
@pytest.mark.parametrize("name", LAYOUT)
def test_a_library_that_lays_memory_out_otherwise_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIBRARY is not None
    assert constant(LIBRARY, name) == LAYOUT[name]
    monkeypatch.setitem(LAYOUT, name, LAYOUT[name] + 8)
    assert kernel_library() is None
    assert f"were compiled from other sources ({name})" in str(kernel_problem())


@pytest.mark.usefixtures("loaded_anew")
def test_a_library_without_a_constant_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUT, "unheard_of", 1)
    assert kernel_library() is None
    assert "lts_unheard_of" in str(kernel_problem())


@pytest.mark.parametrize("room", ["own", "scores"])
def test_room_is_made_by_what_the_compiled_code_says_that_it_needs(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in C alone must not write past a buffer."""
    needs = {"own": "few_rows", "scores": "heads_at_once"}[room]
    config = model_of(LLAMA).config

    def floats() -> int:
        assert LIBRARY is not None
        return native_runtime.StepRoom(LIBRARY, config, ["float32"], rows=4, threads=3).memory[room].numel()

    before = floats()
    monkeypatch.setattr(
        native_runtime, "constant", lambda library, name: constant(library, name) * (2 if name == needs else 1)
    )
    assert floats() == 2 * before


def test_activations_are_numbered_by_the_compiled_code() -> None:
    assert LIBRARY is not None
    assert sorted(constant(LIBRARY, name) for name in ACTIVATIONS) == list(range(len(ACTIVATIONS)))


def test_a_cache_that_is_forgotten_takes_no_memory_and_is_written_anew(model: MatFormer) -> None:
    runtime = NativeRuntime(model, n_blocks=64, threads=1)
    tokens, submodel = tokens_of(50), Submodel((70, 70, 70))
    before = runtime.run([whole(tokens, submodel, [60, 3, 61, 9])]).clone()
    assert runtime._cache.any()
    runtime.forget()
    assert not runtime._cache.any()
    assert torch.equal(runtime.run([whole(tokens, submodel, [60, 3, 61, 9])]), before)
