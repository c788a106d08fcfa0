"""Small files of every kind that lts-ray reads, and the commands that read them, for `benchmarks.fuzz_files`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from lts_ray.architecture import Architecture
from lts_ray.cost import Cost
from lts_ray.elasticize.elasticize_settings import ElasticizeSettings
from lts_ray.files import write_json, write_json_lines, write_text
from lts_ray.frontier import Frontier, FrontierPoint, write_frontier
from lts_ray.measurement.latency import Latency, TimedBlock
from lts_ray.measurement.measurement import Measurement
from lts_ray.measurement.outcome import Evaluation
from lts_ray.models.backbones.backbone_checkpoint import save_backbone
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.models.checkpoint_folder import INDEX, WEIGHTS
from lts_ray.models.family import GPT2, LLAMA, OPT, Family
from lts_ray.models.matformer.hugging_face.checkpoint import fingerprint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import save_vit
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.record import record_json
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.backbone_search import backbone_job
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.gpt2_space import SPACE
from lts_ray.target import Target, load_targets
from lts_ray.text.tokenizer import save_tokenizer, train_tokenizer
from lts_ray.training.loop import chosen
from lts_ray.training.run_settings import RunSettings

TEXT = "the nation congress of and to public state law people year great war peace"
WORDS = TEXT.split()
IN, OUT = "IN/", "OUT"
"""Stand in commands for the folder of the files, and for one that is not there."""
SERVE = "serve"
"""In place of a verb: what `serve run serve.app:build` is given, in a file."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A file, and the commands that read it."""

    file: str
    commands: tuple[str, ...]


def _model(folder: str, *files: str) -> tuple[Reading, ...]:
    commands = (
        f"evaluate -m IN/{folder} --text IN/a.txt --blocks 1 --length 8 -s S -s 0.5 --json",
        f"extract -m IN/{folder} -s M -o OUT",
        f"generate -m IN/{folder} -p law --max-tokens 2",
        f"measure -m IN/{folder} --sequence-length 4",
        f"search -m IN/{folder} -t IN/targets.yaml -o OUT --quality decoder_params -n 4",
        f"elasticize -m IN/{folder} -c IN/elasticize.yaml -o OUT",
        f"train --init-from IN/{folder} -c IN/tiny.yaml -o OUT",
    )
    return tuple(Reading(file=f"{folder}/{file}", commands=commands) for file in files)


SEARCH = "search -t IN/targets.yaml -s gpt2 -o OUT -n 4"
KINDS: Mapping[str, tuple[Reading, ...]] = {
    "settings": (
        Reading(file="train.yaml", commands=("train -c IN/train.yaml -o OUT",)),
        Reading(file="elasticize.yaml", commands=("elasticize -m IN/llama -c IN/elasticize.yaml -o OUT",)),
        Reading(file="vit.yaml", commands=("vit train -c IN/vit.yaml -o OUT",)),
        Reading(file="serve.yaml", commands=("serve IN/serve.yaml",)),
    ),
    "targets": (
        Reading(file="targets.yaml", commands=(SEARCH, "search -m IN/llama -t IN/targets.yaml -o OUT --text IN/a.txt")),
    ),
    "configurations": (
        *_model("llama", "config.json", "tokenizer.json", "tokenizer_config.json"),
        *_model("gpt2", "config.json"),
        *_model("opt", "config.json"),
        Reading(file="backbone/config.json", commands=("train --init-from IN/backbone -c IN/tiny.yaml -o OUT",)),
        Reading(
            file="vit/config.json",
            commands=("vit evaluate -m IN/vit -i IN/images", "vit extract -m IN/vit -s M -o OUT"),
        ),
        Reading(file="vit/preprocessor_config.json", commands=("vit evaluate -m IN/vit -i IN/images",)),
    ),
    "weights": (
        *_model("llama", WEIGHTS),
        *_model("sharded", INDEX, "a.safetensors"),
        Reading(file=f"backbone/{WEIGHTS}", commands=("train --init-from IN/backbone -c IN/tiny.yaml -o OUT",)),
        Reading(file=f"vit/{WEIGHTS}", commands=("vit evaluate -m IN/vit -i IN/images",)),
    ),
    "logs": (
        Reading(
            file="search/evaluations.jsonl",
            commands=(
                "report --search IN/search",
                "search -t IN/targets.yaml -s gpt2 -o IN/search -n 4 --seed 0 --resume",
            ),
        ),
        Reading(file="run/settings.json", commands=("train -o IN/run --resume",)),
        Reading(file="run/metrics.jsonl", commands=("train -o IN/run --resume",)),
        Reading(file="elastic/elasticize.json", commands=("elasticize -o IN/elastic --resume",)),
    ),
    "tables": (
        Reading(
            file="table.csv",
            commands=("replay -t IN/table.csv --objectives perplexity,latency_ms --algorithm random -n 5 --seeds 1",),
        ),
        Reading(
            file="rows.jsonl",
            commands=(
                "params --space gpt2 -i IN/rows.jsonl",
                "proxies --space gpt2 -i IN/rows.jsonl --few-shot-rows 4 --latency latency_ms",
                "proxies --space gpt2 -i IN/rows.jsonl --proxies snip --limit 2 --vocab-size 40 --length 4",
                f"{SEARCH} --quality few_shot --trained IN/rows.jsonl",
            ),
        ),
    ),
    "results": (
        Reading(
            file="frontier.json",
            commands=("evaluate -m IN/llama --frontier IN/frontier.json --text IN/a.txt --blocks 1 --length 8",
                      "serve IN/serve.yaml"),
        ),
        Reading(
            file="architectures.json",
            commands=("train --architecture IN/architectures.json --name 1M -c IN/tiny.yaml -o OUT",),
        ),
    ),
    "texts": (
        Reading(file="a.txt", commands=("evaluate -m IN/llama --text IN/a.txt --blocks 1 --length 8",)),
        Reading(file="keys", commands=("serve IN/serve.yaml",)),
        Reading(file="images/a.npz", commands=("vit evaluate -m IN/vit -i IN/images",)),
    ),
}  # fmt: skip


def make_files(folder: Path, rng: np.random.Generator) -> None:
    """All that the commands read, whole."""
    text = " ".join(str(rng.choice(WORDS)) for _ in range(200)) + "\n"
    tokenizer = train_tokenizer([text], vocab_size=270)
    write_text(folder / "a.txt", text)
    for family in (LLAMA, GPT2, OPT):
        save_checkpoint(_universal(family), folder / family.name, validation_loss={"XL": 5.0})
        save_tokenizer(tokenizer, folder / family.name)
    _shard(folder / "llama", folder / "sharded")
    design = Architecture.from_json({"d_model": 8, "n_head": [2, 2], "d_inner": [16, 16]})
    config = BackboneConfig(backbone="gpt2", architecture=design, vocab_size=tokenizer.vocab_size, context_length=16)
    save_backbone(config.build(), config, folder / "backbone", validation_loss=5.0)
    save_tokenizer(tokenizer, folder / "backbone")
    _images(folder, rng)
    _settings(folder)
    _tables(folder, design, rng)
    _results(folder, design)


def _universal(family: Family) -> MatFormer:
    config = MatFormerConfig(
        vocab_size=300, d_model=16, n_head=2, n_kv_head=2 if family is not LLAMA else 1, widths=(32, 32),
        context_length=32, family=family,
    )  # fmt: skip
    model = MatFormer(config)
    model.initialize(torch.Generator().manual_seed(0))
    return model.eval()


def _shard(source: Path, folder: Path) -> None:
    """The same model as others may write it."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name.replace(WEIGHTS, "a.safetensors")).write_bytes(path.read_bytes())
    names = load_file(source / WEIGHTS)
    write_json(folder / INDEX, {"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")})


def _images(folder: Path, rng: np.random.Generator) -> None:
    config = MatViTConfig(
        image_size=(4, 4), patch_size=(2, 2), channels=1, d_model=8, n_head=2, widths=(16, 16), labels=("a", "b")
    )
    save_vit(MatViT(config).eval(), folder / "vit")
    (folder / "images").mkdir()
    pixels = rng.integers(256, size=(40, 4, 4), dtype=np.uint8)
    np.savez(folder / "images" / "a.npz", images=pixels, labels=np.arange(40) % 2)


def _settings(folder: Path) -> None:
    tiny = {"data": {"corpus": str(folder / "a.txt")}, "training": {"steps": 2, "batch_size": 2, "sequence_length": 8}}
    sections: dict[str, dict[str, Any]] = {
        "train": {
            "model": {"vocab_size": 300, "d_model": 16, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "d_ff": 32}, **tiny
        },
        "tiny": tiny,
        "elasticize": {**tiny, "granularities": {"S": 0.25, "M": 0.5, "XL": 1.0}, "calibration_blocks": 2},
        "vit": {
            "images": {"source": str(folder / "images")},
            "model": {"d_model": 8, "n_head": 2, "n_layer": 2, "d_ff": 16},
            "training": {"steps": 2, "betas": [0.9, 0.99]},
        },
        "serve": {
            "model": str(folder / "llama"), "frontier": str(folder / "frontier.json"), "target": "here",
            "max_batch_size": 4, "keys": str(folder / "keys"), "kv_cache_mb": 20.0, "policy": "deadline", "drain_s": 1,
        },
        "targets": {
            "targets": [
                {"name": "here", "local": True, "sequence_length": 8, "threads": 1, "dtype": "float32"},
                {"name": "edge", "label_selector": {"role": "in(a,b)"}, "resources": {"CPU": 1}, "sequence_length": 8},
            ]
        },
    }  # fmt: skip
    for name, value in sections.items():
        write_text(folder / f"{name}.yaml", yaml.safe_dump(value, sort_keys=False))
    write_text(folder / "keys", "# ours\n" + "a" * 64 + " one\n")
    settings = RunSettings.from_json(sections["train"])
    settings = replace(settings, training=chosen(settings.training))
    write_json(folder / "run" / "settings.json", {"schema": 1, **settings.to_json()})
    records = [{"step": step, "loss": {"XL": 5.0}, "tokens_per_s": 9.0, "learning_rate": 0.1} for step in (1, 2)]
    write_json_lines(folder / "run" / "metrics.jsonl", [*records, {"step": 2, "validation_loss": {"XL": 5.0}}])
    elastic = ElasticizeSettings.from_json({**sections["elasticize"], "source": str(folder / "llama")})
    write_json(folder / "elastic" / "elasticize.json", {"schema": 1, **record_json(elastic)})


def _tables(folder: Path, design: Architecture, rng: np.random.Generator) -> None:
    lines = ["d_model,n_layer,ratios,perplexity,latency_ms"]
    for d_model in (128, 256, 512):
        for n_layer in (2, 3):
            ratios = " ".join(str(rng.choice([2, 4])) for _ in range(n_layer))
            lines.append(f"{d_model},{n_layer},{ratios},{90 - d_model / 10 - n_layer:.1f},{d_model / 9 + n_layer:.3f}")
    write_text(folder / "table.csv", "\n".join(lines) + "\n")
    rows = [
        {"d_model": 8 * heads, "n_head": [2], "d_inner": [inner], "valid_perplexity": 90 - inner, "latency_ms": inner}
        for heads in (1, 2)
        for inner in (16, 32, 48, 64)
    ]
    write_json_lines(folder / "rows.jsonl", rows)


def _results(folder: Path, design: Architecture) -> None:
    submodels = _universal(LLAMA).config.trained
    here = Target(name="here", local=True, sequence_length=8)
    points = tuple(
        FrontierPoint(
            name=name, submodel=submodel, decoder_params=100 * place, loss=5.0 - place / 10, fronts=("here",),
            costs={"here": Cost(prefill_ms=1.0 + place, decode_ms=1.0 + place, peak_memory_mb=2.0 + place)},
        )
        for place, (name, submodel) in enumerate(submodels.items())
    )  # fmt: skip
    frontier = Frontier(
        model_fingerprint=fingerprint(folder / "llama"),
        quality="validation_loss",
        targets={"here": here},
        points=points,
    )
    write_frontier(frontier, folder / "frontier.json")
    found = [{"name": "1M", "architecture": design.to_json()}, {"name": "2M", "architecture": design.to_json()}]
    write_json(folder / "architectures.json", {"schema": 1, "space": "gpt2", "points": found})
    settings = SearchSettings(evaluations=4, quality="decoder_params")
    job = backbone_job(space=SPACE, targets=load_targets(folder / "targets.yaml"), settings=settings)
    session = SearchSession(job.plan, folder / "search", resume=False)
    for count in range(3):
        candidate = session.ask()
        assert candidate is not None
        latency = Latency(regime="decode", threads=1, blocks=(TimedBlock(times_ms=(1.0 + count, 1.5 + count)),) * 2)
        measured = Measurement(prefill=latency, decode=latency, peak_memory_bytes=10**6 * (count + 1))
        loss = -float(SPACE.decoder_params(candidate))
        session.record(candidate, Evaluation(loss=loss, measurements={"here": measured, "edge": measured}))
