"""What every test may use: a tiny universal model, its folder with a tokenizer, and tiny texts."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from functools import cache

# The tests' matrices are small: with threads, products of numpy and torch take ten times as long on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import typer
from hypothesis import settings

from lts_ray.models.matformer.hugging_face.checkpoint import save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.text.tokenizer import save_tokenizer, train_tokenizer

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: kernels then run on a CPU

# A shell starts what runs in the background without Ctrl-C, nohup without SIGHUP, and children inherit that: tests send
# both to them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
settings.register_profile("repository", derandomize=True, deadline=None)  # a run is red or green, never by chance
settings.load_profile("repository")
typer.main.get_command = cache(typer.main.get_command)  # else each command of a test makes all verbs anew: 35 ms

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]

WORDS = (
    "the",
    "nation",
    "congress",
    "of",
    "and",
    "to",
    "public",
    "state",
    "law",
    "people",
    "year",
    "great",
    "war",
    "peace",
)


def make_model(*, seed: int = 0, vocab_size: int = 300, n_layer: int = 3, width: int = 64) -> MatFormer:
    """A random model whose weights are large enough that its widths disagree."""
    config = MatFormerConfig(
        vocab_size=vocab_size, d_model=32, n_head=4, n_kv_head=2, widths=(width,) * n_layer, context_length=64
    )
    model = MatFormer(config)
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval()


def make_text(*, seed: int, words: int = 400) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[int(i)] for i in rng.integers(len(WORDS), size=words)) + ".\n"


@pytest.fixture(scope="session")
def universal() -> MatFormer:
    return make_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    """[4, 20] token ids."""
    return torch.randint(0, 300, (4, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model_dir(universal: MatFormer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a tokenizer, as training leaves it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([make_text(seed=seed) for seed in range(4)], vocab_size=300)
    losses = {"S": 5.4, "M": 5.3, "L": 5.2, "XL": 5.1}
    save_checkpoint(universal, folder, validation_loss=losses)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of eight small text files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(8):
        (folder / f"{seed}.txt").write_text(make_text(seed=seed), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of the module, not the session: Playwright keeps an event loop in this thread, beside which asyncio.run fails."""
    from playwright.sync_api import expect, sync_playwright  # a machine with a GPU may lack it

    expect.set_options(timeout=600_000)  # of what fails: only a hang reaches it

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium: install the package chromium (apt install chromium) to test what pages look like")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
