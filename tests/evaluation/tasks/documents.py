"""The documents of these tasks, from the files beside them, wherever the harness runs."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset

HERE = Path(__file__).parent


def read(name: str) -> Dataset:
    lines = (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([json.loads(line) for line in lines])


def endings(**_: object) -> dict[str, Dataset]:
    return {"test": read("endings")}


def next_words(**_: object) -> dict[str, Dataset]:
    return {"test": read("next_words")}


def passages(**_: object) -> dict[str, Dataset]:
    return {"test": read("passages")}
