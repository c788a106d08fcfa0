"""What a person at the terminal sees: results for good input, one line and exit code 2 for bad."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lts_ray.cli import main as cli
from lts_ray.decoding.plain_loop import generate
from lts_ray.measurement.latency import TimedBlock
from lts_ray.measurement.measurement import Measurement
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.quantisation.quantised_weights import at_precision
from lts_ray.submodel import Submodel
from lts_ray.text.tokenizer import load_tokenizer
from tests.measurement.brief import measure_briefly
from tests.replay.tables import OBJECTIVES, write_table
from tests.search.fake_evaluator import latency_of

TARGETS = "targets: [{name: here, local: true, sequence_length: 16}]"


def lts_ray(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, as the console script does; its exit code."""
    monkeypatch.setattr(sys, "argv", ["lts-ray", *(str(each) for each in arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code if isinstance(end.value.code, int) else int(bool(end.value.code))


def test_evaluate_prints_a_record_for_each_submodel(
    model_dir: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = lts_ray(
        "evaluate", "-m", model_dir, "--text", texts / "*.txt", "-s", "S", "-s", "8,64,16", "--json",
        monkeypatch=monkeypatch,
    )  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["widths"] for row in rows] == [[8, 8, 8], [8, 64, 16]]
    assert all(row["loss_nats"] > 0 and row["tokens"] > 100 for row in rows)


def test_extract_writes_a_checkpoint(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lts_ray("extract", "-m", model_dir, "-s", "M", "-o", tmp_path / "m", monkeypatch=monkeypatch) == 0
    assert "plain transformers loads it" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "m").model.config.widths == (16, 16, 16)


@pytest.mark.parametrize("draft", [[], ["--draft", "S@int4", "--draft-length", "2"], ["--draft", "M"]])
def test_generate_runs_what_rounded_weights_stand_for(
    draft: list[str],
    model_dir: Path,
    universal: MatFormer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A draft changes no token, whatever its precision."""
    asked = ("generate", "-m", model_dir, "-p", "the law", "-s", "M@int4", "--max-tokens", "12", *draft)
    if draft == ["--draft", "M"]:
        assert lts_ray(*asked, monkeypatch=monkeypatch) == 2
        assert "is wider than its verifier 16,16,16@int4" in capsys.readouterr().err
        return
    assert lts_ray(*asked, monkeypatch=monkeypatch) == 0
    tokenizer, rounded = load_tokenizer(model_dir), at_precision(universal, "int4")
    prompt, submodel = tokenizer.encode("the law"), universal.config.trained["M"]
    expected = list(generate(rounded, prompt, submodel=submodel, max_tokens=12))
    assert expected != list(generate(universal, prompt, submodel=submodel, max_tokens=12))
    assert capsys.readouterr().out == tokenizer.decode([*prompt, *expected]) + "\n"


def test_generate_continues_the_prompt(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lts_ray("generate", "-m", model_dir, "-p", "the law", "--max-tokens", "5", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith("the law")


def test_measure_prints_each_granularity(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure_briefly(monkeypatch.setattr)
    words = ("measure", "-m", model_dir, "--sequence-length", "16", "--threads", "1", "--json")
    code = lts_ray(*words, monkeypatch=monkeypatch)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["submodel"] for row in rows] == ["S", "M", "L", "XL"]
    memory = [row["peak_memory_mb"] for row in rows]
    assert memory == sorted(memory)


@pytest.mark.parametrize("noisy", [True, False])
def test_measure_marks_what_is_to_be_distrusted(
    noisy: bool, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(_model: object, submodels: Iterable[Submodel], _target: object, **_how: object) -> list[Measurement]:
        prefill = latency_of("prefill", 5.0)
        if noisy:
            prefill = replace(
                prefill, blocks=tuple(TimedBlock(times_ms=(time_ms,)) for time_ms in (5.0, 1030.0, 1030.0))
            )
        return [Measurement(prefill=prefill, decode=latency_of("decode", 1.0), peak_memory_bytes=1) for _ in submodels]

    monkeypatch.setattr("lts_ray.measurement.measurement.measure_submodels", measured)
    assert lts_ray("measure", "-m", model_dir, "-s", "S", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert ("unsteady: the 95 % interval" in out) == noisy
    assert lts_ray("measure", "-m", model_dir, "-s", "S", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["unsteady"] == (["prefill"] if noisy else [])


@pytest.mark.parametrize(
    ("installed", "said"),
    [(True, "kernels of triton 3.6.0 run steps"), (False, "plain torch runs steps, .*: our kernels need `pip")],
)
def test_the_doctor_says_what_runs_on_a_gpu(
    installed: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(package: str) -> str:
        if package == "triton" and not installed:
            raise PackageNotFoundError
        return "3.6.0"

    monkeypatch.setattr("lts_ray.cli.doctor.version", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(79e9), int(80e9)))
    assert lts_ray("doctor", "--json", monkeypatch=monkeypatch) == 0
    rows = {row["what"]: row["here"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert re.match("Card, 79.0 of 80.0 GB free; " + said, rows["GPU"])


def test_measure_runs_submodels_of_several_precisions(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Less memory the less precise they are."""
    measure_briefly(monkeypatch.setattr)
    submodels = ("-s", "XL@int4", "-s", "XL@int8", "-s", "XL")
    asked = ("measure", "-m", model_dir, *submodels, "--sequence-length", "8", "--device", "cpu")
    assert lts_ray(*asked, "--json", monkeypatch=monkeypatch) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["submodel"] for row in rows] == ["XL@int4", "XL@int8", "XL"]
    memory = [row["peak_memory_mb"] for row in rows]
    assert memory == sorted(set(memory))
    assert lts_ray(*asked, "--dtype", "bfloat16", monkeypatch=monkeypatch) == 2
    assert "only float32 on a CPU has precisions to choose" in capsys.readouterr().err


def test_params_adds_the_count_to_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first architecture of the paper's table 4, to its printed digit; blank lines are no rows."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": 1, "n_layer": 2, "d_model": 512, "n_head": [2, 2], "d_inner": [1216, 1280]}\n\n')
    assert lts_ray("params", "--space", "transformer-xl", "--input", rows, monkeypatch=monkeypatch) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["id"] == 1
    assert round(row["decoder_params"] / 1e6, 1) == 5.2


def test_replay_prints_a_line_for_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "table.csv", rows=60)
    code = lts_ray(
        "replay", "--table", table, "--objectives", ",".join(OBJECTIVES), "--algorithm", "lts", "--evaluations", "50",
        "--seeds", "2", monkeypatch=monkeypatch,
    )  # fmt: skip
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [(each["algorithm"], each["seed"], *each["hypervolume"]) for each in found] == [
        ("lts", 0, "50"),
        ("lts", 1, "50"),
    ]


def test_proxies_prints_the_agreement_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Perplexity falls with the parameters, so decoder parameters order these rows perfectly; a live proxy runs too."""
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for width in (16, 32, 48, 64):
            row = {"d_model": 8, "n_head": [2], "d_inner": [width], "n_token": 50, "valid_perplexity": 90 - width,
                   "latency_ms": width}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    code = lts_ray(
        "proxies", "--space", "gpt2", "--input", rows, "--proxies", "decoder_params,snip", "--vocab-size", "40",
        "--latency", "latency_ms", "--length", "8", "--json", monkeypatch=monkeypatch,
    )  # fmt: skip
    parameters, live = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert parameters["spearman"] == pytest.approx(1.0)
    assert parameters["d_avg"] == 0.0
    assert live["proxy"] == "snip"
    assert live["flops"] > 0


BAD = {
    "unknown backbone": (["params", "--space", "gpt5", "--input", "{empty}"], "unknown search space 'gpt5'"),
    "no rows": (["params", "--space", "gpt2", "--input", "none.jsonl"], "rows none.jsonl does not exist"),
    "bad row": (["params", "--space", "gpt2", "--input", "{targets}"], "line 1: not JSON"),
    "no table": (["replay", "-t", "none.csv", "--objectives", "a,b"], "table none.csv does not exist"),
    "unknown proxy": (["proxies", "--space", "gpt2", "-i", "{row}", "--proxies", "luck"], "unknown proxy luck"),
    "untrained submodels": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "-s", "gpt2",
                             "--quality", "validation_loss"], "searched before they are trained"),
    "few-shot without rows": (["search", "-t", "{targets}", "-o", "{out}", "-s", "gpt2", "--quality", "few_shot"],
                              "(--trained) go together"),
    "predicted submodels": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "-a", "predicted",
                             "--quality", "decoder_params"], "needs a space of backbones"),
    "upside down limits": (["search", "-t", "{targets}", "-o", "{out}", "-s", "gpt2", "--min-params", "9",
                            "--max-params", "8"], "min_decoder_params 9 is larger"),
    "no architectures": (["train", "-o", "{out}", "--architecture", "none.json"], "none.json"),
    "name of what": (["train", "-o", "{out}", "--name", "12.4M"], "give both"),
    "unknown submodel": (["evaluate", "-m", "{model}", "-s", "XXL"], "unknown submodel 'XXL'"),
    "no model": (["evaluate", "-m", "nowhere"], "model nowhere is not a folder"),
    "empty text": (["evaluate", "-m", "{model}", "--text", "{empty}"], "has no text in it"),
    "no text": (["evaluate", "-m", "{model}", "--text", "nothing*.txt"], "no file matches"),
    "long prompt": (["generate", "-m", "{model}", "-p", "law " * 99], "do not fit the model's context"),
    "empty prompt": (["generate", "-m", "{model}", "-p", ""], "the prompt is empty"),
    "bad temperature": (["generate", "-m", "{model}", "-p", "a", "--temperature", "-1"], "temperature must be"),
    "full output": (["extract", "-m", "{model}", "-s", "S", "-o", "{model}"], "is not empty"),
    "too many evaluations": (["search", "-t", "{targets}", "-o", "{out}", "-s", "gpt2", "-n", "99999999999999"],
                             "must be at most 1,000,000, however many candidates the space has (gpt2: "),
    "a space of none": (["search", "-t", "{targets}", "-o", "{out}", "-s", "gpt3", "--quality", "decoder_params"],
                        "known: mix-n-match, gpt2, "),
    "unknown space": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--space", "gpt5",
                       "--quality", "decoder_params"], "gpt5"),
    "no targets file": (["search", "-m", "{model}", "-t", "none.yaml", "-o", "{out}"], "none.yaml does not exist"),
    "unknown precision": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--precisions", "int8,int3"],
                          "settings.precisions.1 must be one of float32, bfloat16, int8, int4; got 'int3'"),
    "a backbone's precision": (["search", "-t", "{targets}", "-o", "{out}", "-s", "gpt2", "--precisions", "int8"],
                               "a search of backbones has none"),
    "parameters of two precisions": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--simulate",
                                      "--precisions", "int8,int4", "--quality", "decoder_params"],
                                     "decoder_params are the same at all precisions"),
    "no evaluations": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--evaluations", "0"],
                       "evaluations must be at least 1"),
    "no configuration": (["train", "-c", "none.yaml", "-o", "{out}"], "none.yaml does not exist"),
    "no cluster to search on": (["search", "-m", "{model}", "-t", "{targets}", "-o", "{out}", "--address",
                                 "127.0.0.1:1"],
                                "no Ray cluster at 127.0.0.1:1"),
    "no cluster to train on": (["train", "-o", "{out}", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
    "no cluster to elasticize on": (["elasticize", "-m", "{model}", "-o", "{out}", "--address", "127.0.0.1:1"],
                                    "no Ray cluster at 127.0.0.1:1"),
    "no training to resume": (["train", "-o", "{out}", "--resume"], "holds no run to resume"),
    "no elasticizing to resume": (["elasticize", "-o", "{out}", "--resume"], "holds no run to resume"),
    "no vision run to resume": (["vit", "train", "-o", "{out}", "--resume"], "holds no run to resume"),
    "a URL to search into": (["search", "-m", "{model}", "-t", "{targets}", "-o", "s3://bucket/search", "--resume"],
                             "s3:/bucket/search is a URL"),
    "a URL to train into": (["train", "-o", "gs://bucket/run"], "gs:/bucket/run is a URL"),
    "a URL to elasticize into": (["elasticize", "-m", "{model}", "-o", "memory://run"], "memory:/run is a URL"),
    "a URL to extract into": (["extract", "-m", "{model}", "-s", "S", "-o", "hdfs://host/model"], "hdfs:/host/model"),
    "a URL to train vision into": (["vit", "train", "-o", "abfs://a@b/run"], "abfs:/a@b/run is a URL"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "targets.yaml").write_text(TARGETS)
    row = {"d_model": 8, "n_head": [2], "d_inner": [16], "valid_perplexity": 9}
    (tmp_path / "row.jsonl").write_text(2 * f"{json.dumps(row)}\n")
    places = {
        "{model}": model_dir,
        "{empty}": tmp_path / "empty.txt",
        "{row}": tmp_path / "row.jsonl",
        "{targets}": tmp_path / "targets.yaml",
        "{out}": tmp_path / "out",
    }
    assert lts_ray(*(places.get(each, each) for each in arguments), monkeypatch=monkeypatch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_help_loads_neither_torch_nor_ray() -> None:
    """`--help` has to be quick; both take seconds to load."""
    code = "import sys, lts_ray.cli.main; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_report_of_a_folder_without_a_search_is_refused(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lts_ray("report", "--search", tmp_path, "-m", model_dir, monkeypatch=monkeypatch) == 2
    assert "holds no search" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [["train"], ["elasticize"], ["evaluate"], ["generate"], ["vit", "train"]], ids=" ".join
)
def test_helps_lines_are_as_long_as_80_columns_let_them_be(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lts_ray(*verb, "--help", monkeypatch=monkeypatch)
    text = capsys.readouterr().out.partition("Options")[0]
    lines = [line.strip() for line in text.splitlines()]
    for line, following in pairwise(lines):
        if line and following and not line.startswith(("Usage", "╭")) and not following.startswith("╭"):
            assert len(line) + 1 + len(following.split()[0]) > 78, "the next word would have fitted"
