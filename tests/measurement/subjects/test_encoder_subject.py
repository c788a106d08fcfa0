"""What is measured of models with encoders: a pass, and with a decoder beside it, a step that reads both caches."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import nn

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Measurement, measure
from lts_ray.measurement.peak_memory import peak_memory_bytes
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.steps import step_of
from lts_ray.measurement.subjects.encoder_subject import EncoderDecoderSubject, EncoderSubject, has_steps
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.models.backbones.bert import Bert
from lts_ray.models.backbones.t5 import T5
from lts_ray.target import Target
from tests.measurement.resident import BackboneModel, resident_growth_bytes

ONE = Architecture(d_model=64, n_head=(2, 4), d_inner=(128, 512), d_embed=64)
TWO = Architecture(
    d_model=64, n_head=(2, 4), d_inner=(128, 512), d_embed=64, encoder=Stack(n_head=(8,), d_inner=(256,))
)
TARGET = Target(name="t", local=True, sequence_length=48, batch_size=2)
CANDIDATES = {"bert": ONE, "t5": TWO}


def subject_of(backbone: str) -> EncoderSubject | EncoderDecoderSubject:
    source = BackboneSource(backbone=backbone, vocab_size=300, context_length=48)
    subject = source.open(TARGET).subject(CANDIDATES[backbone])
    assert isinstance(subject, EncoderSubject | EncoderDecoderSubject)
    return subject


def record_inputs(module: nn.Module) -> list[list[int]]:
    """Shapes of the first argument of each of the module's later calls."""
    shapes: list[list[int]] = []
    module.register_forward_hook(lambda _module, inputs, _output: shapes.append(list(inputs[0].shape)))
    return shapes


def test_an_encoders_prefill_is_a_pass_over_the_whole_sequence_each_time() -> None:
    subject = subject_of("bert")
    assert isinstance(subject.module, Bert)
    seen = record_inputs(subject.module)
    with torch.inference_mode():
        step = step_of("prefill", subject, TARGET)
        step()
        step()
    assert seen == [[2, 48], [2, 48]]


def test_an_encoder_decoders_prefill_is_the_encoders_pass_and_the_decoders_first_token() -> None:
    subject = subject_of("t5")
    assert isinstance(subject.module, T5)
    with torch.inference_mode():
        step = step_of("prefill", subject, TARGET)
        encoder, decoder = record_inputs(subject.module.encoder), record_inputs(subject.module.decoder)
        step()
        step()
    assert encoder == [[2, 48, 64]] * 2
    assert decoder == [[2, 1, 64]] * 2


def test_an_encoder_decoders_decode_step_reads_both_caches_and_runs_no_encoder() -> None:
    """48 tokens before it in the decoder, 48 in the source: what its attentions see, and no more is computed."""
    subject = subject_of("t5")
    assert isinstance(subject.module, T5)
    with torch.inference_mode():
        step = step_of("decode", subject, TARGET)
        block = subject.module.decoder.layers[0]
        encoder, cross = record_inputs(subject.module.encoder), record_inputs(block.cross)  # type: ignore[arg-type]
        seen: list[int] = []
        for each in (block.attention, block.cross):
            assert isinstance(each, nn.Module)
            each.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[1][0].shape[1]))
        step()
        step()
    assert encoder == []
    assert cross == [[2, 1, 64]] * 2
    assert seen == [49, 48] * 2


def test_an_encoder_is_measured_without_a_decode_step_and_its_cost_says_so() -> None:
    found = {}
    for backbone in CANDIDATES:
        subject = subject_of(backbone)
        measured = measure(subject, Reference.of(subject, TARGET), seconds=0.1)
        assert Measurement.from_json(measured.to_json()) == measured
        found[backbone] = measured
    encoder, both = found["bert"], found["t5"]
    assert encoder.decode is None
    assert encoder.latencies == (encoder.prefill,)
    assert asdict(encoder.cost)["decode_ms"] is None
    assert both.decode is not None
    assert both.cost.decode_ms == both.decode.median_ms > 0


@pytest.mark.parametrize("backbone", ["bert", "t5"])
def test_the_reference_of_a_source_is_of_its_kind(backbone: str) -> None:
    source = BackboneSource(backbone=backbone, vocab_size=300, context_length=48)
    assert type(source.open(TARGET).reference) is type(subject_of(backbone))


def test_a_decode_step_of_an_encoder_is_refused() -> None:
    subject = subject_of("bert")
    assert not has_steps(subject)
    assert has_steps(subject_of("t5"))
    with pytest.raises(LtsRayError, match="an encoder has no decode step"):
        Reference.of(subject, TARGET).latency("decode", subject)


def test_the_peak_of_an_encoder_has_weights_and_activations() -> None:
    """Bounded from below by hand: all parameters, and one activation of the wider FFN; there is no cache."""
    subject = subject_of("bert")
    parameters = 4 * sum(each.numel() for each in subject.module.parameters())
    floor = parameters + 2 * 48 * 512 * 4
    assert subject.weight_bytes == parameters
    assert floor < peak_memory_bytes(subject, TARGET) < 1.5 * floor


def test_the_peak_of_an_encoder_decoder_has_weights_and_both_caches() -> None:
    """By hand: all parameters once, keys and values of 49 own tokens and of 48 read ones for each decoder layer."""
    subject = subject_of("t5")
    parameters = 4 * sum(each.numel() for each in subject.module.parameters())
    caches = 2 * 2 * 2 * (49 + 48) * 64 * 4
    assert subject.weight_bytes == parameters
    assert parameters + caches < peak_memory_bytes(subject, TARGET) < 1.5 * (parameters + caches)


@pytest.mark.parametrize("backbone", ["bert", "t5"])
def test_the_counted_peak_is_what_a_process_of_its_own_grows_by(backbone: str) -> None:
    """About 100 MB, so that what libraries keep for themselves does not matter."""
    target = Target(name="t", local=True, sequence_length=256, batch_size=2)
    stack = Stack(n_head=(8, 4, 2, 8), d_inner=(2048, 1024, 3072, 2048))
    candidate = BackboneModel(
        source=BackboneSource(backbone=backbone, vocab_size=20_000, context_length=256),
        architecture=Architecture(
            d_model=512,
            n_head=stack.n_head,
            d_inner=stack.d_inner,
            d_embed=512,
            encoder=None if backbone == "bert" else Stack(n_head=(4, 8), d_inner=(1024, 2048)),
        ),
    )
    counted = peak_memory_bytes(candidate.subject(target), target)
    assert counted > 9e7
    assert resident_growth_bytes(candidate, target) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("backbone", ["bert", "t5"])
def test_stand_in_weights_of_models_with_encoders_compute_finite_numbers_that_are_not_zero(backbone: str) -> None:
    module = subject_of(backbone).module
    tokens = torch.arange(32).view(2, 16)
    with torch.inference_mode():
        states = module(tokens) if isinstance(module, Bert) else module(tokens, tokens)
    assert torch.isfinite(states).all()
    assert states.std() > 0.01
    assert all(value.count_nonzero() == value.numel() for value in module.parameters())
