"""A submodel gives under lm_eval what lm_eval's own model of transformers gives with the same weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.harness import __main__ as command_line
from lts_ray.evaluation.harness.harness_model import HarnessModel
from lts_ray.evaluation.harness.model_arguments import ModelArguments
from lts_ray.evaluation.harness.task_run import results_of, set_shots
from lts_ray.frontier import Frontier, FrontierPoint, write_frontier
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from tests.conftest import make_text
from tests.evaluation.conftest import NAMES, TASKS
from tests.tokenizer_kinds import with_beginnings


def ours(folder: Path, **arguments: object) -> HarnessModel:
    return HarnessModel.create_from_arg_obj({"model": str(folder), **arguments})


def theirs(folder: Path, **options: Any) -> LM:
    """Without its logits_cache, which takes the wrong place's where equal texts end in continuations of two lengths."""
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", logits_cache=False, **options)


def numbers(answers: Sequence[Any]) -> list[float]:
    return [float(each) for answer in answers for each in (answer if isinstance(answer, tuple | list) else [answer])]


@pytest.fixture(scope="module")
def plain(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S as a folder that is transformers' alone."""
    folder = tmp_path_factory.mktemp("plain") / "S"
    extract_checkpoint(model_dir, "S", folder)
    return folder


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=place, metadata=("task", place, 1))
        for place, each in enumerate(arguments)
    ]


def run(model: LM, shots: int) -> Mapping[str, Any]:
    tasks = list(TaskManager(include_path=TASKS, include_defaults=False).load(NAMES)["tasks"].values())
    set_shots(tasks, shots)
    return results_of(model, tasks, log_samples=True)


@pytest.mark.parametrize("shots", [0, 1])
def test_tasks_give_what_they_give_with_transformers(model_dir: Path, plain: Path, shots: int) -> None:
    """Every likelihood, every choice, every completion; and so each metric."""
    mine, others = run(ours(model_dir, submodel="S"), shots), run(theirs(plain, batch_size=3), shots)
    for name in NAMES:
        scores, expected = mine["results"][name], others["results"][name]
        assert scores.keys() == expected.keys()
        for key, value in expected.items():
            assert scores[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4))
        for sample, other in zip(mine["samples"][name], others["samples"][name], strict=True):
            assert sample["arguments"] == other["arguments"]
            if name == "union_next_word":
                assert sample["resps"] == other["resps"]
            else:
                assert numbers(sample["filtered_resps"]) == pytest.approx(numbers(other["filtered_resps"]), rel=1e-4)
    assert mine["results"]["union_endings"]["acc,none"] < 1  # a model that knows nothing


@pytest.fixture(scope="module", params=[False, True], ids=["as it is", "with a beginning"])
def pair(model_dir: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LM, LM]:
    folder = tmp_path_factory.mktemp("pair") / "M"
    extract_checkpoint(model_dir, "M", folder)
    if request.param:
        save_tokenizer(with_beginnings(load_tokenizer(folder), "<|endoftext|>"), folder)
    return ours(folder, batch_size=4), theirs(folder)


WORDS = make_text(seed=7, words=90)


def test_likelihoods_of_short_long_and_absent_contexts_are_those_of_transformers(pair: tuple[LM, LM]) -> None:
    """The model reads 64 tokens: long contexts lose their beginnings. Trailing spaces go to the continuation."""
    contexts = ["", "the", "the nation ", WORDS, "<|endoftext|>the great", "peace and"]
    arguments = [(context, continuation) for context in contexts for continuation in (" law", " great war", "<>,.")]
    mine, others = (model.loglikelihood(requests("loglikelihood", arguments)) for model in pair)
    assert numbers(mine) == pytest.approx(numbers(others), rel=1e-4)


def test_whole_texts_are_read_in_the_windows_of_transformers(pair: tuple[LM, LM]) -> None:
    texts = [("",), ("the nation",), (WORDS,), (WORDS[:150],)]
    mine, others = (model.loglikelihood_rolling(requests("loglikelihood_rolling", texts)) for model in pair)
    assert mine == pytest.approx(others, rel=1e-4)
    assert mine[0] == 0 or len(pair[0].tok_encode("")) == 1  # nothing to predict, but a beginning


@pytest.mark.parametrize("add", [True, False])
def test_whether_a_text_has_a_beginning_can_be_said_as_with_transformers(pair: tuple[LM, LM], add: bool) -> None:
    """Whatever the tokenizer has: lm_eval's word for it."""
    folder = Path(pair[1].tokenizer.name_or_path)
    models = (ours(folder, add_bos_token=str(add)), theirs(folder, add_bos_token=add))
    for text in ("", "the nation", "<|endoftext|>the law"):
        first, second = (model.tok_encode(text) for model in models)
        assert first == second
        assert (first[:1] == [0]) == (add or text.startswith("<"))
    arguments = [(context, continuation) for context in ("", "the nation") for continuation in (" law", "<>,.")]
    mine, others = (model.loglikelihood(requests("loglikelihood", arguments)) for model in models)
    assert numbers(mine) == pytest.approx(numbers(others), rel=1e-4)
    mine, others = (model.loglikelihood_rolling(requests("loglikelihood_rolling", [(WORDS,)])) for model in models)
    assert mine == pytest.approx(others, rel=1e-4)


@pytest.mark.parametrize("until", [[], ["e"], ["of", "n"]], ids=["no stop", "a letter", "two stops"])
def test_completions_are_those_of_transformers(pair: tuple[LM, LM], until: list[str]) -> None:
    given = {"until": until, "max_gen_toks": 12}
    arguments = [(text, given) for text in ("the nation", WORDS, "peace and", "<|endoftext|>")]
    mine, others = (model.generate_until(requests("generate_until", arguments)) for model in pair)
    assert mine == others
    assert all(stop not in text for stop in until for text in mine)


def test_a_shorter_length_is_kept_as_transformers_keeps_it(model_dir: Path, plain: Path) -> None:
    mine, others = ours(model_dir, submodel="S", max_length=16), theirs(plain, max_length=16)
    for kind, arguments in {
        "loglikelihood": [(WORDS, " law"), ("the", " law")],
        "loglikelihood_rolling": [(WORDS,)],
        "generate_until": [(WORDS, {"until": ["\n"], "max_gen_toks": 9})],
    }.items():
        found, expected = (getattr(model, kind)(requests(kind, arguments)) for model in (mine, others))
        if kind == "generate_until":
            assert found == expected
        else:
            assert numbers(found) == pytest.approx(numbers(expected), rel=1e-4)


def test_what_is_drawn_follows_the_seed_of_torch(model_dir: Path) -> None:
    given = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 0.9, "top_p": 0.95}
    asked = requests("generate_until", [("the nation", given)] * 2)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ours(model_dir).generate_until(asked))
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]  # a repeat is another draw


def test_the_submodels_of_a_command_line_are_those_of_the_model(model_dir: Path, tmp_path: Path) -> None:
    """As lm_eval's own parser leaves them: 0.60 is a number to it, and commas part the arguments."""
    checkpoint = load_checkpoint(model_dir)
    config = checkpoint.model.config
    point = config.submodel("8,64,44")
    write_frontier(
        Frontier(
            model_fingerprint=checkpoint.fingerprint,
            quality="decoder_params",
            targets={},
            points=(FrontierPoint(name="0.60", submodel=point, decoder_params=1, costs={}, fronts=()),),
        ),
        tmp_path / "frontier.json",
    )
    for text, expected in {
        "submodel=M": (16, 16, 16),
        "submodel=0.5": (32, 32, 32),
        "submodel=1": (64, 64, 64),
        "submodel=8+XL+16": (8, 64, 16),
        "submodel=M@int4": (16, 16, 16),
        "submodel=[8,64,16]": (8, 64, 16),
        "submodel=[8,XL,16]": (8, 64, 16),
        "batch_size=2": (64, 64, 64),
        f"submodel=0.60,frontier={tmp_path / 'frontier.json'}": point.widths,
        f"submodel=0.6,frontier={tmp_path / 'frontier.json'}": point.widths,
        f"submodel=0.5,frontier={tmp_path / 'frontier.json'}": (32, 32, 32),
        f"submodel=0.604,frontier={tmp_path / 'frontier.json'}": (39, 39, 39),
    }.items():
        found = HarnessModel.create_from_arg_obj(
            key_val_to_dict(f"model={model_dir},{text}"), {"batch_size": 1, "device": "cuda:0", "max_batch_size": None}
        )
        assert found.submodel.widths == expected, text
        assert found.batch_size == (2 if "batch_size" in text else 1)
    assert get_model("lts-ray").create_from_arg_string(f"model={model_dir},submodel=8+64+16").submodel.widths == (
        8,
        64,
        16,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"pretrained": "x"},
            "model_args has unknown keys pretrained; known: add_bos_token, batch_size, device",
        ),
        ({"submodel": "XXL"}, "unknown submodel 'XXL'"),
        ({"batch_size": "none"}, "batch_size must be a whole number; got 'none'"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"max_length": 65}, "from 2 to the model's context of 64; got 65"),
        ({"device": "gpu"}, "device must be one of torch's, such as cpu or cuda; got 'gpu'"),
        ({"dtype": "int8"}, "one of float32, bfloat16, float16; got 'int8'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_model_argument_is_refused(model_dir: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        ours(model_dir, **given)


def test_a_batch_size_that_lm_eval_would_look_for_is_a_fixed_one() -> None:
    assert ModelArguments.parse({"batch_size": "auto:4"}).batch_size == ModelArguments().batch_size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_gen_toks": 64}, "64 tokens leave no room for a prompt in the model's context of 64"),
        ({"num_beams": 3}, "num_beams must be 1"),
        ({"typical_p": 0.9}, "unknown generation setting typical_p"),
        ({"do_sample": True, "temperature": -1}, "temperature must be a number of at least 0"),
    ],
    ids=["no room", "beams", "unknown", "cold"],
)
def test_a_generation_setting_that_cannot_be_kept_is_refused(
    model_dir: Path, given: dict[str, object], message: str
) -> None:
    with pytest.raises(LtsRayError, match=message):
        ours(model_dir).generate_until(requests("generate_until", [("the", {"until": ["\n"], **given})]))


def test_a_continuation_that_does_not_fit_or_is_none_is_refused(model_dir: Path) -> None:
    for continuation in (WORDS, ""):
        with pytest.raises(LtsRayError, match="from 1 to 64 tokens"):
            ours(model_dir).loglikelihood(requests("loglikelihood", [("the", continuation)]))


def test_a_conversation_is_rendered_by_the_folders_template(model_dir: Path) -> None:
    model = ours(model_dir)
    assert model.apply_chat_template([{"role": "user", "content": "the nation"}]) == "the nation\n"
    begun = [{"role": "user", "content": "the nation"}, {"role": "assistant", "content": "of "}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == "the nation\nof "
    assert model.chat_template(True) == model.tokenizer_name == load_tokenizer(model_dir).chat_template


@pytest.mark.usefixtures("without_theirs")
def test_the_command_line_of_lm_eval_runs_any_submodel(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own parser, its own table, its own results file."""
    arguments = ["--model", "lts-ray", "--model_args", f"model={model_dir},submodel=8+64+16,batch_size=4"]
    arguments += ["--tasks", "union_endings", "--include_path", str(TASKS), "--output_path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["harness", *arguments, "--num_fewshot", "1"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert not ended.value.code
    assert "union_endings" in capsys.readouterr().out
    (written,) = tmp_path.rglob("results_*.json")
    found = json.loads(written.read_text(encoding="utf-8"))
    expected = run(ours(model_dir, submodel="8,64,16"), 1)["results"]["union_endings"]
    assert found["results"]["union_endings"]["acc,none"] == expected["acc,none"]
    assert found["config"]["submodel"] == [8, 64, 16]
    assert found["n-shot"]["union_endings"] == 1


def test_the_groups_that_ship_come_before_the_arguments_of_the_command_line() -> None:
    """So that an --include_path among them is the last, which argparse takes; help is asked for as it was."""
    folder = str(command_line.TASKS)
    assert command_line.with_our_tasks(["--tasks", "a"]) == ["--include_path", folder, "--tasks", "a"]
    assert command_line.with_our_tasks(["run", "-t", "a"]) == ["run", "--include_path", folder, "-t", "a"]
    assert command_line.with_our_tasks(["--help"]) == ["--help"]
    assert command_line.with_our_tasks([]) == []


def test_what_is_wrong_is_one_line_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lts_ray.evaluation.harness.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "lts-ray: downstream tasks need lm-evaluation-harness: pip install 'lts-ray[tasks]'\n"
    )
