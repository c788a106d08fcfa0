"""Which runtime a model gets at which precisions, and that each row is computed at its own."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from itertools import pairwise
from subprocess import CalledProcessError
from typing import cast

import pytest
import torch

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.precision import PRECISIONS
from lts_ray.quantisation.quantised_weights import at_precision, rounded_weights
from lts_ray.runtime.build_runtime import build_runtime, gpu_runtime
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.submodel import Submodel
from tests.runtime.reference import CONFIGS, SHAPE, Sequences, random_model

CLOSE = {"atol": 2e-3, "rtol": 2e-3}
MODEL = random_model(SHAPE)


@pytest.mark.parametrize("name", ["llama", "llama-untied", "llama-axes", "gpt2"])
def test_rows_of_several_precisions_share_a_step_and_each_gets_its_own(name: str) -> None:
    """A sequence may change its precision between two tokens, as its width; keys and values are there for both."""
    model = random_model(CONFIGS[name])
    at = {precision: at_precision(model, precision) for precision in PRECISIONS}
    runtime = TorchRuntime(model, n_blocks=24, threads=1, at=at)
    assert runtime.precisions == PRECISIONS
    sequences = Sequences(model, runtime, n=4, at=at)
    for parts in [
        [(0, 5, "XL")],
        [(0, 1, "XL@int4"), (1, 19, "S"), (2, 17, "M@int8")],
        [(1, 13, "S@bfloat16"), (0, 1, "XL@int8"), (2, 1, "M@int8"), (3, 33, "L@int4")],
        *[[(index, 1, f"XL@{precision}") for index, precision in enumerate(PRECISIONS)]] * 2,
    ]:
        got, expected = sequences.step(*parts)
        torch.testing.assert_close(got, expected, **CLOSE)
    apart = [at[precision](torch.tensor([[1, 2, 3]]), submodel=model.config.universal) for precision in PRECISIONS]
    for one, other in pairwise(apart):
        assert float((one - other).abs().max()) > CLOSE["atol"]  # or nothing is tested


def segment(submodel: Submodel) -> Segment:
    return Segment(tokens=[3, 1], start=0, blocks=(0,), submodel=submodel, wants_logits=True)


def test_a_submodel_that_names_no_precision_runs_in_the_most_precise_one() -> None:
    runtime = build_runtime(MODEL, n_blocks=1, threads=1, precisions=("int4", "int8"))
    assert runtime.precisions == ("int8", "int4")
    plain = runtime.run([segment(SHAPE.universal)]).clone()
    torch.testing.assert_close(plain, runtime.run([segment(replace(SHAPE.universal, precision="int8"))]))


def test_matrices_that_were_rounded_elsewhere_are_taken_as_they_are() -> None:
    other = random_model(SHAPE, seed=1)
    runtime = build_runtime(MODEL, n_blocks=1, threads=1, precisions=("int8",), quantised=rounded_weights(other))
    expected = at_precision(MODEL, "int8", rounded_weights(other))
    with torch.inference_mode():
        logits = expected(torch.tensor([[3, 1]]), submodel=SHAPE.universal, last_only=True)[0]
    given = runtime.run([segment(SHAPE.universal)])  # by kernels, which round its inputs too
    assert (given - logits).norm() < 0.03 * logits.norm()


@pytest.mark.parametrize(
    ("precisions", "message"),
    [
        (("int3",), "this model runs in float32, int8; precisions asks for int3"),
        (("float32", "int4"), "this model runs in float32, int8; precisions asks for int4"),
        ((), "this model runs in float32, int8; precisions asks for none"),
    ],
    ids=str,
)
def test_precisions_that_the_model_does_not_run_in_are_one_line(precisions: tuple[str, ...], message: str) -> None:
    model = random_model(replace(SHAPE, precisions=("float32", "int8")))
    with pytest.raises(LtsRayError, match=message):
        build_runtime(model, n_blocks=1, threads=1, precisions=precisions)


def test_a_segment_that_asks_for_a_precision_that_is_not_held_is_refused() -> None:
    runtime = build_runtime(MODEL, n_blocks=1, threads=1, precisions=("float32", "int8"))
    with pytest.raises(LtsRayError, match="int4"):
        runtime.run([segment(replace(SHAPE.universal, precision="int4"))])


def test_a_models_own_pass_refuses_a_precision() -> None:
    for asked in ("int8", "int4", "bfloat16"):
        chosen = replace(SHAPE.universal, precision=asked)
        for submodel in (chosen, [SHAPE.universal, chosen]):
            with pytest.raises(LtsRayError, match=f"a model's own pass runs its weights as they are: {asked}"):
                MODEL(torch.tensor([[1], [2]]), submodel=submodel)


def test_what_the_kernels_for_gpus_do_not_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch runs it then."""
    stored = (STORED,)
    uneven = random_model(replace(SHAPE, heads=(4, 2, 4)))
    with torch.device("meta"):
        vast = MatFormer(replace(SHAPE, vocab_size=2**20, d_model=2**11))
    for model, precisions, half, message in [
        (uneven, stored, False, "as many heads in all layers"),
        (vast, stored, False, "no matrix of 2"),
        (cast(MatFormer, object()), stored, False, "models of one family"),
        (MODEL, ("int8", "int4"), False, "not in int8, int4"),
        (MODEL, stored, True, "keep keys and values as they keep the weights"),
    ]:
        assert message in str(gpu_runtime(model, precisions, n_blocks=1, half_cache=half))
    cuda_runtime = pytest.importorskip("lts_ray.runtime.cuda_runtime")
    errors = sys.modules["triton.runtime.errors"]
    failures: list[Exception] = [
        errors.OutOfResources(231_000, 101_376, "shared memory"),
        errors.PTXASError("no such instruction\nat line 3"),
        RuntimeError("Failed to find C compiler."),
        CalledProcessError(1, ["gcc", "main.c"]),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ]

    def prepare(runtime: Runtime) -> None:
        raise failures[0]

    monkeypatch.setattr(cuda_runtime.CudaRuntime, "prepare", prepare)
    for said in ("OutOfResources: out of resource", "PTXASError: .*instruction[)]$", "C compiler", "'gcc', 'main.c'"):
        assert re.search(said, str(gpu_runtime(MODEL, stored, n_blocks=1, half_cache=False)))
        del failures[0]
    with pytest.raises(RuntimeError, match="illegal memory access"):  # which plain torch would not mend
        gpu_runtime(MODEL, stored, n_blocks=1, half_cache=False)
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    assert "install triton" in str(gpu_runtime(MODEL, stored, n_blocks=1, half_cache=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_kernels() -> None:
    pytest.importorskip("triton")
    runtime = build_runtime(random_model(SHAPE).to("cuda"), n_blocks=1, threads=1)
    plain = build_runtime(MODEL, n_blocks=1, threads=1)
    assert type(runtime).__name__ == "CudaRuntime"
    got, expected = (each.run([segment(SHAPE.universal)]) for each in (runtime, plain))
    torch.testing.assert_close(got, expected, **CLOSE)
