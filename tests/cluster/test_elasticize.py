"""A checkpoint made elastic with training, killed on the way: what was done is kept, and S is better for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from lts_ray.elasticize.elastic_run import elasticize
from lts_ray.elasticize.elasticize_settings import ElasticizeSettings
from lts_ray.models.checkpoint_folder import WEIGHTS
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import DataSettings, TrainingSettings
from lts_ray.training.text_run import continue_run, train_text
from tests.conftest import ROOT
from tests.training.runs import losses

STEPS, KILL_AFTER = 80, 5
STAGES = ("prefix", "importance", "trained")
DRIVER = """
import sys
from pathlib import Path
from lts_ray.elasticize.elastic_run import elasticize
from lts_ray.training import ray_trainer
from tests.cluster.test_elasticize import settings_of

def standing_still(config):
    from lts_ray.training.ray_trainer import _worker
    from tests.forked import stand_still_at
    stand_still_at(6)
    _worker(config)

ray_trainer._worker = standing_still
model, texts, output, address = sys.argv[1:]
elasticize(settings_of(Path(model), Path(texts)), Path(output), address=address)
"""


def settings_of(model: Path, texts: Path) -> ElasticizeSettings:
    return ElasticizeSettings(
        source=str(model),
        data=DataSettings(corpus=str(texts / "*.txt"), validation_fraction=0.25),
        training=TrainingSettings(
            steps=STEPS,
            batch_size=8,
            sequence_length=32,
            learning_rate=3e-3,
            warmup_steps=4,
            train="ffn",
            log_every=1,
            evaluate_every=20,
            checkpoint_every=2,
            evaluation_blocks=4,
            precision="float32",
            threads=1,
        ),
        calibration_blocks=4,
        report_blocks=6,
    )


def killed(model: Path, texts: Path, output: Path, address: str) -> int:
    """Elasticize in another process, and kill it where the training stands still; the last step by then."""
    root = ROOT
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(model), str(texts), str(output), address],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    while driver.poll() is None and last_step(output) < KILL_AFTER:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    step = last_step(output)
    driver.wait()
    return step


def last_step(output: Path) -> int:
    return max((step for step, _ in losses(output)), default=0)


def test_elasticize_trains_and_goes_on_after_a_kill(cluster: str, model_dir: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "elastic"
    assert KILL_AFTER <= killed(model_dir, texts, output, cluster) <= 6
    reordered = output / "reordered" / WEIGHTS
    before = reordered.stat().st_mtime_ns
    elastic = elasticize(None, output, address=cluster)
    assert reordered.stat().st_mtime_ns == before, "importance was looked for again"

    whole = RunFolder(tmp_path / "whole")  # what training does that nothing stops
    whole.path.mkdir()
    whole.data.symlink_to(RunFolder(output).data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_text(continue_run(RunFolder(output)), whole)
    torch.set_num_threads(threads)
    assert losses(output) == losses(whole.path)
    assert load_checkpoint(elastic.model).fingerprint == load_checkpoint(whole.model).fingerprint

    stages = {stage: {row.submodel: row.loss for row in elastic.rows if row.stage == stage} for stage in STAGES}
    assert all(list(each) == ["S", "M", "L", "XL"] for each in stages.values())
    assert len(elastic.rows) == 4 * len(STAGES)
    assert stages["trained"]["S"] < stages["importance"]["S"]
