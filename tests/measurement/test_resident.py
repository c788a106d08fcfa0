from __future__ import annotations

import pytest

from lts_ray.architecture import Architecture
from lts_ray.checkpoints.extracted import extract
from lts_ray.errors import LtsRayError
from lts_ray.measurement.peak_memory import peak_memory_bytes
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.measurement.subjects.submodel_subject import SubmodelSubject, UniversalSubjects
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.measurement.resident import BackboneModel, ExtractedSubmodel, resident_growth_bytes

TARGET = Target(name="t", local=True, sequence_length=256, batch_size=2)
BACKBONE = BackboneModel(
    source=BackboneSource(backbone="gpt2", vocab_size=20_000, context_length=256),
    architecture=Architecture(d_model=512, n_head=(8, 4, 2, 8), d_inner=(2048, 1024, 3072, 2048), d_embed=512),
)
SUBMODEL = ExtractedSubmodel(
    config=MatFormerConfig(
        vocab_size=16_000, d_model=512, n_head=8, n_kv_head=4, widths=(4096,) * 4, context_length=512
    ),
    submodel=Submodel((4096, 2048, 1024, 4096)),
)


@pytest.mark.parametrize("candidate", [BACKBONE, SUBMODEL], ids=["backbone", "submodel"])
def test_the_counted_peak_is_what_a_process_of_its_own_grows_by(candidate: BackboneModel | ExtractedSubmodel) -> None:
    """About 100 MB and more, so that what libraries keep for themselves, some 3 MB, does not matter."""
    counted = peak_memory_bytes(candidate.subject(TARGET), TARGET)
    assert counted > 9e7
    assert resident_growth_bytes(candidate, TARGET) == pytest.approx(counted, rel=0.1)


def test_the_child_builds_what_extract_makes_of_a_submodel(universal: MatFormer) -> None:
    submodel = Submodel((8, 16, 24))
    small = extract(universal, submodel)
    target = Target(name="t", local=True, sequence_length=16)
    built = ExtractedSubmodel(config=universal.config, submodel=submodel).subject(target)
    assert isinstance(built, SubmodelSubject)
    assert built.universal.runtime.config == small.config
    assert built.weight_bytes == UniversalSubjects.of(small, target).subject(small.config.universal).weight_bytes


def test_a_candidate_that_cannot_run_gives_the_childs_last_line() -> None:
    with pytest.raises(LtsRayError, match="sequence_length 300 is longer than the model's context of 256 tokens"):
        resident_growth_bytes(BACKBONE, Target(name="t", local=True, sequence_length=300))


def test_only_the_cpus_memory_has_a_resident_set() -> None:
    with pytest.raises(LtsRayError, match="got device 'cuda'"):
        resident_growth_bytes(BACKBONE, Target(name="t", local=True, device="cuda"))
