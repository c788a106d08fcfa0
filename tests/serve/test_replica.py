"""What a replica that serves in 8 bits holds in memory, in a process of its own."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import torch

from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.record import read_record
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from serve import replica
from serve.serve_args import ServeArgs
from tests.measurement.resident import status_bytes
from tests.serve.models import COSTS


def test_what_is_served_in_8_bits_is_held_in_8_bits_alone(model_dir: Path, tmp_path: Path) -> None:
    """The first replica of the process is there for what it imports and keeps, whatever the model."""
    vocab_size = load_checkpoint(model_dir).model.config.vocab_size
    config = MatFormerConfig(
        vocab_size=vocab_size, d_model=512, n_head=8, n_kv_head=8, widths=(2048,) * 6, context_length=64
    )
    model = MatFormer(config).eval()
    model.initialize(torch.Generator().manual_seed(0))
    stored = sum(parameter.nbytes for parameter in model.parameters())
    save_checkpoint(model, tmp_path / "model")
    save_tokenizer(load_tokenizer(model_dir), tmp_path / "model")
    child: list[str | Path] = [sys.executable, "-m", "tests.serve.test_replica", model_dir, tmp_path / "model"]
    ran = subprocess.run(child, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    grown = json.loads(ran.stdout)
    assert 0.2 * stored < grown["int8"] < 0.5 * stored
    assert stored < grown["float32"]


def _grown(folder: str, precision: str) -> int:
    """Bytes that a replica holds. It stays, so that the next one uses no memory of it."""
    before = status_bytes("VmRSS")
    kept.append(replica.build_replica(read_record(ServeArgs, {"model": folder, "precisions": precision}), {}))
    gc.collect()
    return status_bytes("VmRSS") - before


if __name__ == "__main__":
    kept: list[replica.Replica] = []
    replica.REHEARSAL_S = 0.0
    vars(replica)["measure_step_costs"] = lambda runtime, *, seconds: COSTS
    tiny, middling = sys.argv[1:]
    _grown(tiny, "int8")
    print(json.dumps({precision: _grown(middling, precision) for precision in ("int8", "float32")}))
    for each in kept:
        each.engine.stop()
