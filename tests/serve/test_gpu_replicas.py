"""Replicas on a GPU, as far as that goes without one: what is asked of Ray, what is refused, what fits in memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lts_ray.checkpoints.universal import load_universal, read_universal
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, write_frontier
from lts_ray.models.matformer.hugging_face.checkpoint import fingerprint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.record import read_record
from lts_ray.runtime.cuda_runtime import CudaRuntime
from lts_ray.target import Target
from serve.app import application
from serve.engine.kv_memory import SPARE_BYTES, block_bytes, blocks_on_gpu, step_bytes
from serve.fleet.node_kind import load_kinds
from serve.loaded_model import LoadedModel
from serve.replica import matching_target
from serve.serve_args import ServeArgs

CPU = Target(name="cpu", label_selector={"role": "cpu"}, threads=2)
GPU = Target(name="gpu", label_selector={"role": "gpu"}, device="cuda", dtype="float16", threads=3)


@pytest.fixture
def given(model_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """A model with a frontier over both."""
    frontier = Frontier(
        model_fingerprint=fingerprint(model_dir),
        quality="validation_loss",
        targets={target.name: target for target in (CPU, GPU)},
        points=(),
    )
    write_frontier(frontier, tmp_path / "frontier.json")
    return {"model": model_dir, "frontier": tmp_path / "frontier.json"}


def cluster(monkeypatch: pytest.MonkeyPatch, *gpus: float) -> None:
    """A connection to one, with a node for each number of GPUs."""
    nodes = [
        {"Alive": True, "Labels": {"role": "gpu" if count else "cpu"}, "Resources": {"CPU": 8.0, "GPU": count}}
        for count in gpus
    ]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("serve.app.ray.is_initialized", lambda: True)
    monkeypatch.setattr("serve.app.ray.nodes", lambda: nodes)
    monkeypatch.setattr("lts_ray.ray_session.has_autoscaler", lambda: False)


def placed(raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What Ray is asked for, and on which device a replica that no target places is to run."""
    built = application(read_record(ServeArgs, raw))._bound_deployment
    return built.ray_actor_options, built.init_args[0].device


def test_without_a_target_replicas_are_on_a_gpu_where_the_cluster_has_one(
    model_dir: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"model": model_dir}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placed(alone) == ({"num_cpus": 1}, "cpu")
    cluster(monkeypatch, 0.0, 1.0)
    assert placed(alone) == ({"num_cpus": 1, "num_gpus": 1}, "cuda")
    assert placed(alone | {"num_gpus": "0.25", "num_replicas": "4", "threads": "2"})[0] == {
        "num_cpus": 2,
        "num_gpus": 0.25,
    }
    assert placed(alone | {"device": "cpu"}) == ({"num_cpus": 1}, "cpu")
    # Precisions are a CPU's; those who ask for them mean it.
    assert placed(alone | {"precisions": "int8,int4"}) == ({"num_cpus": 1}, "cpu")
    # Of a frontier some target is on a GPU, and those on a CPU serve where there is none.
    assert placed(given)[1] == "cuda"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert placed(alone) == ({"num_cpus": 1}, "cpu")
    cluster(monkeypatch, 0.0)
    assert placed(given) == ({"num_cpus": 1}, "cpu")
    assert placed(alone) == ({"num_cpus": 1}, "cpu")
    with pytest.raises(LtsRayError, match=r"replicas \(they need a GPU, and no node has one\): 1 of .*'GPU': 1.0}"):
        placed(alone | {"device": "cuda"})


def test_who_may_have_meant_a_gpu_is_told_of_the_cpu(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(**more: str) -> list[str]:
        placed({"model": model_dir, **more})
        return capsys.readouterr().err.splitlines()

    of_share = "warning: num_gpus=0.5 says nothing, for replicas run on the CPU"
    cluster(monkeypatch, 0.0, 1.0)
    assert said() == said(num_gpus="0.5") == []
    assert said(num_gpus="0.5", precisions="int8") == [of_share]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert said() == ["warning: the cluster has a GPU, and this torch is one for CPUs alone: replicas run on the CPU"]
    assert said(device="cpu") == []
    cluster(monkeypatch, 0.0)
    assert said() == []
    assert said(num_gpus="0.5") == [of_share]


def test_a_named_target_has_its_part_of_a_gpu(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = given | {"target": "gpu"}
    labels = {"num_cpus": 3, "label_selector": {"role": "gpu"}}
    cluster(monkeypatch, 0.0, 2.0)
    assert placed(on_gpu)[0] == labels | {"num_gpus": 1}
    assert placed(on_gpu | {"num_gpus": 0.5, "num_replicas": 4, "threads": 1})[0]["num_gpus"] == 0.5
    assert placed(given | {"target": "cpu"})[0] == {"num_cpus": 2, "label_selector": {"role": "cpu"}}
    # 0.6 of a third GPU is in no one piece.
    with pytest.raises(LtsRayError, match=r"\(num_gpus=0\.5 lets two share a GPU\).*3 of .*, and 2 have room"):
        placed(on_gpu | {"num_gpus": 0.6, "num_replicas": 3, "threads": 1})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"num_gpus": "0"}, "num_gpus must be above 0 and at most 1, for an engine runs on one GPU; got '0'"),
        ({"num_gpus": "2"}, "num_gpus must be above 0 and at most 1, for an engine runs on one GPU; got '2'"),
        ({"num_gpus": "nan"}, "num_gpus must be "),
        ({"device": "gpu"}, "device must be .*; got 'gpu'"),
        ({"target": "gpu", "device": "cpu"}, "device=cpu and target 'gpu', on cuda, say two things"),
        ({"target": "cpu", "num_gpus": "0.5"}, "num_gpus=0.5 is of replicas on a GPU, and these run on the CPU"),
        ({"device": "cpu", "num_gpus": "0.5"}, "num_gpus=0.5 is of replicas on a GPU, and these run on the CPU"),
        ({"device": "cuda", "precisions": "int8"}, "precisions asks for int8, and a GPU runs the model in bfloat16 on"),
        (
            {"target": "gpu", "precisions": "int8"},
            "precisions asks for int8, and gpu runs the model in float16 on cuda",
        ),
        ({"kinds": "cpu,gpu", "device": "cuda"}, "kinds and device say two things"),
    ],
    ids=str,
)
def test_what_no_gpu_serves_is_refused_before_anything_starts(
    given: dict[str, Any], raw: dict[str, str], message: str
) -> None:
    with pytest.raises(LtsRayError, match=message):
        read_record(ServeArgs, given | raw).check()


def test_kinds_share_gpus_and_are_counted_together(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = tmp_path / "fleet.yaml"
    half, other = {"name": "gpu", "num_gpus": 0.5, "min_replicas": 2}, {"name": "rest", "target": "gpu"}

    def served(*kinds: dict[str, Any]) -> Any:
        fleet.write_text(json.dumps({"kinds": kinds}))
        return application(read_record(ServeArgs, given | {"fleet": fleet}))._bound_deployment

    cluster(monkeypatch, 0.0, 1.0)
    *_, replicas = served(half, {"name": "cpu"}).init_args
    options = [replicas[name]._bound_deployment.ray_actor_options for name in ("gpu", "cpu")]
    assert [each.get("num_gpus") for each in options] == [0.5, None]
    assert [kind.num_gpus for kind in load_kinds(fleet)] == [0.5, None]
    with pytest.raises(LtsRayError, match=r"GPUs of all kinds together: 2 of {'GPU': 1.0} .* and 1 have room"):
        served(half, other)
    with pytest.raises(LtsRayError, match=r"num_gpus=0\.5 is of replicas on a GPU"):
        served(half, {"name": "cpu", "num_gpus": 0.5})
    with pytest.raises(LtsRayError, match=r"kind 'gpu'\.num_gpus must be above 0 and at most 1"):
        served(half | {"num_gpus": 2})


def test_a_gpu_takes_on_more_at_once_than_a_cpu_unless_told_otherwise(given: dict[str, Any], tmp_path: Path) -> None:
    def of(target: Target | None, **said: int) -> tuple[int, int]:
        capacity = read_record(ServeArgs, given | said).capacity(target)
        return capacity.slots, capacity.chunk_tokens

    assert (of(None), of(CPU), of(GPU)) == ((8, 256), (8, 256), (64, 512))
    assert of(GPU, max_batch_size=16) == (16, 512)
    # What is said holds, and the other gives way.
    assert of(GPU, max_batch_size=600) == (600, 600)
    assert of(GPU, chunk_tokens=32) == (32, 32)
    assert of(CPU, chunk_tokens=4) == (4, 4)
    with pytest.raises(LtsRayError, match="chunk_tokens must be at least the 9 requests"):
        of(GPU, max_batch_size=9, chunk_tokens=8)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(json.dumps({"kinds": [{"name": name, "max_replicas": 2} for name in ("cpu", "gpu")]}))
    args = read_record(ServeArgs, given | {"fleet": fleet})
    bounds = [args.of_kind(kind).autoscaling_config or {} for kind in args.node_kinds()]
    assert [each["target_ongoing_requests"] for each in bounds] == [8, 64]
    *_, replicas = application(args)._bound_deployment.init_args
    scaling = [replicas[name]._bound_deployment._deployment_config.autoscaling_config for name in ("cpu", "gpu")]
    assert [each.target_ongoing_requests for each in scaling] == [8, 64]


def test_a_node_serves_the_target_of_its_labels_on_the_device_that_was_decided() -> None:
    labels, both = {"role": "x"}, {"role": "in(x)"}
    targets = {
        "cpu": replace(CPU, label_selector=both),
        "gpu": replace(GPU, label_selector=both),
    }
    frontier = Frontier(model_fingerprint="0" * 64, quality="validation_loss", targets=targets, points=())
    assert matching_target(frontier, labels, "cuda") == "gpu"
    assert matching_target(frontier, labels, "cpu") == "cpu"
    assert matching_target(replace(frontier, targets={"gpu": targets["gpu"]}), labels, "cpu") is None


def test_weights_are_in_bfloat16_unless_the_checkpoint_is_in_float16(model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    args = read_record(ServeArgs, {"model": folder, "device": "cuda", "kv_cache_dtype": "bfloat16"})
    target = args.on_device(None)
    assert target is not None
    assert (target.device, target.dtype, args.cache_itemsize(target)) == ("cuda", "bfloat16", 2)
    assert args.served_precisions(read_universal(folder)[0], None, target) == ("float32",)  # as it is stored, no other
    written = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(written))
    assert getattr(args.on_device(None), "dtype", None) == "float16"
    assert args.on_device(CPU) is CPU
    assert args.cache_itemsize(replace(GPU, dtype="float32")) == 4
    assert replace(args, device="cpu").on_device(None) is None
    assert args.cache_itemsize(None) == 2


CONFIG = MatFormerConfig(
    vocab_size=50_000, d_model=1024, n_head=16, n_kv_head=4, widths=(4096,) * 16, context_length=2048
)
ONE = 2048 // 16
"""Blocks of a context."""
MODEL = CONFIG.parameters(CONFIG.universal) * 2 + step_bytes(CONFIG, itemsize=2)


def blocks(free: float, *, total: float = 20e9, budget_mb: float | None = None, share: float = 1.0) -> int:
    memory = (int(free), int(total))
    return blocks_on_gpu(CONFIG, rows=8, budget_mb=budget_mb, itemsize=2, memory=memory, share=share)


def test_a_gpus_cache_is_what_is_free_beside_the_model_and_holds_no_more_than_all_rows() -> None:
    size = block_bytes(CONFIG, itemsize=2)
    spare = 0.05 * 20e9 + 0.5e9
    assert blocks(20e9) == 8 * ONE
    assert blocks(MODEL + spare + 3.5 * ONE * size) == int(3.5 * ONE)
    assert blocks(20e9, budget_mb=2 * ONE * size / 1e6) == 2 * ONE
    # Two that come up at once both find all of it free: each has its half.
    total = 2 * (MODEL + 0.5e9 + 2.5 * ONE * size) / 0.95
    assert blocks(total, total=total, share=0.5) in (int(2.5 * ONE), int(2.5 * ONE) - 1)


@pytest.mark.parametrize(
    ("free", "more", "message"),
    [
        (
            MODEL + 1.5e9 + 1e6,
            {},
            r"^the model and one context of 2,048 tokens need 0\.7 GB of a GPU, and this replica has 0\.7 GB: 2\.2 GB "
            r"of 20\.0 are free and 1 of the GPU is its own, less what CUDA takes; give a shorter context or another "
            r"card$",
        ),
        (0.3e9, {}, r"this replica has 0\.0 GB"),
        (
            19e9,
            {"budget_mb": 3e4},
            r"the model and kv_cache_mb=30000.0 need 30.*; give a smaller kv_cache_mb or",
        ),
        (
            19e9,
            {"share": 0.05},
            r"0\.05 of the GPU is its own, .*; give a shorter context, a larger num_gpus or",
        ),
    ],
    ids=["model", "nothing", "cache", "share"],
)
def test_what_does_not_fit_on_a_gpu_is_one_line_with_what_to_do(
    free: float, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(LtsRayError, match=message):
        blocks(free, **more)


def test_what_a_step_takes_is_counted_but_for_a_part_of_what_is_spared() -> None:
    """Beside what the runtime for GPUs says that it keeps."""
    wide = replace(CONFIG, vocab_size=150_000, d_model=64, widths=(8192,), n_head=2, n_kv_head=2)
    kept = CudaRuntime(MatFormer(wide), n_blocks=10).kept_bytes - 10 * block_bytes(wide)
    assert 0 <= kept - step_bytes(wide, itemsize=4) < SPARE_BYTES / 4


def test_the_model_is_loaded_onto_the_gpu_and_its_cache_is_what_is_left(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for the GPU, once its memory has been asked for."""
    asked: list[tuple[torch.dtype, str]] = []

    def load(folder: Path, *, dtype: torch.dtype, device: str) -> object:
        asked.append((dtype, device))
        return load_universal(folder, dtype=dtype)

    config, _ = read_universal(model_dir)
    one, size = -(-config.context_length // 16), block_bytes(config, itemsize=2)
    model = config.parameters(config.universal) * 2 + step_bytes(config, itemsize=2)
    free = int(0.05 * 4e9 + 0.5e9 + model + (2 * one + 0.5) * size)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, int(4e9)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    monkeypatch.setattr("serve.loaded_model.load_universal", load)
    args = read_record(ServeArgs, {"model": model_dir, "device": "cuda"})
    loaded = LoadedModel.of(args, replace(GPU, dtype="bfloat16"), None, threads=1)
    assert asked == [(torch.bfloat16, "cuda")]
    assert loaded.runtime.n_blocks == 2 * one
    assert loaded.runtime.precisions == ("float32",)
    assert loaded.described.startswith(f"TorchRuntime on Card in bfloat16, {2 * one} blocks of keys and values (")
    assert loaded.described.endswith("up to 64 requests at once and 512 tokens a step")
    assert loaded.capacity == args.capacity(GPU)


def test_a_model_that_is_too_large_while_it_is_loaded_is_one_line(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(6e9), int(8e9)))
    monkeypatch.setattr("serve.loaded_model.load_universal", load)
    args = read_record(ServeArgs, {"model": model_dir})
    with pytest.raises(
        LtsRayError, match=r"with its cache .* does not fit on the GPU, where 6\.0 of 8\.0 GB are free: a"
    ):
        LoadedModel.of(args, GPU, None, threads=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LtsRayError, match="the device of gpu is cuda, but torch finds no CUDA GPU"):
        LoadedModel.of(args, GPU, None, threads=1)
