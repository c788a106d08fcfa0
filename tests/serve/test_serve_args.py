from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lts_ray.checkpoints.universal import read_universal
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, FrontierPoint, read_frontier, write_frontier
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.matformer.hugging_face.checkpoint import fingerprint
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import DEFAULT_PRECISIONS
from lts_ray.record import read_record
from lts_ray.target import Target
from lts_ray.text.tokenizer import load_tokenizer
from serve.app import ElasticServer, application, build
from serve.engine.kv_memory import block_bytes, blocks_that_fit
from serve.replica import build_replica
from serve.routes import Routes
from serve.serve_args import ServeArgs
from tests.serve.models import COSTS


def frontier_file(folder: Path, model_fingerprint: str, *names: str) -> Path:
    targets = {name: Target(name=name, label_selector={"role": name}, threads=1) for name in names or ("small",)}
    frontier = Frontier(model_fingerprint=model_fingerprint, quality="validation_loss", targets=targets, points=())
    write_frontier(frontier, folder / "frontier.json")
    return folder / "frontier.json"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"modle": "x"}, "unknown keys modle; known: .*, model,"),
        ({"num_replicas": "0"}, "num_replicas must be at least 1; got '0'"),
        ({"threads": "many"}, "threads must be a whole number; got 'many'"),
        ({"max_queue": "1025"}, "max_queue must be at most 1024; got '1025'"),
        ({"name": "a:b"}, "name must be one word without a colon; got 'a:b'"),
        ({"body_timeout_s": "0"}, "body_timeout_s must be above 0; got '0'"),
        ({"cors_origins": "https://a.org/page"}, "cors_origins must be origins such as https://example.org"),
        ({"cors_origins": "a.org"}, "cors_origins must be origins such as https://example.org"),
        ({"precisions": "int8,int3"}, "precisions must be some of float32, bfloat16, int8, int4, .*; got 'int8,int3'"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(raw: dict[str, str], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        read_record(ServeArgs, raw)


@pytest.mark.parametrize("raw", ["http://localhost:3000, https://a.org", ["http://localhost:3000", "https://a.org"]])
def test_origins_are_a_list_or_have_commas_between_them(raw: object) -> None:
    assert read_record(ServeArgs, {"cors_origins": raw}).cors_origins == ("http://localhost:3000", "https://a.org")
    assert read_record(ServeArgs, {"cors_origins": "*"}).cors_origins == ("*",)
    assert read_record(ServeArgs, {}).cors_origins == ()


def test_files_that_cannot_be_served_are_refused_before_anything_starts(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="is not a folder"):
        read_record(ServeArgs, {"model": tmp_path / "nope"}).check()
    with pytest.raises(LtsRayError, match="needs frontier"):
        read_record(ServeArgs, {"model": model_dir, "target": "small"}).check()
    with pytest.raises(LtsRayError, match="does not exist"):
        read_record(ServeArgs, {"model": model_dir, "frontier": tmp_path / "none.json"}).check()
    with pytest.raises(LtsRayError, match="another model"):
        read_record(ServeArgs, {"model": model_dir, "frontier": frontier_file(tmp_path, "0" * 64)}).check()
    cut = tmp_path / "cut"
    shutil.copytree(model_dir, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(LtsRayError, match="missing or corrupt"):
        read_record(ServeArgs, {"model": cut}).check()


def test_precisions_are_those_asked_for_or_the_frontiers_or_the_default(model_dir: Path, tmp_path: Path) -> None:
    config, _ = read_universal(model_dir)
    path = frontier_file(tmp_path, fingerprint(model_dir))

    def served(asked: str = "", frontier: Frontier | None = None, target: Target | None = None) -> tuple[str, ...]:
        return read_record(ServeArgs, {"model": model_dir, "precisions": asked}).served_precisions(
            config, frontier, target
        )

    assert served() == DEFAULT_PRECISIONS
    assert served("int4, float32") == ("float32", "int4")
    empty = read_frontier(path)
    assert served(frontier=empty) == ("float32",)
    halved = replace(empty, points=(point_at(config, "S", "int4"), point_at(config, "M", "int8")))
    assert served(frontier=halved) == ("int8", "int4")
    assert served("float32", halved) == ("float32",)
    cuda = Target(name="gpu", local=True, device="cuda", dtype="bfloat16")
    assert served(frontier=halved, target=cuda) == ("float32",)
    with pytest.raises(LtsRayError, match="precisions asks for int8, and gpu runs the model in bfloat16 on cuda alone"):
        served("int8", halved, cuda)
    write_frontier(halved, path)
    with pytest.raises(LtsRayError, match=r"precisions=float32 leaves none of .* which are in int4, int8"):
        read_record(ServeArgs, {"model": model_dir, "frontier": path, "precisions": "float32"}).check()
    one = Path(shutil.copytree(model_dir, tmp_path / "one")) / "config.json"
    written = json.loads(one.read_text())
    one.write_text(json.dumps(written | {"lts_ray": written["lts_ray"] | {"precisions": ["float32", "int8"]}}))
    with pytest.raises(LtsRayError, match="precisions asks for int4, and the model runs in float32, int8"):
        read_record(ServeArgs, {"model": one.parent, "precisions": "int8,int4"}).check()


def point_at(config: DecoderConfig, name: str, precision: str) -> FrontierPoint:
    submodel = replace(config.trained[name], precision=precision)
    params = config.decoder_params(submodel)
    return FrontierPoint(
        name=f"{name}@{precision}", submodel=submodel, decoder_params=params, loss=1.0, costs={}, fronts=("small",)
    )


def test_a_named_target_places_the_replicas_and_an_unknown_one_is_refused(model_dir: Path, tmp_path: Path) -> None:
    path = frontier_file(tmp_path, fingerprint(model_dir))
    args = read_record(ServeArgs, {"model": model_dir, "frontier": path, "target": "small", "num_replicas": "2"})
    assert application(args) is not None
    target = args.check()
    assert target is not None
    assert target.label_selector == {"role": "small"}
    with pytest.raises(LtsRayError, match="it has: small"):
        read_record(ServeArgs, {"model": model_dir, "frontier": path, "target": "large"}).check()


def test_replicas_that_no_node_will_hold_are_refused_where_the_nodes_are_known(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `serve deploy`, which builds on the cluster; Ray would let them wait for ever."""
    node = {"Alive": True, "Labels": {"role": "large"}, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr("serve.app.ray.is_initialized", lambda: True)
    monkeypatch.setattr("lts_ray.ray_session.ray.nodes", lambda: [node])
    monkeypatch.setattr("lts_ray.ray_session.has_autoscaler", lambda: False)
    few = {"model": model_dir, "num_replicas": "2"}
    assert application(read_record(ServeArgs, few)) is not None
    with pytest.raises(LtsRayError, match=r"2 of {'CPU': 2.0} each are asked for, and 1 have room .*{'CPU': 2.0}"):
        application(read_record(ServeArgs, few | {"threads": "2"}))
    placed = {"model": model_dir, "frontier": frontier_file(tmp_path, fingerprint(model_dir)), "target": "small"}
    with pytest.raises(LtsRayError, match=r"with {'role': 'small'} \(anywhere=true ignores that\): .*'role': 'large'"):
        application(read_record(ServeArgs, placed))
    assert application(read_record(ServeArgs, placed | {"anywhere": "true"})) is not None
    monkeypatch.setattr("lts_ray.ray_session.has_autoscaler", lambda: True)
    assert application(read_record(ServeArgs, placed)) is not None
    said = "warning: the cluster's autoscaler is to bring nodes: replicas on nodes with {'role': 'small'}"
    assert capsys.readouterr().err.startswith(said)


@pytest.fixture
def two_kinds(model_dir: Path, tmp_path: Path) -> dict[str, Any]:
    path = frontier_file(tmp_path, fingerprint(model_dir), "small", "large")
    return {"model": model_dir, "frontier": path, "kinds": "small, large"}


def fleet_file(folder: Path, *kinds: dict[str, object]) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(json.dumps({"kinds": kinds}))  # JSON is YAML
    return path


def test_kinds_are_targets_of_the_frontier(two_kinds: dict[str, Any], model_dir: Path, tmp_path: Path) -> None:
    assert read_record(ServeArgs, two_kinds).check() is None
    assert [kind.name for kind in read_record(ServeArgs, two_kinds).node_kinds()] == ["small", "large"]
    assert read_record(ServeArgs, {}).node_kinds() == ()
    for changed, message in (
        ({"kinds": "small,huge"}, "kind 'huge': the frontier has no target 'huge'; it has: small, large"),
        ({"frontier": None}, "kinds=small,large needs frontier=FILE"),
        ({"kinds": "small,small"}, "kinds: small more than once"),
        ({"fleet": "f.yaml"}, "kinds and fleet say two things"),
        ({"target": "small"}, "kinds and target say two things"),
        ({"num_replicas": 2}, "kinds and num_replicas say two things"),
        ({"autoscaling_config": {}}, "kinds and autoscaling_config say two things"),
        ({"kinds": "", "fleet": str(tmp_path / "none.yaml")}, "fleet file .* does not exist"),
    ):
        with pytest.raises(LtsRayError, match=message):
            read_record(ServeArgs, two_kinds | changed).check()
    with pytest.raises(LtsRayError, match="max_migrations must be at least 0; got '-1'"):
        read_record(ServeArgs, {"max_migrations": "-1"})
    fleet = fleet_file(tmp_path, {"name": "spot", "target": "medium"}, {"name": "small"})
    with pytest.raises(LtsRayError, match="kind 'spot': the frontier has no target 'medium'"):
        read_record(ServeArgs, two_kinds | {"kinds": "", "fleet": fleet}).check()


def test_one_kind_alone_is_the_deployment_that_there_is_without_kinds(
    two_kinds: dict[str, Any], tmp_path: Path
) -> None:
    built = application(read_record(ServeArgs, two_kinds | {"kinds": "large"}))._bound_deployment
    (args,) = built.init_args
    assert (built.name, built.num_replicas, args.target, args.kinds) == ("elastic", 1, "large", ())
    assert built.ray_actor_options == {"num_cpus": 1, "label_selector": {"role": "large"}}
    bounds = {"min_replicas": 2, "max_replicas": 3, "threads": 4}
    path = fleet_file(tmp_path, {"name": "big", "target": "large", **bounds})
    built = application(read_record(ServeArgs, two_kinds | {"kinds": "", "fleet": path}))._bound_deployment
    config = built._deployment_config.autoscaling_config
    assert config is not None
    assert (config.min_replicas, config.max_replicas, config.target_ongoing_requests) == (2, 3, 8)
    assert built.ray_actor_options["num_cpus"] == 4


def test_the_ingress_of_a_fleet_is_with_the_head(two_kinds: dict[str, Any]) -> None:
    """No other node's loss takes it; it needs no CPU of the head's, which may have none to give."""
    built = application(read_record(ServeArgs, two_kinds))._bound_deployment
    assert built.name == "elastic"
    assert built.ray_actor_options == {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            [{"name": "small"}, {"name": "large"}],
            r"replicas of kind 'large' on nodes with {'role': 'large'} .*: 1 of {'CPU': 1.0} .* 0 have room .*'small'",
        ),
        (
            [{"name": "small"}, {"name": "large", "min_replicas": 0}],
            "warning: kind 'large' waits until there is a node for it: .*{'role': 'large'}.*'role': 'small'",
        ),
        ([{"name": "small", "threads": 3}, {"name": "large", "min_replicas": 0}], "replicas of kind 'small' .*'CPU'"),
        (
            [{"name": "small", "threads": 2}, {"name": "other", "target": "small"}],
            "CPUs of all kinds together: 3 of .* and 2 have room",
        ),
    ],
    ids=["no node", "waits", "too small", "together"],
)
def test_a_kind_without_a_node_is_one_line_unless_it_may_wait(
    two_kinds: dict[str, Any],
    tmp_path: Path,
    kinds: list[dict[str, object]],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = {"Alive": True, "Labels": {"role": "small"}, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr("serve.app.ray.is_initialized", lambda: True)
    monkeypatch.setattr("serve.app.ray.get_runtime_context", lambda: SimpleNamespace(get_task_id=lambda: None))
    monkeypatch.setattr("lts_ray.ray_session.ray.nodes", lambda: [node])
    monkeypatch.setattr("lts_ray.ray_session.has_autoscaler", lambda: False)
    given = {key: str(value) for key, value in two_kinds.items()} | {"kinds": "", "fleet": fleet_file(tmp_path, *kinds)}
    with nullcontext() if message.startswith("warning") else pytest.raises(SystemExit, match="2"):
        build(given)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    monkeypatch.setattr("lts_ray.ray_session.has_autoscaler", lambda: True)
    build(given)
    lines = capsys.readouterr().err.splitlines()
    assert all(
        each.startswith("warning: the cluster's autoscaler is to bring nodes: replicas of kind") for each in lines
    )
    assert len(lines) == (0 if "together" in message else len(kinds) - ("threads" not in kinds[0]))


@pytest.mark.parametrize("name", ["nope", "x" * 5_000], ids=["missing", "too long"])
def test_build_prints_one_line_and_exits_with_2(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        build({"model": str(tmp_path / name)})
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_replica_serves_the_matching_targets_points_with_costs_of_its_own(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.replica.measure_step_costs", lambda runtime, *, seconds: COSTS)
    monkeypatch.setattr("serve.replica.REHEARSAL_S", 0.0)
    path = frontier_file(tmp_path, fingerprint(model_dir))
    args = read_record(ServeArgs, {"model": model_dir, "frontier": path, "name": "tiny"})
    replica = build_replica(args, {"role": "small"})
    try:
        assert replica.engine.costs == COSTS
        routes = Routes.around(replica.engine, args, replica.tokenizer)
        assert list(routes.service.models()) == ["tiny", "tiny:XL"]
    finally:
        replica.engine.stop()


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_replica_ends_a_text_at_any_token_that_its_folder_names(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """One of them is beyond the model's vocabulary: it ends nothing, and holds up nothing."""
    monkeypatch.setattr("serve.replica.measure_step_costs", lambda runtime, *, seconds: COSTS)
    tokenizer = load_tokenizer(model_dir)
    biased = tokenizer.encode(" law") + tokenizer.encode(" war")
    path = Path(shutil.copytree(model_dir, tmp_path / "model")) / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | {"eos_token_id": [*biased, 10**6]}))
    args = read_record(ServeArgs, {"model": path.parent, "name": "tiny"})
    replica = build_replica(args, {})
    app = Routes.around(replica.engine, args, replica.tokenizer).app(replica.metrics.exposition)
    certain = [{"logit_bias": {str(token): 100}} for token in biased]
    try:
        with TestClient(app) as client:
            for fields, tokens, reason in (
                (certain[0], 0, "stop"),
                (certain[1] | {"min_tokens": 3}, 3, "stop"),
                (certain[1] | {"ignore_eos": True}, 6, "length"),
            ):
                body = {"model": "tiny", "prompt": "the", "temperature": 0, "max_tokens": 6, **fields}
                whole = client.post("/v1/completions", json=body).json()
                assert (whole["usage"]["completion_tokens"], whole["choices"][0]["finish_reason"]) == (tokens, reason)
                streamed = client.post("/v1/completions", json=body | {"stream": True}).text
                assert f'"finish_reason":"{reason}"' in streamed
                if reason == "stop":
                    assert not {"law", "war"} & set(whole["choices"][0]["text"].split())
    finally:
        replica.engine.stop()


def test_a_replica_changes_its_policy_or_says_why_not_and_keeps_it(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.replica.measure_step_costs", lambda runtime, *, seconds: COSTS)
    replica = build_replica(read_record(ServeArgs, {"model": model_dir}), {})
    engine = replica.engine
    try:
        assert engine.policy.name == "deadline"
        replica.reconfigure({"policy": "fixed", "thresholds": {"submodel": "S"}})
        assert engine.policy.name == "fixed"
        for wrong, message in (
            ({"polcy": "deadline"}, "user_config has unknown keys polcy; known: policy, thresholds"),
            ({"policy": "best"}, "unknown policy 'best'"),
            ({"policy": "deadline", "thresholds": {"sur": 1}}, "deadline has unknown keys sur; known: free, "),
            ({"policy": "deadline", "thresholds": {"worth": "high"}}, "worth must be a number; got 'high'"),
            ({"thresholds": {"unbudgeted_ms": None}}, "unbudgeted_ms must be a number; got None"),
            ({"policy": "fixed", "thresholds": {"submodel": ["S"]}}, "submodel must be text"),
            ({"policy": "fixed", "thresholds": {"submodel": "XXL"}}, "XXL"),
            ({"thresholds": [1]}, "thresholds must be"),
        ):
            with pytest.raises(LtsRayError, match=message):
                replica.reconfigure(wrong)
            assert engine.policy.name == "fixed"
    finally:
        engine.stop()


@pytest.mark.parametrize("error", [LtsRayError("no such policy"), TypeError("a bug")], ids=["wrong", "bug"])
def test_a_replica_that_serves_survives_any_user_config(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(given: object) -> None:
        raise error

    server = ElasticServer.__new__(ElasticServer)
    server._replica = SimpleNamespace(reconfigure=refuse, engine=SimpleNamespace(stop=lambda: None))
    with caplog.at_level("ERROR", logger="serve.app"):
        server.reconfigure({})
    assert str(error) in caplog.text


def test_a_cache_past_all_memory_is_refused_before_it_is_asked_for(model_dir: Path) -> None:
    with pytest.raises(LtsRayError, match=r"needs at least .* GB of memory; there are .*: lower kv_cache_mb"):
        build_replica(read_record(ServeArgs, {"model": model_dir, "kv_cache_mb": "1e9"}), {})


@pytest.mark.parametrize("context_length", [1328, 2608])
def test_a_cache_for_one_context_holds_one_however_its_megabytes_are_rounded(context_length: int) -> None:
    config = MatFormerConfig(
        vocab_size=300, d_model=32, n_head=4, n_kv_head=1, widths=(64,), context_length=context_length
    )
    one = context_length // 16
    assert blocks_that_fit(config, rows=1, budget_mb=one * block_bytes(config) / 1e6) == one


def test_the_cache_holds_all_rows_unless_they_need_more_than_its_default() -> None:
    config = MatFormerConfig(vocab_size=300, d_model=32, n_head=4, n_kv_head=2, widths=(64,) * 3, context_length=96)
    size = 4 * 3 * 2 * 16 * (8 + 16)  # bytes of a block: layers, heads, places, a key and a padded value
    assert block_bytes(config) == size == 2 * block_bytes(config, itemsize=2)
    assert blocks_that_fit(config, rows=8, budget_mb=None) == 8 * 6
    assert blocks_that_fit(config, rows=8, budget_mb=100 * size / 1e6) == 100
    long = replace(config, context_length=1 << 20)
    assert blocks_that_fit(long, rows=8, budget_mb=None) == max(1 << 16, int(1024e6 / size))
    with pytest.raises(LtsRayError, match=r"one context of 96 tokens takes 0\.1 MB"):
        blocks_that_fit(config, rows=8, budget_mb=5 * size / 1e6)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"policy": "best"}, "unknown policy 'best'"),
        ({"keys": "no-such-file"}, "keys file .* does not exist"),
        ({"kv_cache_mb": "1e305"}, r"kv_cache_mb must be at most 1e\+09; got"),
        ({"max_batch_size": "99999999999999"}, "max_batch_size must be at most 2147483647; got"),
        ({"kv_cache_mb": "0.001"}, "kv_cache_mb=0.001 is too small"),
        ({"max_batch_size": "9", "chunk_tokens": "8"}, "chunk_tokens must be at least the 9 requests .*; got 8"),
    ],
    ids=str,
)
def test_what_could_not_run_is_refused_before_anything_starts(
    model_dir: Path, raw: dict[str, str], message: str
) -> None:
    with pytest.raises(LtsRayError, match=message):
        read_record(ServeArgs, {"model": model_dir, **raw}).check()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/runs/sotu/model", "sotu"),
        ("/runs/of two/model", "of-two"),
        ("/models/SmolLM2-135M", "SmolLM2-135M"),
        ("/models/a:b", "a-b"),
        ("/model", "model"),
        ("/runs/sotu/reordered", "reordered"),
    ],
)
def test_a_model_is_called_as_its_run_is(path: str, name: str) -> None:
    """Every run leaves its checkpoint in a folder `model`; the documents ask for what the run is called."""
    assert read_record(ServeArgs, {"model": path}).served_name == name
    assert read_record(ServeArgs, {"model": path, "name": "mine"}).served_name == "mine"
    assert ServeArgs().served_name == "sotu"


@pytest.mark.parametrize(
    ("raw", "replicas"),
    [
        ({"num_replicas": "auto"}, (1, 100, 2.0)),
        (
            {"num_replicas": "auto", "autoscaling_config": '{"max_replicas": 3, "target_ongoing_requests": 8}'},
            (1, 3, 8.0),
        ),
        ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 4}}, (2, 4, 2.0)),
    ],
    ids=str,
)
def test_the_number_of_replicas_follows_the_work_as_ray_serve_has_it(
    raw: dict[str, object], replicas: tuple[int, int, float]
) -> None:
    args = read_record(ServeArgs, raw)
    deployment = application(args)._bound_deployment
    config = deployment._deployment_config.autoscaling_config
    assert config is not None
    assert (config.min_replicas, config.max_replicas, config.target_ongoing_requests) == replicas
    assert args.most_replicas == replicas[1]
    fixed = application(read_record(ServeArgs, {"num_replicas": "2"}))._bound_deployment
    assert (fixed.num_replicas, fixed._deployment_config.autoscaling_config) == (2, None)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"num_replicas": "many"}, "num_replicas must be a whole number; got 'many'"),
        ({"num_replicas": 2, "autoscaling_config": {}}, "num_replicas=2 and autoscaling_config say two things"),
        ({"autoscaling_config": {"max_replica": 2}}, "unknown keys max_replica; known: .*max_replicas"),
        ({"autoscaling_config": {"max_replicas": 0}}, "autoscaling_config.max_replicas must be above 0; got 0"),
        ({"autoscaling_config": {"min_replicas": 5, "max_replicas": 2}}, r"max_replicas \(2\) must be greater"),
        ({"autoscaling_config": "{max"}, "autoscaling_config must be a JSON object"),
        ({"autoscaling_config": "[1]"}, "autoscaling_config must be a mapping"),
    ],
    ids=str,
)
def test_a_number_of_replicas_that_cannot_be_is_one_line(
    raw: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        build(raw)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
