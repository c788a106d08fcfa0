from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lts_ray.architecture import Architecture
from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.measurement.peak_memory import peak_memory_bytes, peak_of
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.measurement.subjects.submodel_subject import UniversalSubjects
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.precision import PRECISIONS, WEIGHT_BYTES
from lts_ray.target import Target
from tests.runtime.reference import random_model

CPU = torch.device("cpu")
TARGET = Target(name="t", local=True, sequence_length=48)


def test_the_peak_is_the_running_sums_maximum_and_not_the_sum() -> None:
    def run() -> None:
        first = torch.empty(1000)  # 4,000 bytes in use
        second = torch.empty(2000)  # 12,000
        del first  # 8,000
        third = torch.empty(500)  # 10,000
        del second, third

    assert peak_of(run, device=CPU) == 12_000


def test_what_is_freed_again_and_again_counts_once() -> None:
    def run() -> None:
        for _ in range(50):
            torch.empty(1000)

    assert peak_of(run, device=CPU) == 4000


def test_weights_are_those_of_the_extracted_submodel(universal: MatFormer) -> None:
    for submodel in universal.config.trained.values():
        small = extract(universal, submodel)
        counted = sum(each.nbytes for each in small.parameters()) + small.rotary.nbytes
        assert UniversalSubjects.of(universal, TARGET).subject(submodel).weight_bytes == counted


def test_rounded_weights_are_those_of_the_extracted_submodel(universal: MatFormer) -> None:
    """Norms stay as they are, and tables in 8 bits where the layers are in 4; in 4 bits there is no lower plane."""
    untied = random_model(replace(universal.config, tied=False))
    subjects = UniversalSubjects.of(untied, TARGET, precisions=PRECISIONS)
    for submodel in untied.config.trained.values():
        small = extract(untied, submodel)
        tables = small.embed_tokens.weight.numel() + small.lm_head.weight.numel()
        layers = sum(each.numel() for each in small.layers.parameters() if each.dim() == 2)
        norms = sum(each.numel() for each in small.parameters() if each.dim() == 1)
        for precision in PRECISIONS:
            chosen = subjects.subject(replace(submodel, precision=precision))
            of_table = WEIGHT_BYTES["int8" if precision == "int4" else precision]
            counted = 4 * norms + WEIGHT_BYTES[precision] * layers + of_table * tables + small.rotary.nbytes
            assert chosen.weight_bytes == round(counted)
    peaks = [
        peak_memory_bytes(subjects.subject(replace(untied.config.universal, precision=each)), TARGET)
        for each in PRECISIONS
    ]
    assert peaks == sorted(peaks, reverse=True)


def test_only_float32_on_a_cpu_has_precisions_to_choose(universal: MatFormer) -> None:
    other = replace(TARGET, dtype="bfloat16")
    with pytest.raises(LtsRayError, match="computes in bfloat16 on cpu: only float32 on a CPU has precisions"):
        UniversalSubjects.of(universal, other, precisions=("float32", "int8"))


def test_the_peak_of_a_submodel_has_weights_cache_and_activations(universal: MatFormer) -> None:
    """Bounded from below by hand: the weights, the KV cache, and the widest FFN's two activations live at once."""
    config, submodel = universal.config, universal.config.universal
    target = Target(name="t", local=True, sequence_length=48, batch_size=2)
    cache = 2 * config.n_layer * 2 * config.n_kv_head * 49 * config.d_head * 4
    ffn = 2 * 2 * 48 * max(submodel.widths) * 4
    subject = UniversalSubjects.of(universal, target).subject(submodel)
    peak = peak_memory_bytes(subject, target)
    floor = subject.weight_bytes + cache + ffn
    assert floor < peak < 2 * floor


def test_a_narrower_submodel_needs_less(universal: MatFormer) -> None:
    subjects = UniversalSubjects.of(universal, TARGET)
    peaks = [peak_memory_bytes(subjects.subject(each), TARGET) for each in universal.config.trained.values()]
    assert peaks == sorted(set(peaks))


def test_measuring_twice_gives_the_same(universal: MatFormer) -> None:
    subject = UniversalSubjects.of(universal, TARGET).reference
    first, second = (peak_memory_bytes(subject, TARGET) for _ in range(2))
    assert first == second


def test_the_peak_of_a_backbone_has_weights_cache_and_activations() -> None:
    """Bounded from below by hand: all parameters, the KV cache, and one activation of the wider FFN."""
    architecture = Architecture(d_model=64, n_head=(2, 4), d_inner=(128, 512), d_embed=64)
    target = Target(name="t", local=True, sequence_length=48, batch_size=2)
    subject = BackboneSource(backbone="gpt2", vocab_size=300, context_length=64).open(target).subject(architecture)
    parameters = 4 * sum(each.numel() for each in subject.module.parameters())
    cache, ffn = 2 * 2 * 2 * 49 * 64 * 4, 2 * 48 * 512 * 4
    floor = parameters + cache + ffn
    assert floor < peak_memory_bytes(subject, target) < 1.5 * floor
