"""Whatever way a step goes, its gradients are those of the objective, and what is frozen stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from lts_ray.device import CPU
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models import staircase
from lts_ray.models.matformer import matformer
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer, _first, _other
from lts_ray.models.staircase import each_alone
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training import loop
from lts_ray.training.learners import head_loss, universal_learner
from lts_ray.training.learners.head_loss import _untaught
from lts_ray.training.learners.independent_learner import IndependentLearner
from lts_ray.training.learners.learner import Learner
from lts_ray.training.learners.teacher import Teacher
from lts_ray.training.learners.universal_learner import Passes, UniversalLearner
from lts_ray.training.loop import make_optimizer, optimize, propagate
from lts_ray.training.new_learner import new_learner
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings
from lts_ray.training.text_run import prepare_text, start_run, train_text
from tests.conftest import make_model
from tests.training.runs import losses, tiny_settings

WEIGHTS = {"S": 1.0, "M": 2.0, "L": 0.5, "XL": 4.0}
BLOCKS = torch.randint(0, 300, (5, 11), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learner_of(options: TrainingSettings) -> UniversalLearner:
    model = make_model().train()
    return UniversalLearner(
        model=model, objective=options.objective_of(model.config.granularities), passes=options.passes
    )


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def cross_entropy(model: MatFormer, name: str) -> Tensor:
    logits = model(BLOCKS[:, :-1], submodel=model.config.trained[name])
    return functional.cross_entropy(logits.flatten(0, 1), BLOCKS[:, 1:].flatten())


@pytest.mark.parametrize("rows", [1, 2, 5], ids="{} rows a pass".format)
@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_gradients_are_those_of_the_weighted_sum_of_the_granularities_own_losses(
    passes: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd on one plain forward pass for each; also where the last pass has fewer rows than the others."""
    monkeypatch.setattr(universal_learner, "PASS_TOKENS", rows * 4 * 10)
    learner = learner_of(TrainingSettings(weights=WEIGHTS, passes=passes))  # type: ignore[arg-type]
    found = propagate(learner, BLOCKS, 0, "float32")
    plain = make_model()
    each = {name: cross_entropy(plain, name) for name in WEIGHTS}
    sum((WEIGHTS[name] / 7.5 * loss for name, loss in each.items()), start=torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    assert found.keys() == each.keys()
    for name, loss in each.items():
        torch.testing.assert_close(found[name], loss.detach())
    torch.testing.assert_close(gradients(learner.model), gradients(plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_a_step_in_parts_as_on_a_gpu_is_the_step(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixed pass as it is compiled: each function is one graph, which the layers but the first have in common."""
    graphs = CompileCounter()
    own = {f: torch.compile(f, dynamic=False, fullgraph=True, backend=graphs) for f in (_first, _other, _untaught)}
    for module in (matformer, head_loss):
        monkeypatch.setattr(module, "compiled", own.__getitem__)
    monkeypatch.setattr(staircase, "_staircase_with_gradients", lambda x, widths, _, ffn: each_alone(x, widths, ffn))
    plain = learner_of(TrainingSettings(weights=WEIGHTS, passes=passes))
    expected = propagate(plain, BLOCKS[:4], 0, "float32")
    learner = replace(plain, model=make_model().train(), sequences=2, by_compiler=passes == "mixed")
    torch.testing.assert_close(propagate(learner, BLOCKS[:4], 0, "float32"), expected)
    torch.testing.assert_close(gradients(learner.model), gradients(plain.model), atol=1e-5, rtol=1e-4)
    assert graphs.frame_count == (3 if passes == "mixed" else 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("by_compiler", [False, True])
@pytest.mark.parametrize(("precision", "off"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_step_on_a_gpu_is_the_step_on_the_cpu(precision: str, off: float, by_compiler: bool) -> None:
    plain = learner_of(TrainingSettings(weights=WEIGHTS))
    expected = propagate(plain, BLOCKS, 0, "float32")
    there = replace(plain, model=make_model().train().cuda(), sequences=5, by_compiler=by_compiler)
    found = propagate(there, BLOCKS.cuda(), 0, precision)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name].cpu(), loss, atol=off, rtol=off)
    for one, other in zip(there.model.parameters(), plain.model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad.cpu() - other.grad).norm() <= 4 * off * other.grad.norm()


@pytest.mark.parametrize("step", range(4))
def test_a_sampled_step_is_that_of_the_drawn_granularity_alone(step: int) -> None:
    learner = learner_of(TrainingSettings(objective="sampled", seed=1))
    (name,) = learner.objective.shares(step)
    assert list(propagate(learner, BLOCKS, step, "float32")) == [name]
    plain = make_model()
    cross_entropy(plain, name).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradients(learner.model), gradients(plain), atol=1e-5, rtol=1e-4)


def test_a_granularity_without_weight_is_left_out() -> None:
    assert list(propagate(learner_of(TrainingSettings(weights={"S": 0.0, "XL": 1.0})), BLOCKS, 0, "float32")) == ["XL"]


def settings_with(*, model: ModelSettings | None = None, **options: object) -> RunSettings:
    shape = ModelSettings(vocab_size=300, d_model=32, n_layer=2, d_ff=64, context_length=64) if model is None else model
    return RunSettings(model=shape, training=TrainingSettings(sequence_length=10, **options))  # type: ignore[arg-type]


def step_of(learner: Learner, options: TrainingSettings) -> dict[str, tuple[Tensor, Tensor]]:
    """Each parameter before and after a step."""
    before = {name: each.detach().clone() for name, each in learner.model.named_parameters()}
    optimize(learner, make_optimizer(learner.model, options), BLOCKS, 0, options, "float32")
    return {name: (before[name], each.detach()) for name, each in learner.model.named_parameters()}


@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_training_the_ffns_leaves_every_other_parameter_as_it_was(passes: str) -> None:
    settings = settings_with(train="ffn", passes=passes)
    learner = new_learner(settings, vocab_size=300, device=CPU)
    assert {name for name, each in learner.model.named_parameters() if each.requires_grad} == {
        f"layers.{layer}.mlp.{part}_proj.weight" for layer in range(2) for part in ("gate", "up", "down")
    }
    for name, (before, after) in step_of(learner, settings.training).items():
        assert torch.equal(before, after) == (".mlp." not in name)


def test_independent_granularities_share_what_they_learn_outside_their_ffns() -> None:
    """The shared gradients are sums over all four; an FFN's are its own granularity's."""
    shape = ModelSettings(vocab_size=300, d_model=32, n_layer=2, d_ff=64, context_length=64, independent=True)
    learner = new_learner(settings_with(model=shape), vocab_size=300, device=CPU)
    assert isinstance(learner, IndependentLearner)
    propagate(learner, BLOCKS, 0, "float32")
    found = {name: gradients(learner.model.member(name)) for name in learner.model.names}
    learner.model.zero_grad()
    total = torch.zeros(())
    for name in learner.model.names:
        member = learner.model.member(name)
        logits = member(BLOCKS[:, :-1], submodel=member.config.universal)
        total = total + functional.cross_entropy(logits.flatten(0, 1), BLOCKS[:, 1:].flatten()) / 4
    total.backward()  # type: ignore[no-untyped-call]
    wanted = {name: gradients(learner.model.member(name)) for name in learner.model.names}
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def distilling(folder: Path, **options: Any) -> tuple[RunSettings, MatFormer]:
    teacher = make_model(seed=5)
    save_checkpoint(teacher, folder)
    return settings_with(teacher=str(folder), distillation=0.3, **options), teacher


@pytest.mark.parametrize("passes", ["mixed", "separate"])
def test_smaller_granularities_learn_from_the_teacher_and_the_universal_one_from_the_text(
    passes: str, tmp_path: Path
) -> None:
    settings, teacher = distilling(tmp_path, passes=passes)
    learner = new_learner(settings, vocab_size=300, device=CPU)
    assert isinstance(learner, UniversalLearner)
    found = propagate(learner, BLOCKS, 0, "float32")
    got = gradients(learner.model)
    learner.model.zero_grad()
    with torch.no_grad():
        taught = teacher(BLOCKS[:, :-1], submodel=teacher.config.universal).flatten(0, 1).log_softmax(-1)
    total = torch.zeros(())
    for name, submodel in learner.model.config.trained.items():
        text = cross_entropy(learner.model, name)
        torch.testing.assert_close(found[name], text.detach())  # what is logged is the text's, as in evaluation
        logits = learner.model(BLOCKS[:, :-1], submodel=submodel).flatten(0, 1).log_softmax(-1)
        divergence = functional.kl_div(logits, taught, reduction="batchmean", log_target=True)
        total = total + (text if name == "XL" else 0.7 * text + 0.3 * divergence) / 4
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(got, gradients(learner.model), atol=1e-6, rtol=1e-4)
    assert learner.teacher is not None
    assert all(each.grad is None for each in learner.teacher.model.parameters())


@pytest.mark.parametrize(
    ("options", "portion", "expected"),
    [
        ({"passes": "mixed"}, 0.3, [3, 2]),
        ({"passes": "separate"}, 0.3, [5]),
        ({"passes": "separate"}, 0.0, []),
        ({"objective": "sampled", "probabilities": {"S": 1.0}}, 0.3, [5]),
        ({"objective": "sampled", "probabilities": {"XL": 1.0}}, 0.3, []),
    ],
    ids=["mixed, in two parts", "separate", "portion 0", "sampled, small", "sampled, universal"],
)
def test_the_teacher_reads_a_batch_once_and_only_where_somebody_heeds_it(
    options: dict[str, Any], portion: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that it read, forward by forward."""
    monkeypatch.setattr(universal_learner, "PASS_TOKENS", 3 * 4 * 10)
    learner = replace(learner_of(TrainingSettings(**options)), teacher=Teacher(make_model(seed=5), portion))
    assert rows_taught(learner, monkeypatch) == expected


@pytest.mark.parametrize(("portion", "expected"), [(0.3, [5]), (0.0, [])])
def test_independent_granularities_have_one_forward_of_the_teacher(
    portion: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ModelSettings(vocab_size=300, d_model=32, n_layer=2, d_ff=64, context_length=64, independent=True)
    learner = new_learner(settings_with(model=shape), vocab_size=300, device=CPU)
    assert isinstance(learner, IndependentLearner)
    assert rows_taught(replace(learner, teacher=Teacher(make_model(seed=5), portion)), monkeypatch) == expected


def rows_taught(learner: UniversalLearner | IndependentLearner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows, hidden = [], MatFormer.hidden
    teacher = learner.teacher
    assert teacher is not None

    def note(self: MatFormer, tokens: Tensor, **given: Any) -> Tensor:
        if self is teacher.model:
            rows.append(len(tokens))
        return hidden(self, tokens, **given)

    monkeypatch.setattr(MatFormer, "hidden", note)
    propagate(learner, BLOCKS, 0, "float32")
    return rows


def test_a_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    settings, _ = distilling(tmp_path / "teacher")
    with pytest.raises(LtsRayError, match="has 300 words and the model 299: a teacher must have the model's vocab"):
        new_learner(settings, vocab_size=299, device=CPU)
    longer = replace(settings.model, context_length=65)
    long = replace(settings, model=longer, training=replace(settings.training, sequence_length=65))
    with pytest.raises(LtsRayError, match="longer than the teacher's context, 64"):
        start_run(long, RunFolder(tmp_path / "run"))
    missing = replace(settings, training=replace(settings.training, teacher=str(tmp_path / "nowhere")))
    with pytest.raises(LtsRayError, match="nowhere is not a folder"):
        start_run(missing, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_the_checkpoint_are_refused_before_the_run(model_dir: Path, tmp_path: Path) -> None:
    settings = RunSettings(init_from=str(model_dir), training=TrainingSettings(weights={"half": 1.0}))
    with pytest.raises(LtsRayError, match="unknown granularities half; the model has S, M, L, XL"):
        start_run(settings, RunFolder(tmp_path / "run"))


def run(settings: RunSettings, folder: Path) -> list[tuple[int, object]]:
    prepare_text(settings, RunFolder(folder))
    train_text(settings, RunFolder(folder))
    return losses(folder)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({}, {"objective": "sampled", "probabilities": "large-often"}),
        ({}, {"train": "ffn"}),
        ({"granularities": {"half": 0.5, "full": 1.0}, "independent": True}, {}),
    ],
    ids=["sampled", "ffn", "independent"],
)
def test_a_stopped_run_goes_on_to_the_same_losses(
    model: dict[str, object],
    options: dict[str, object],
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after step 8; its newest snapshot is of step 6."""
    base = tiny_settings(texts)
    settings = replace(
        base,
        model=replace(base.model, **model),  # type: ignore[arg-type]
        training=replace(base.training, **options),  # type: ignore[arg-type]
    )
    expected = run(settings, tmp_path / "whole")
    real = loop.optimize

    def stopping(learner: Learner, optimizer: object, blocks: Tensor, step: int, *rest: object) -> object:
        if step == 8:
            raise KeyboardInterrupt
        return real(learner, optimizer, blocks, step, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimize", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(settings, tmp_path / "stopped")
    assert run(settings, tmp_path / "stopped") == expected
    stored = [sorted((tmp_path / name / "model").rglob("model.safetensors")) for name in ("whole", "stopped")]
    assert [one.read_bytes() for one in stored[0]] == [two.read_bytes() for two in stored[1]]


def test_an_independent_run_leaves_a_plain_checkpoint_for_each_granularity(texts: Path, tmp_path: Path) -> None:
    base = tiny_settings(texts, steps=2)
    settings = replace(base, model=replace(base.model, granularities={"half": 0.5, "full": 1.0}, independent=True))
    last = run(settings, tmp_path / "run")[-1][1]
    assert isinstance(last, dict)
    assert list(last) == ["half", "full"]
    for name, width in (("half", 32), ("full", 64)):
        folder = tmp_path / "run" / "model" / name
        checkpoint = load_checkpoint(folder)
        assert checkpoint.model.config.widths == (width, width)
        assert checkpoint.validation_loss == {"XL": last[name]}
        assert load_tokenizer(folder).vocab_size == 300
        assert validation_loss(checkpoint.model, BLOCKS, checkpoint.model.config.universal) > 0
