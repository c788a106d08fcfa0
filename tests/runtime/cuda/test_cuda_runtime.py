"""The GPU's runtime against the model's own pass: on a card where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace

import pytest
import torch

from lts_ray.decoding.sampler import Sampler
from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.family import GPT2, OPT, QWEN2, QWEN3
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.pick import GREEDY_PICK, ChosenToken, Pick
from lts_ray.runtime.runtime import BegunStep, pending
from lts_ray.runtime.segment import Segment
from lts_ray.submodel import Submodel
from tests.runtime.reference import Sequences, random_model

pytest.importorskip("triton")
from lts_ray.runtime import cuda_runtime
from lts_ray.runtime.cuda import bucket, cuda_steps, launch
from lts_ray.runtime.cuda.cuda_steps import RING
from lts_ray.runtime.cuda.step_graphs import StepGraphs
from lts_ray.runtime.cuda_runtime import CudaRuntime

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = MatFormerConfig(vocab_size=70, d_model=32, n_head=4, n_kv_head=2, widths=(48,), context_length=64)
AXES = replace(SHAPE, nested_heads={"S": 0.5}, nested_d_model={"S": 0.5, "M": 0.75})
CONFIGS = {
    "llama": replace(AXES, widths=(48, 40), tied=False),
    "qwen2": replace(SHAPE, family=QWEN2, n_kv_head=1),
    "qwen3": replace(AXES, family=QWEN3, head_dim=12),
    "gpt2": replace(AXES, family=GPT2, n_kv_head=4),
    "opt": replace(SHAPE, family=OPT, n_kv_head=4, tied=False),
}
STEPS = (
    [(0, 5, "XL"), (1, 18, "M")],
    [(2, 1, "S"), (0, 1, "L"), (1, 3, "XL"), (3, 17, "M")],  # pieces beside rows that decode
    [(1, 1, "S"), (3, 1, "XL"), (0, 1, "M")],  # wider and narrower than before; no bucket of three
)
STEPS_OF = {"qwen2": 2, "gpt2": 2, "opt": 2}
"""As many of them where not all."""
CLOSE = {"atol": 3e-4, "rtol": 3e-4}


@pytest.fixture(autouse=True, scope="module")
def small_steps() -> Iterator[None]:
    """In the interpreter, to which a program is a millisecond: less padding, and contexts cut into two parts."""
    options = launch.rows_options
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setattr(bucket, "BESIDE_PIECES", (0, 2, 4, 16, 256))
            patch.setattr(bucket, "LEAST_ROWS", 8)
            patch.setattr(launch, "rows_options", lambda *shape: {**options(*shape), "SPLITS": 2, "SPLIT_PLACES": 16})
        yield


def model_of(config: MatFormerConfig, dtype: torch.dtype = torch.float32) -> MatFormer:
    return random_model(config).to(DEVICE, dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_row_gets_what_its_sequence_would_get_alone(name: str) -> None:
    model = model_of(CONFIGS[name])
    sequences = Sequences(model, CudaRuntime(model, n_blocks=9), n=4)
    for parts in STEPS[: STEPS_OF.get(name)]:
        got, expected = sequences.step(*parts)
        assert expected.std() > 0.1
        torch.testing.assert_close(got, expected, **CLOSE)


def test_layers_may_differ_in_width_and_weights_be_float16() -> None:
    model = model_of(CONFIGS["llama"], torch.float16)
    sequences = Sequences(model, CudaRuntime(model, n_blocks=9), n=4)
    for parts in ([(0, 5, "7,40"), (1, 3, "48,5")], [(1, 1, "XL"), (0, 1, "20/2,9/4@16")]):
        got, expected = sequences.step(*parts)
        assert got.dtype == torch.float32
        assert (got - expected).norm() < 0.01 * expected.norm()


MODEL = model_of(SHAPE)
RUNTIME = CudaRuntime(MODEL, n_blocks=8)
XL, S = SHAPE.universal, SHAPE.submodel("S")


def segment(tokens: Sequence[int], start: int, blocks: Sequence[int], submodel: Submodel = XL) -> Segment:
    return Segment(tokens=tokens, start=start, blocks=blocks, submodel=submodel, wants_logits=True)


def alone(tokens: Sequence[int], submodel: Submodel = XL) -> torch.Tensor:
    with torch.inference_mode():
        return MODEL(torch.tensor([tokens], device=DEVICE), submodel=submodel, last_only=True)[0, -1].cpu()


def test_sequences_may_share_the_blocks_of_a_common_beginning() -> None:
    tokens = list(range(40))
    first = RUNTIME.run([segment(tokens[:36], 0, (5, 2, 7))])
    again = RUNTIME.run([segment(tokens[32:36], 32, (5, 2, 1)), segment(tokens[16:36], 16, (5, 4, 3))])
    torch.testing.assert_close(again, first.expand(2, -1), **CLOSE)


SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8),
    Sampling(temperature=1.5, top_k=5, top_p=0.7),
    Sampling(temperature=3.0, min_p=0.1),
)


def test_steps_go_on_from_tokens_that_are_being_chosen_and_choose_what_a_cpu_would() -> None:
    """Each step is begun before the tokens of the one before it are asked for; the order of the rows changes."""
    prompts, submodels = ([3, 1, 4], [1, 5], [9, 2, 6], [8]), (XL, S, XL, S)
    logprobs: tuple[int | None, ...] = (None, 0, None, 3)
    samplers = [
        [
            Sampler(sampling, generator=torch.Generator().manual_seed(row), prompt=(), top_logprobs=logprobs[row])
            for row, sampling in enumerate(SAMPLINGS)
        ]
        for _ in range(2)
    ]

    def begin(tokens: Sequence[Sequence[int]], turn: int) -> BegunStep:
        picks = [pick for sampler in samplers[0] if (pick := sampler.pick()) is not None]
        starts = [len(prompt) + turn - 1 if turn else 0 for prompt in prompts]
        segments = [segment(tokens[row], starts[row], (row,), submodels[row]) for row in range(4)]
        return RUNTIME.begin(segments, picks)

    begun = [begin(prompts, 0), *(begin([[pending(row)] for row in range(4)], turn) for turn in (1, 2))]
    chosen = [step.chosen() for step in reversed(begun)][::-1]
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        for step in chosen:
            expected, found = samplers[1][row].choose(alone(tokens, submodels[row])), step[row]
            assert found.token == expected.token
            assert found.logprob == pytest.approx(expected.logprob, abs=1e-3)
            assert [token for token, _ in found.top] == [token for token, _ in expected.top]
            assert [value for _, value in found.top] == pytest.approx([value for _, value in expected.top], abs=1e-3)
            tokens.append(found.token)


def test_a_step_larger_than_every_bucket_is_run_in_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its tokens are of the step before, of which the first launch would overwrite what the last reads."""
    monkeypatch.setattr(cuda_runtime, "LARGEST", bucket.Bucket(4, 2, 2, 2))
    prompts = [[3, 1, 4, 1, 5, 9], [7], [6, 6], [8]]
    first = RUNTIME.begin([segment(prompt, 0, (row,)) for row, prompt in enumerate(prompts)], [GREEDY_PICK] * 4)
    order = [3, 2, 1, 0]
    second = RUNTIME.begin(
        [segment([pending(row)], len(prompts[row]), (row,)) for row in order], [Pick(logprobs=0)] * 4
    )
    tokens = [each.token for each in first.chosen()]
    assert tokens == [int(alone(prompt).argmax()) for prompt in prompts]
    expected = [alone([*prompts[row], tokens[row]]).log_softmax(-1) for row in order]
    found = second.chosen()
    assert [each.token for each in found] == [int(row.argmax()) for row in expected]
    assert [each.logprob for each in found] == pytest.approx([float(row.max()) for row in expected], abs=1e-3)
    logits = RUNTIME.run([segment([tokens[row]], len(prompts[row]), (row,)) for row in order])
    torch.testing.assert_close(logits.log_softmax(-1), torch.stack(expected), **CLOSE)


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    first = RUNTIME.begin([segment([1], 0, (7,))], [GREEDY_PICK]).chosen()
    for wrong, message in [
        (segment([1] * 65, 0, range(5)), "do not fit its 5 blocks and the context of 64"),
        (segment([1], 16, (0,)), "places 16 to 16 do not fit its 1 blocks"),
        (segment([1], -1, (0,)), "places -1 to -1"),
        (segment([], 0, (0,)), "no tokens"),
        (segment([70], 0, (0,)), "vocabulary's size, 70"),
        (segment([pending(1)], 0, (0,)), "below 0, and none of the 1"),
        (segment([1], 0, (8,)), "cache's 8"),
        (segment([1], 0, (-1,)), "cache's 8"),
        (segment([1], 0, (0,), Submodel((48, 48))), "2 widths"),
        (segment([1], 0, (0,), Submodel((49,))), "48 neurons"),
        (segment([1], 0, (0,), replace(XL, precision="int8")), "this runtime has float32; a segment asks for int8"),
    ]:
        with pytest.raises(LtsRayError, match=message):
            RUNTIME.begin([segment([2], 0, (7,)), wrong], [GREEDY_PICK] * 2)
    with pytest.raises(LtsRayError, match="2 picks for 1 segments that ask"):
        RUNTIME.begin([segment([2], 0, (7,))], [GREEDY_PICK] * 2)
    with pytest.raises(LtsRayError, match="no segments"):
        RUNTIME.run([])
    second = RUNTIME.begin([segment([pending(0)], 1, (7,))], [GREEDY_PICK]).chosen()
    assert second == [ChosenToken(int(alone([1, first[0].token]).argmax()))]


def test_a_step_without_logits_has_none() -> None:
    silent = replace(segment([1], 0, (1,)), wants_logits=False)
    assert RUNTIME.run([silent]).shape == (0, SHAPE.vocab_size)
    assert RUNTIME.begin([silent], []).chosen() == []


def test_preparing_runs_every_usual_step_with_nothing_but_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, so that each graph has been replayed: whatever earlier steps have left in the host's memory."""
    steps, ran = RUNTIME._steps, list[bucket.Bucket]()

    def run(graphs: StepGraphs, size: bucket.Bucket, launch: object) -> None:
        data = steps._data_of(size)
        assert (data.places == -1).all()
        for name in ("dims", "widths", "heads", "sizes", "counts", "singles"):
            assert not getattr(data, name).any()
        ran.append(size)

    monkeypatch.setattr(StepGraphs, "run", run)
    monkeypatch.setattr(cuda_steps, "compile_steps", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    for _ in range(RING):
        next(steps._ring)[0].memory.fill_(7)
    RUNTIME.prepare()
    assert {size: ran.count(size) for size in ran} == dict.fromkeys(bucket.usual_buckets(steps._tile), 2)


def test_a_model_may_be_prepared_after_one_whose_kernels_did_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling = ContextVar("compiling", default=False)

    def compile_steps(*_: object, **__: object) -> None:
        assert not compiling.get(), "as Triton sees it"
        compiling.set(True)
        raise LtsRayError("no such instruction")

    monkeypatch.setattr(cuda_steps, "compile_steps", compile_steps)
    for _ in range(2):
        with pytest.raises(LtsRayError, match="no such instruction"):
            RUNTIME.prepare()


def test_it_says_what_it_keeps() -> None:
    cache = 2 * 8 * 2 * 16 * 8 * 4  # keys and values, blocks, heads, places, dimensions, bytes
    assert cache < RUNTIME.kept_bytes
    assert CudaRuntime(MODEL, n_blocks=16).kept_bytes == RUNTIME.kept_bytes + cache
