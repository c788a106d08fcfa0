"""From folders to laws: whose losses are put together, what is refused, and the verb with real trainings, all tiny."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import scaling as scaling_claim
from benchmarks.common.scale import UNIVERSAL, baseline
from benchmarks.laws.scaling_points import read_points
from benchmarks.scaling import fit_points, scales_of, scaling, train_and_fit
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.models.matformer.hugging_face.checkpoint import read_config
from lts_ray.training.run_settings import ModelSettings, RunSettings
from tests.benchmarks import scaling_runs
from tests.benchmarks.scaling_runs import WIDTHS, settings, with_training, write_run, write_size
from tests.conftest import make_text

NAMES = ("S", "M", "L", "XL")
SIZES = (16, 32, 48, 64)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four sizes whose losses are two laws'."""
    root = tmp_path_factory.mktemp("runs")
    return [write_size(root / f"size-{size}", size) for size in SIZES]


def test_the_laws_that_trainings_follow_are_found_in_their_folders(folders: list[Path]) -> None:
    result = fit_points(read_points(folders))
    assert [each.name for each in result.fits] == [
        f"{kind} {name}" for kind in ("universal", "baseline") for name in (*NAMES, "all")
    ]
    for each in result.fits:
        law = scaling_runs.UNIVERSAL if each.kind == "universal" else scaling_runs.BASELINE
        assert (each.fit.law.a, each.fit.law.b, each.fit.law.c) == pytest.approx((law.a, law.b, law.c), rel=1e-3)
        assert each.fit.rms < 1e-6
        assert each.fit.points == (16 if each.granularity is None else 4)
    assert {name: list(by_size) for name, by_size in result.gaps.items()} == {name: list(SIZES) for name in NAMES}
    for point in result.points:
        expected = scaling_runs.UNIVERSAL.loss_at(point.params) - scaling_runs.BASELINE.loss_at(point.params)
        assert result.gaps[point.granularity][point.d_model] == pytest.approx(expected)


def test_a_point_has_the_parameters_of_its_granularity_and_the_tokens_of_its_run(folders: list[Path]) -> None:
    points = read_points(folders)
    assert len(points) == 32
    for point in points:
        alone = settings(point.d_model, d_ff=WIDTHS[point.granularity], plain=True).model.config(64)
        assert point.params == alone.decoder_params()
        assert point.tokens == point.d_model * 2 * 32


def test_plain_models_alone_are_named_by_their_share_of_the_widest(tmp_path: Path) -> None:
    for width in (8, 32, 64):
        write_run(tmp_path / str(width), settings(16, d_ff=width, plain=True), law=scaling_runs.BASELINE)
    found = {point.granularity: (point.kind, point.params) for point in read_points([tmp_path])}
    assert list(found) == ["S", "L", "XL"]
    assert {kind for kind, _ in found.values()} == {"baseline"}


def test_where_heads_nest_too_a_plain_model_is_still_the_baseline_of_its_granularity(tmp_path: Path) -> None:
    """The plain S has a head less than the universal model, so that their shapes are not alike."""
    nested = settings(32)
    nested = replace(nested, model=replace(nested.model, n_kv_head=2, nested_heads={"S": 0.5}))
    plain = settings(32, d_ff=WIDTHS["S"], plain=True)
    config = replace(plain.model.config(64), n_head=1, n_kv_head=1, head_dim=16)
    write_run(tmp_path / "a", nested, law=scaling_runs.UNIVERSAL)
    write_run(tmp_path / "b", plain, law=scaling_runs.BASELINE, config=config)
    alone = next(point for point in read_points([tmp_path]) if point.kind == "baseline")
    assert alone.granularity == "S"


def test_runs_are_found_at_any_depth_and_counted_once(folders: list[Path]) -> None:
    root = folders[0].parent
    assert read_points([root]) == read_points([*folders, root, folders[0] / "0"])


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="holds no training"):
        read_points([tmp_path])


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", settings(16), law=scaling_runs.UNIVERSAL, finished=False)
    with pytest.raises(LtsRayError, match="run is not finished"):
        read_points([tmp_path])


@pytest.mark.parametrize(
    ("other", "tokens", "said"),
    [
        (with_training(settings(32), sequence_length=16), "one", "different text or tokens"),
        (with_training(settings(32), final_evaluation_blocks=3), "one", "different text or tokens"),
        (settings(32), "two", "different text or tokens"),
        (with_training(settings(32), objective="sampled"), "one", "different objectives"),
        (with_training(settings(32), weights="large-first"), "one", "different objectives"),
        (settings(16, d_ff=24, plain=True), "one", "as no granularity of the widest run of its size has"),
        (replace(settings(32), model=ModelSettings(independent=True)), "one", "no universal model and no plain one"),
    ],
    ids=["length", "blocks", "tokenizer", "sampled", "weights", "width", "independent"],
)
def test_runs_that_cannot_be_compared_are_refused_in_a_line(
    other: RunSettings, tokens: str, said: str, tmp_path: Path
) -> None:
    write_run(tmp_path / "a", settings(16), law=scaling_runs.UNIVERSAL)
    write_run(tmp_path / "b", other, law=scaling_runs.UNIVERSAL, tokens=tokens)
    with pytest.raises(LtsRayError, match=said) as refused:
        read_points([tmp_path])
    assert "\n" not in str(refused.value)


def test_too_few_sizes_are_refused_by_the_name_of_what_lacks_them(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=r"universal S: a scaling law needs models of at least 4 sizes; got 3"):
        fit_points(read_points(folders[:3]))
    lone = [folder / "0" for folder in folders]
    assert [each.kind for each in fit_points(read_points(lone)).fits] == ["universal"] * 5


def test_sizes_get_as_many_tokens_a_parameter_and_smaller_ones_larger_steps() -> None:
    scales = scales_of()
    tokens, params = [], []
    for scale in scales:
        training = scale.training
        params.append(scale.model.config(1024).decoder_params())
        tokens.append(training.steps * training.batch_size * training.sequence_length)
        assert scale.model.d_ff == 8 * scale.model.config(1024).trained["S"].widths[0]
        assert params[-1] == pytest.approx(4 * 12 * scale.model.d_model**2, rel=0.06)
        assert all(each.training == training for each in scale.runs.values())
    assert [each / tokens[-1] for each in tokens] == pytest.approx([each / params[-1] for each in params], rel=0.01)
    rates = [scale.training.learning_rate for scale in scales]
    assert rates == sorted(rates, reverse=True)
    assert scales_of((80, 32, 64, 48), steps=4900) == scales


@pytest.mark.parametrize(
    ("sizes", "steps", "said"),
    [
        ((32, 48, 64), 10, "at least 4 different sizes; got 32, 48, 64"),
        ((32, 48, 64, 64), 10, "at least 4 different sizes"),
        ((), 10, "got none"),
        ((32, 48, 64, 100), 10, "a multiple of 16, as its heads are 16 wide; got 100"),
        ((0, 48, 64, 96), 10, "got 0"),
        ((32, 48, 64, 96), 0, "at least one step; got 0"),
    ],
)
def test_sizes_that_no_law_comes_of_are_refused(sizes: tuple[int, ...], steps: int, said: str) -> None:
    with pytest.raises(LtsRayError, match=said):
        scales_of(sizes, steps=steps)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for seed in range(40):
        (folder / f"{seed}.txt").write_text(make_text(seed=seed, words=60), encoding="utf-8")
    return folder


def test_the_verb_trains_each_size_fits_and_keeps_what_it_trained(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling_claim, "TRAINING", replace(scaling_claim.TRAINING, batch_size=2, sequence_length=16))
    output = tmp_path / "out"
    asked = {"sizes": "16,32,48,64", "steps": 4, "corpus": str(corpus / "*.txt"), "threads": 1}
    scaling(output=output, **asked)  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    summary = json.loads(printed.splitlines()[-1])
    assert summary.keys() == {f"{kind} {name}" for kind in ("universal", "baseline") for name in (*NAMES, "all")}
    written = read_json(output / "scaling.json", what="result")
    assert written["schema"] == 1
    assert len(written["points"]) == 32
    for point in written["points"]:
        name = UNIVERSAL if point["kind"] == "universal" else baseline(point["granularity"])
        config, losses = read_config(output / f"d{point['d_model']}" / name / "model")
        key = point["granularity"] if point["kind"] == "universal" else "XL"
        assert (point["params"], point["loss"]) == (config.decoder_params(config.trained[key]), losses[key])
    assert 'id="scaling"' in (output / "scaling.html").read_text(encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in output.rglob("model.safetensors")}
    assert len(before) == 20
    scaling(output=output, **asked)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("model.safetensors")} == before
    scaling(output=tmp_path / "again", runs=[output])
    again = read_json(tmp_path / "again" / "scaling.json", what="result")
    assert again["fits"] == written["fits"]
    assert written["machine"]["cores"] > 0
    assert again["machine"] is None
    assert not list((tmp_path / "again").rglob("model.safetensors"))


def test_the_verb_refuses_options_that_contradict_each_other_before_it_writes(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(LtsRayError, match="leave --sizes and --steps out"):
        scaling(output=output, runs=[tmp_path], steps=3)
    with pytest.raises(LtsRayError, match="whole numbers with commas"):
        scaling(output=output, sizes="32;48")
    with pytest.raises(LtsRayError, match="holds no training"):
        scaling(output=output, runs=[tmp_path])
    (tmp_path / "file").write_text("kept")
    with pytest.raises(LtsRayError, match="file is a file"):
        train_and_fit(scales_of(), tmp_path / "file")
    assert not output.exists()
