from __future__ import annotations

import pickle
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
import torch

from benchmarks.repeatability import measure_repeatedly, spread_of
from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.measurement.measurement import Failed, Measurement, measure_submodels
from lts_ray.measurement.on_ray.actor import LossActor, MeasurementActor
from lts_ray.measurement.peak_memory import peak_memory_bytes
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.steps import step_of
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.measurement.subjects.submodel_subject import UniversalSource, UniversalSubjects, weights_of
from lts_ray.measurement.timed_blocks import MIN_BLOCKS
from lts_ray.models.backbones.backbone_config import BACKBONES, backbone_of
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.pick import GREEDY_PICK, ChosenToken, Pick
from lts_ray.quantisation.quantised_weights import at_precision, rounded_weights
from lts_ray.runtime.native_runtime import NativeRuntime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.conftest import make_model
from tests.measurement.brief import measure_briefly

SMALL = Architecture(d_model=32, n_head=(2, 4), d_inner=(64, 96), d_embed=32)
TARGET = Target(name="t", local=True, sequence_length=16)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch.setattr)


@dataclass(frozen=True)
class Spy:
    """A runtime that keeps what it is asked to run."""

    runtime: Runtime
    seen: list[tuple[int, int]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def run(self, segments: Sequence[Segment]) -> torch.Tensor:
        """seen: the tokens of each row, and how many it holds before; no two rows' places are the same."""
        (shape,) = {(len(segment.tokens), segment.start) for segment in segments}
        assert len({block for segment in segments for block in segment.blocks}) == 3 * len(segments[0].blocks)
        self.seen.append(shape)
        return self.runtime.run(segments)


def test_decode_attends_to_the_targets_context(universal: MatFormer) -> None:
    """Every timed step sees sequence_length tokens, written by a prefill: the cache must be wound back between runs."""
    target = Target(name="t", local=True, sequence_length=20, batch_size=3)
    subjects = UniversalSubjects.of(universal, target)
    spy = Spy(subjects.runtime)
    seen, whole = spy.seen, replace(subjects, runtime=spy).subject(universal.config.universal)
    step = step_of("decode", whole, target)
    step()
    step()
    assert seen == [(20, 0), (1, 20), (1, 20)]
    seen.clear()
    step = step_of("prefill", whole, target)
    step()
    step()
    assert seen == [(20, 0), (20, 0)]


def test_a_device_that_chooses_tokens_is_timed_until_it_has_chosen(universal: MatFormer) -> None:
    """As serving has it: logits stay on the device, and what brings tokens there is the runtime's own."""
    told: list[object] = []

    class Choosing(Spy):
        def begin(self, segments: Sequence[Segment], picks: Sequence[Pick]) -> Choosing:
            told.append([*picks])
            return self

        def chosen(self) -> Sequence[ChosenToken]:
            told.append("waited")
            return []

    target = Target(name="t", local=True, sequence_length=20, batch_size=3)
    subjects = UniversalSubjects.of(universal, target)
    spy = Choosing(subjects.runtime)
    subject = replace(subjects, runtime=spy, device=torch.device("cuda")).subject(universal.config.universal)
    assert subject.ran_in == "kernels"
    step_of("decode", subject, target)()
    assert told == [[GREEDY_PICK] * 3, "waited"] * 2
    assert spy.seen == []


def test_what_a_gpu_has_no_room_to_measure_is_one_line(universal: MatFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(6e9), int(8e9)))
    monkeypatch.setattr("lts_ray.measurement.subjects.submodel_subject.build_runtime", build)
    with pytest.raises(
        LtsRayError, match=r"^the model with a batch of 1 rows of 16 tokens does not fit on the GPU, .*$"
    ):
        measure_submodels(universal, [universal.config.universal], TARGET)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", NativeRuntime), ("bfloat16", TorchRuntime)])
def test_a_submodel_is_measured_in_the_runtime_that_would_serve_it(
    universal: MatFormer, dtype: Literal["float32", "bfloat16"], kind: type
) -> None:
    """Plain torch stands in where the kernels cannot run. What its memory is has the KV cache of either."""
    target = replace(TARGET, dtype=dtype, batch_size=2)
    subjects = UniversalSubjects.of(deepcopy(universal), target)
    assert isinstance(subjects.runtime, kind)
    subject, config = subjects.reference, universal.config
    cache = 2 * config.n_layer * 2 * config.n_kv_head * 32 * config.d_head * subjects.dtype.itemsize
    assert peak_memory_bytes(subject, target) > subject.weight_bytes + cache
    assert subject.kept_bytes >= cache


def test_a_whole_context_can_be_measured_and_a_longer_one_is_refused(universal: MatFormer) -> None:
    """The decode step after a full context has no place of its own: it is measured one token earlier."""
    limit = universal.config.context_length
    subjects = UniversalSubjects.of(universal, Target(name="t", local=True, sequence_length=limit))
    whole = subjects.subject(universal.config.universal)
    step_of("decode", whole, Target(name="t", local=True, sequence_length=limit))()
    for regime in ("prefill", "decode"):
        with pytest.raises(LtsRayError, match=f"sequence_length {limit + 1} is longer than the model's context"):
            step_of(regime, whole, Target(name="t", local=True, sequence_length=limit + 1))


def test_measurements_come_in_order_and_survive_json(universal: MatFormer) -> None:
    trained = list(universal.config.trained.values())
    results = measure_submodels(universal, [trained[0], trained[-1]], TARGET)
    assert results[0].peak_memory_bytes < results[1].peak_memory_bytes
    for each in results:
        assert len(each.prefill.blocks) >= MIN_BLOCKS
        assert len(each.prefill.times_ms) >= 10
        assert each.prefill.reference_ms
        assert each.cost.decode_ms == each.decode.median_ms > 0
        assert Measurement.from_json(each.to_json()) == each


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_target_on_a_machine_without_one_says_so(universal: MatFormer) -> None:
    with pytest.raises(LtsRayError, match="wants CUDA"):
        measure_submodels(universal, [universal.config.universal], Target(name="t", local=True, device="cuda"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_actor_measures_any_candidate(backbone: str) -> None:
    source = pickle.loads(pickle.dumps(BackboneSource(backbone=backbone, vocab_size=200, context_length=16)))
    actor = MeasurementActor(TARGET, source, None)
    assert isinstance(actor.start(), str)
    small, large = actor.measure(SMALL), actor.measure(Architecture(d_model=64, n_head=(2,), d_inner=(96,), d_embed=64))
    assert isinstance(small, Measurement)
    assert isinstance(large, Measurement)
    assert small.peak_memory_bytes < large.peak_memory_bytes


def test_an_actor_of_a_universal_model_measures_submodels(universal: MatFormer) -> None:
    weights = {name: value.numpy() for name, value in universal.state_dict().items()}
    actor = MeasurementActor(TARGET, UniversalSource(universal.config), weights)
    actor.start()
    assert isinstance(actor.measure(Submodel((8, 16, 24))), Measurement)
    assert actor.measure(Submodel((8, 16))) == Failed(
        reason="LtsRayError: the submodel has 2 widths, but the model has 3 layers"
    )


def test_losses_and_steps_are_of_the_matrices_as_they_were_rounded(universal: MatFormer) -> None:
    """Not to the nearest, but as the checkpoint says: here as another model's are, so that it shows."""
    quantised = rounded_weights(make_model(seed=1))
    weights, blocks = weights_of(universal, quantised), torch.randint(0, 300, (2, 17))
    source = pickle.loads(pickle.dumps(UniversalSource(universal.config, ("float32", "int8", "int4"))))
    losses, subjects = LossActor(source, weights, blocks.numpy()), source.open(TARGET, weights)
    tokens, plain = [3, 1, 4], universal.config.trained["M"]
    for precision in ("", "int8", "int4"):
        submodel = replace(plain, precision=precision)
        expected = at_precision(universal, precision, quantised)
        assert losses.loss(submodel) == validation_loss(expected, blocks, plain)
        piece = Segment(tokens=tokens, start=0, blocks=(0,), submodel=submodel, wants_logits=True)
        with torch.inference_mode():
            logits = expected(torch.tensor([tokens]), submodel=plain, last_only=True)[0]
        near = 0.05 * float(logits.std())  # kernels may round the activations, too
        torch.testing.assert_close(subjects.runtime.run([piece]), logits, atol=near, rtol=0)
        assert subjects.subject(submodel).submodel == submodel


def test_an_actor_whose_source_cannot_be_opened_says_why(universal: MatFormer) -> None:
    found = MeasurementActor(TARGET, UniversalSource(universal.config), {}).start()
    assert isinstance(found, Failed)
    assert "Missing key" in found.reason


def test_an_unknown_backbone_names_those_there_are() -> None:
    with pytest.raises(LtsRayError, match="unknown backbone 'mamba': use one of gpt2, transformer-xl, opt, bert, t5"):
        BackboneSource(backbone="mamba", vocab_size=200, context_length=16)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stand_in_weights_compute_finite_numbers_that_are_not_zero(backbone: str) -> None:
    """Zeros and denormals would falsify timings; allocated memory that nobody filled may hold either."""
    source = BackboneSource(backbone=backbone, vocab_size=200, context_length=16)
    module = source.open(TARGET).subject(SMALL).module
    tokens = torch.arange(32).view(2, 16)
    with torch.inference_mode():
        scores = module(tokens)
    assert torch.isfinite(scores).all()
    assert scores.std() > 0.01
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        magnitudes = value.float().abs()
        assert torch.isfinite(value.float()).all(), name
        assert ((magnitudes > 1e-30) | (magnitudes == 0)).all(), name
    assert all(value.count_nonzero() == value.numel() for value in module.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_stand_in_has_the_tables_of_a_properly_initialised_model(backbone: str) -> None:
    """Skipping the drawing of weights must not skip what is computed at construction."""
    source = BackboneSource(backbone=backbone, vocab_size=200, context_length=16)
    found = dict(source.open(TARGET).subject(SMALL).module.named_buffers())
    wanted = dict(backbone_of(backbone, SMALL, 200, 16).named_buffers())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


def test_repeatability_measures_both_regimes_against_one_reference(universal: MatFormer) -> None:
    subjects = UniversalSubjects.of(universal, TARGET)
    small, large = (subjects.subject(each) for each in list(universal.config.trained.values())[:2])
    measured = measure_repeatedly(large, Reference.of(small, TARGET), 2, seconds=0.1)
    assert set(measured) == {"prefill", "decode"}
    for latencies in measured.values():
        medians = [latency.median_ms for latency in latencies]
        expected = abs(medians[0] - medians[1]) / (sum(medians) / 2)
        assert spread_of(latencies)["range_percent"] == pytest.approx(100 * expected)
