"""The comparison of decoders takes turns, divides what it says it divides, and drives the runtime as a model would."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import typer
from torch import Tensor
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from benchmarks import decode as benchmark
from benchmarks.common.machine import Machine
from benchmarks.decode import decode, random_prompts, read_bandwidth, step_bytes
from benchmarks.decoders import gguf_files, llama_cpp_decoder, step_python
from benchmarks.decoders.decode_result import DecodeResult
from benchmarks.decoders.decode_times import (
    CONTINUOUS,
    CTRANSLATE2,
    ENGINE,
    LLAMA_CPP,
    RUNTIME,
    TRANSFORMERS,
    Decoder,
    DecodeTimes,
    DecodeWork,
    Prompts,
    Way,
    agreement,
    time_decoding,
    time_reading,
)
from benchmarks.decoders.our_decoders import bare_runtime, loss_of
from benchmarks.decoders.rival_decoders import RIVALS, open_rivals, why_missing
from benchmarks.decoders.step_python import StepPython
from lts_ray.decoding.plain_loop import generate
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.runtime import BLOCK_TOKENS
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_calibration import measure_step_costs
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from serve.engine.observer import StepRecord
from tests.conftest import make_model


def work(batches: Sequence[int], *, new_tokens: int, submodels: Sequence[str] = ("S", "XL")) -> DecodeWork:
    return DecodeWork(
        submodels=submodels,
        precisions=("float32", "int8"),
        batches=batches,
        prompt_tokens=9,
        new_tokens=new_tokens,
        read_tokens=20,
        threads=2,
    )


class FakeDecode:
    """Takes `read_s` for prompts and `step_s` for each token after the first; token n is n."""

    def __init__(self, clock: Clock, *, read_s: float, step_s: float, extra: int = 0) -> None:
        self._clock, self._read_s, self._step_s, self._extra = clock, read_s, step_s, extra

    def __call__(self, prompts: Prompts, new_tokens: int) -> list[list[int]]:
        self._clock.now += self._read_s + (new_tokens - 1) * self._step_s
        self._clock.asked.append((self, len(prompts), new_tokens))
        return [list(range(new_tokens + self._extra)) for _ in prompts]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[FakeDecode, int, int]] = []

    def __call__(self) -> float:
        return self.now


def test_steps_are_told_from_reading_the_prompt_and_ways_take_turns() -> None:
    clock, told = Clock(), []
    ours, theirs = FakeDecode(clock, read_s=1.0, step_s=0.002), FakeDecode(clock, read_s=9.0, step_s=0.005)
    rows = time_decoding(
        {Way(RUNTIME, "XL"): ours, Way(CTRANSLATE2, "XL"): theirs},
        [[1, 2]] * 4,
        work([1, 4], new_tokens=11),
        rounds=2,
        clock=clock,
        progress=lambda *each: told.append(each),
    )
    assert [(row.way.engine, row.batch) for row in rows] == [
        (RUNTIME, 1),
        (RUNTIME, 4),
        (CTRANSLATE2, 1),
        (CTRANSLATE2, 4),
    ]
    assert [row.step_ms for row in rows] == pytest.approx([2.0, 2.0, 5.0, 5.0])
    assert [row.tokens_per_second for row in rows] == pytest.approx([500.0, 2000.0, 200.0, 800.0])
    assert {row.agreement for row in rows} == {1.0}
    assert told == [(done, 12) for done in range(1, 13)]
    firsts = [asked[0] for asked in clock.asked[::2]]
    assert [each is ours for each in firsts[0::2]] != [each is ours for each in firsts[1::2]]
    assert sum(1 for _, _, tokens in clock.asked if tokens == 11) == 8


def test_a_way_that_gives_more_or_fewer_tokens_than_asked_is_refused() -> None:
    clock = Clock()
    with pytest.raises(LtsRayError, match=r"CTranslate2 was to give 1 x 1 tokens; got \[2\]"):
        time_decoding(
            {Way(CTRANSLATE2, "XL"): FakeDecode(clock, read_s=1.0, step_s=1.0, extra=1)},
            [[1]],
            work([1], new_tokens=3),
            rounds=1,
            clock=clock,
        )


def test_tokens_agree_until_the_first_that_differs() -> None:
    assert agreement([[1, 2, 3, 4]], [[1, 2, 9, 4]]) == 0.5
    assert agreement([[1, 2], [3, 4]], [[1, 2], [9, 4]]) == 0.5
    assert agreement([[1, 2]], [[1, 2]]) == 1


def times(engine: str, submodel: str, batch: int, step_ms: float, precision: str = "float32") -> DecodeTimes:
    return DecodeTimes(
        way=Way(engine, submodel, precision),
        batch=batch,
        new_tokens=3,
        whole_ms=(2 * step_ms + 5,) * 3,
        first_ms=(5.0,) * 3,
        agreement=1.0,
    )


DECODE = FakeDecode(Clock(), read_s=0.0, step_s=0.0)
STEP = StepRecord(
    at_s=0.0,
    predicted_ms=1.0,
    actual_ms=1.0,
    decoded=1,
    prompt_tokens=0,
    reused_tokens=0,
    switches=0,
    preempted=0,
)
TIMES = (
    times(ENGINE, "XL", 1, 4.0),
    times(ENGINE, "S", 1, 2.2),
    times(ENGINE, "XL", 1, 2.0, "int8"),
    times(LLAMA_CPP, "XL", 1, 3.0, "Q8_0"),
    times(RUNTIME, "XL", 1, 3.0),
    times(TRANSFORMERS, "XL", 1, 9.0),
    times(CONTINUOUS, "XL", 1, 7.0),
    times(CTRANSLATE2, "XL", 1, 5.0),
    times(ENGINE, "XL", 4, 5.0),
    times(CTRANSLATE2, "XL", 4, 1.0),
)
LOSSES = {Way(ENGINE, "XL", "int8"): 3.01, Way(LLAMA_CPP, "XL", "Q8_0"): 3.02}
READ_MS = {Way(ENGINE, "XL", "int8"): 10.0, Way(LLAMA_CPP, "XL", "Q8_0"): 15.0}
RESULT = DecodeResult(
    times=TIMES,
    step_bytes={(each.way, each.batch): 500 if each.way.submodel == "S" else 1000 for each in TIMES},
    read_ms={each.way: READ_MS.get(each.way, 20.0) for each in TIMES},
    losses={each.way: LOSSES.get(each.way, 3.0) for each in TIMES},
    work=work([1, 4], new_tokens=3),
    bandwidth=1e6,
    prediction_error=0.05,
    step_python_ms={1: 0.1},
    seed=0,
    machine=Machine(cpu="some cpu", cores=2, gpu=None, torch="2.0", commit=None),
    versions={"torch": "2.0"},
)


def test_ratios_are_of_the_engine_over_the_better_of_transformers_ways_and_only_where_measured() -> None:
    found = {name: ratio for name, ratio in RESULT.ratios().items() if ", batch" in name}
    assert found == {
        "S@float32, batch 1: gain over XL, of what its bytes promise": pytest.approx(4 / 2.2 / 2),
        "XL@float32, batch 1: x transformers' best, float32": pytest.approx(1.75),
        "XL@float32, batch 1: x CTranslate2, float32": pytest.approx(1.25),
        "XL@float32, batch 4: x CTranslate2, float32": pytest.approx(0.2),
        "XL@int8, batch 1: x llama.cpp, Q8_0": pytest.approx(1.5),
    }


def test_prompts_and_losses_are_beside_the_most_precise_and_others_of_the_same_precision() -> None:
    found = {
        name: ratio for name, ratio in RESULT.ratios().items() if name.startswith("XL@int8") and "batch" not in name
    }
    assert found == {
        "XL@int8, prompt of 20: x llama.cpp, Q8_0": pytest.approx(1.5),
        "XL@int8: loss above llama.cpp, Q8_0": pytest.approx(-0.01),
        "XL@int8, prompt of 20: x float32": pytest.approx(2.0),
        "XL@int8: loss above float32": pytest.approx(0.01),
    }


def test_the_bandwidth_share_is_of_the_bytes_of_a_step() -> None:
    assert RESULT.bandwidth_share(RESULT.times[0]) == pytest.approx(1000 / 4e-3 / 1e6)
    found = json.loads(json.dumps(RESULT.to_json()))
    assert [(row["submodel"], row["batch"], row["loss"]) for row in found["rows"]][:2] == [
        ("S", 1, 3.0),
        ("XL", 1, 3.0),
    ]
    assert found["rows"][1]["bandwidth_share"] == pytest.approx(0.25)
    assert found["rows"][1]["tokens_per_second"] == pytest.approx(250)
    assert found["ratios"]["XL@float32, batch 4: x CTranslate2, float32"] == pytest.approx(0.2)


def test_a_step_reads_every_weight_once_but_of_the_embedding_only_as_the_output_matrix(universal: MatFormer) -> None:
    config = universal.config
    whole, half = (Decoder(decode=DECODE, loss=lambda windows: 0.0, weight_bytes=each) for each in (4, 2.5))
    weights = sum(each.numel() for each in universal.parameters())
    cached = 3 * 2 * 2 * 8  # layers, keys and values, heads, dimensions
    assert step_bytes(config, config.universal, whole, batch=2, context=10) == 4 * (weights + 2 * 10 * cached)
    assert step_bytes(config, config.universal, half, batch=1, context=10) == 2.5 * weights + 4 * 10 * cached
    narrow = config.trained["S"]
    dropped = 3 * 32 * sum(64 - width for width in narrow.widths)
    assert step_bytes(config, narrow, whole, batch=1, context=0) == 4 * (weights - dropped)


def test_a_buffer_is_read_at_the_rate_of_the_fastest_run() -> None:
    """By a clock on which each run takes half as long as the one before it, down to the last."""
    readings, now = count(), [0.0]

    def clock() -> float:
        number = next(readings)
        now[0] += 2.0 ** -(number // 2) if number % 2 else 1.0
        return now[0]

    found = read_bandwidth(threads=1, megabytes=1, clock=clock)
    assert found == pytest.approx(4 * 4096 * 61 / 2.0**-19)


class ModelRuntime:
    """Runs the model over everything that a sequence's blocks have been given, without a cache."""

    def __init__(self, model: MatFormer) -> None:
        self.config, self.n_blocks = model.config, 64
        self._model = model
        self._held: dict[tuple[int, int], int] = {}

    def run(self, segments: Sequence[Segment]) -> Tensor:
        logits = []
        for segment in segments:
            assert len(segment.blocks) == -(-segment.stop // BLOCK_TOKENS)
            for place, token in enumerate(segment.tokens, start=segment.start):
                self._held[segment.blocks[place // BLOCK_TOKENS], place % BLOCK_TOKENS] = token
            tokens = [
                self._held[segment.blocks[place // BLOCK_TOKENS], place % BLOCK_TOKENS] for place in range(segment.stop)
            ]
            with torch.inference_mode():
                logits.append(self._model(torch.tensor([tokens]), submodel=segment.submodel)[0, -1])
        return torch.stack(logits)


def test_the_bare_runtime_decodes_what_the_model_does(universal: MatFormer) -> None:
    submodel = universal.config.trained["L"]
    prompts = random_prompts(universal.config, count=3, tokens=14, seed=1)
    assert prompts == random_prompts(universal.config, count=3, tokens=14, seed=1)
    found = bare_runtime(ModelRuntime(universal), submodel)(prompts, 7)
    assert found == [list(generate(universal, prompt, submodel=submodel, max_tokens=7)) for prompt in prompts]


def test_a_prompt_is_read_alone_and_its_first_token_ends_the_time() -> None:
    clock = Clock()
    way = Way(ENGINE, "XL", "int8")
    fake = FakeDecode(clock, read_s=0.25, step_s=100.0)
    assert time_reading({way: fake}, [1, 2, 3], rounds=3, clock=clock) == pytest.approx({way: 250.0})
    assert clock.asked == [(fake, 1, 1)] * 4


def test_a_loss_token_by_token_is_that_of_the_whole_windows(universal: MatFormer) -> None:
    windows = torch.randint(universal.config.vocab_size, (3, 21), generator=torch.Generator().manual_seed(3))
    submodel = universal.config.trained["M"]
    with torch.inference_mode():
        logits = universal(windows[:, :-1], submodel=submodel)
    expected = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert loss_of(ModelRuntime(universal), submodel, windows) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_gives_our_tokens_and_loss_and_goes_on_past_an_end_of_text(
    name: str, model_dir: Path, tmp_path: Path
) -> None:
    """The end of text is what the model says first: whoever heeded it would stop there, or say something else.

    In fewer bits the tokens may be others, and the loss is near.
    """
    if reason := why_missing(name):
        pytest.skip(reason)
    model = make_model(seed=5)
    prompts = random_prompts(model.config, count=2, tokens=9, seed=2)
    windows = torch.tensor(random_prompts(model.config, count=3, tokens=21, seed=4))
    expected, losses = {}, {}
    for submodel in ("L", "XL"):
        chosen = model.config.trained[submodel]
        expected[submodel] = [list(generate(model, each, submodel=chosen, max_tokens=5)) for each in prompts]
        losses[submodel] = loss_of(ModelRuntime(model), chosen, windows)
    ended = MatFormer(replace(model.config, eos_token_id=expected["XL"][0][0]))
    ended.load_state_dict(model.state_dict())
    save_checkpoint(ended.eval(), tmp_path / "model")
    save_tokenizer(load_tokenizer(model_dir), tmp_path / "model")
    asked = work([2], new_tokens=5, submodels=("L", "XL"))
    with open_rivals([name], tmp_path / "model", asked, tmp_path / "scratch") as ways:
        assert {way.submodel for way in ways} == {"L", "XL"}
        for way, decoder in ways.items():
            exact = way.kind[2] == "float32"
            found = decoder.decode(prompts, 5)
            assert found == expected[way.submodel] or (not exact and [len(each) for each in found] == [5, 5])
            assert decoder.decode(prompts[:1], 1) == [found[0][:1]]
            assert decoder.loss(windows) == pytest.approx(losses[way.submodel], abs=2e-3 if exact else 0.3)
            assert 0.5 < decoder.weight_bytes < 8


class FakeLlama:
    """llama.cpp's C interface over a model of ours: what was put into a batch is what it runs."""

    LLAMA_FTYPE_MOSTLY_Q4_0 = 2

    def __init__(self, model: MatFormer) -> None:
        self._model, self.rows = model, dict[int, dict[int, int]]()
        self.context = SimpleNamespace(n_seq_max=1, n_ctx=0, n_batch=0, n_threads=0, n_threads_batch=0)

    def llama_model_quantize(self, source: bytes, path: bytes, settings: object) -> int:
        Path(path.decode()).write_bytes(Path(source.decode()).read_bytes())
        return 0

    def llama_model_quantize_default_params(self) -> ctypes.c_int:
        return ctypes.c_int()

    def llama_context_default_params(self) -> SimpleNamespace:
        return self.context

    def llama_model_load_from_file(self, path: bytes, settings: object) -> bool:
        return Path(path.decode()).read_bytes()[:4] == b"GGUF"

    def llama_batch_init(self, tokens: int, embeddings: int, sequences: int) -> SimpleNamespace:
        names = ("token", "pos", "n_seq_id", "logits")
        return SimpleNamespace(
            n_tokens=0, seq_id=[[0] for _ in range(tokens)], **{name: [0] * tokens for name in names}
        )

    def llama_n_batch(self, context: object) -> int:
        return int(self.context.n_batch)

    def llama_vocab_n_tokens(self, vocabulary: object) -> int:
        return self._model.config.vocab_size

    def llama_memory_clear(self, memory: object, data: bool) -> None:
        self.rows.clear()

    def llama_decode(self, context: object, batch: SimpleNamespace) -> int:
        wanted = []
        for at in range(batch.n_tokens):
            row = self.rows.setdefault(batch.seq_id[at][0], {})
            row[batch.pos[at]] = batch.token[at]
            if batch.logits[at]:
                tokens = torch.tensor([[row[place] for place in range(batch.pos[at] + 1)]])
                with torch.inference_mode():
                    wanted.append(self._model(tokens, submodel=self._model.config.universal)[0, -1])
        self._logits = torch.stack(wanted).numpy()
        return 0

    def llama_get_logits(self, context: object) -> object:
        return self._logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def __getattr__(self, name: str) -> Callable[..., object]:
        if not name.startswith("llama_"):
            raise AttributeError(name)
        return lambda *arguments: True


def test_llama_cpp_gets_sequences_side_by_side_and_a_loss_in_pieces_of_its_batch(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_checkpoint(model_dir).model
    library = FakeLlama(model)
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: name)
    monkeypatch.setattr(gguf_files, "import_module", lambda name: library)
    monkeypatch.setattr(llama_cpp_decoder, "_library", lambda: library)
    prompts = random_prompts(model.config, count=2, tokens=9, seed=2)
    windows = torch.tensor(random_prompts(model.config, count=2, tokens=40, seed=4))
    with llama_cpp_decoder.open_llama_cpp(work([2], new_tokens=4), model_dir, tmp_path) as decoders:
        assert list(decoders) == ["F32", "F16", "Q8_0", "Q4_0"]
        universal = model.config.universal
        expected = [list(generate(model, each, submodel=universal, max_tokens=4)) for each in prompts]
        assert decoders["Q4_0"].decode(prompts, 4) == expected
        assert library.context.n_threads == library.context.n_threads_batch == 2
        assert library.context.n_batch == 20
        assert decoders["Q8_0"].loss(windows) == pytest.approx(
            loss_of(ModelRuntime(model), universal, windows), rel=1e-5
        )
        assert decoders["F16"].weight_bytes < decoders["F32"].weight_bytes


def test_an_unknown_rival_is_refused_and_one_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LtsRayError, match="no rival 'vllm'; there are: llama-cpp"):
        why_missing("vllm")
    assert why_missing("transformers") is None
    monkeypatch.setattr("benchmarks.decoders.rival_decoders.find_spec", lambda name: None)
    assert "pip install llama-cpp-python" in str(why_missing("llama-cpp"))
    assert "pip install openvino-genai" in str(why_missing("openvino"))


def test_the_kernels_time_is_not_that_of_a_steps_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's thread computes 1 ms before the kernels' call and 2 ms after it; the prompt's step is not one.

    The tokens are handed over before a step is noted, so the client may already call the kernels, in its own thread.
    """
    clock = Clock()

    def kernels(number: int) -> None:
        clock.now += number

    library, steps = SimpleNamespace(lts_step=kernels), StepPython()
    monkeypatch.setattr(step_python, "thread_time", clock)
    monkeypatch.setattr(step_python, "kernel_library", lambda: library)
    with steps.beside_kernels():
        for prompt_tokens, decoded in ((4, 0), (0, 3), (0, 3)):
            clock.now += 0.001
            library.lts_step(7)
            clock.now += 0.002
            engine_s = clock.now
            client = Thread(target=library.lts_step, args=(50,))
            client.start()
            client.join()
            clock.now = engine_s  # a thread's clock stands still while another computes
            steps.stepped(replace(STEP, prompt_tokens=prompt_tokens, decoded=decoded))
    assert steps.median_ms == pytest.approx({3: 3.0})
    assert library.lts_step is kernels


@pytest.mark.parametrize("rivals", ["", "transformers"])
def test_the_command_prints_a_table_the_ratios_and_a_line_of_json_last(
    rivals: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "read_bandwidth", partial(read_bandwidth, megabytes=1))
    monkeypatch.setattr(benchmark, "measure_step_costs", partial(measure_step_costs, seconds=0.2))
    app = typer.Typer()
    app.command()(decode)
    (tmp_path / "text.txt").write_text("the state of the union is strong " * 60)
    options = "--batch 1,3 --prompt-tokens 20 --new-tokens 12 --read-tokens 40 --submodels XL,0.5 --rounds 1"
    options += f" --precisions float32,int8 --windows 2 --text {tmp_path / 'text.txt'}"
    arguments = ["--model", str(model_dir), "--rivals", rivals, "--output", str(tmp_path / "found.json")]
    found = CliRunner().invoke(app, [*options.split(), *arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout.splitlines()[-1])
    assert record == json.loads((tmp_path / "found.json").read_text())
    rows = {(row["engine"], row["precision"], row["submodel"], row["batch"]): row for row in record["rows"]}
    expected = {(ours, precision) for ours in (RUNTIME, ENGINE) for precision in ("float32", "int8")}
    expected |= {(TRANSFORMERS, "float32")} if rivals else set()
    found_ways = {key[:2] for key in rows}
    assert found_ways - {(TRANSFORMERS, "bfloat16")} == expected
    assert rows.keys() == {
        (*way, submodel, batch) for way in found_ways for submodel in ("XL", "0.5") for batch in (1, 3)
    }
    assert {row["agreement"] for key, row in rows.items() if key[1] == "float32"} == {1.0}
    for row in rows.values():
        assert row["prompt_ms"] > 0
        assert row["loss"] == pytest.approx(rows[ENGINE, "float32", row["submodel"], 1]["loss"], abs=0.05)
    float32, int8 = (rows[ENGINE, precision, "XL", 1] for precision in ("float32", "int8"))
    assert float32["loss"] != int8["loss"]
    assert float32["step_mb"] > 2 * int8["step_mb"]
    assert record["step_prediction_error"] > 0
    assert {"1"} <= record["step_python_ms"].keys() <= {"1", "3"}  # three may never meet in a step on a busy machine
    assert min(record["step_python_ms"].values()) > 0
    assert "for a step of 3 rows" in found.stdout
    assert record["read_bandwidth_gb_s"] > 0
    assert "0.5@int8, batch 3: gain over XL" in found.stdout
    assert "XL@int8: loss above float32: " in found.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "1,many"], "got '1,many'"),
        (["--batch", "0"], "batches of at least 1"),
        (["--new-tokens", "60", "--read-tokens", "9"], "are 92 tokens; the model takes 64"),
        (["--new-tokens", "9", "--read-tokens", "70"], "are 71 tokens; the model takes 64"),
        (["--rivals", "vllm"], "no rival 'vllm'"),
    ],
    ids=["no number", "nothing", "too long", "too long to read", "unknown"],
)
def test_what_cannot_be_compared_is_refused(options: list[str], message: str, model_dir: Path) -> None:
    app = typer.Typer()
    app.command()(decode)
    with pytest.raises(LtsRayError, match=message):
        CliRunner().invoke(app, ["--model", str(model_dir), *options], catch_exceptions=False)
