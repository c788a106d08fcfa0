"""The rules of the house that a machine can check: docs/structure.md has them in words."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.code_lines import code_lines
from tests.conftest import ROOT

PACKAGES = ("lts_ray", "serve", "benchmarks")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_LINES = 300
FLOORS = (
    ("lts_ray", "lts_ray/pretrained"),
    ("lts_ray/text", "lts_ray/models", "lts_ray/quickstart"),
    ("lts_ray/models/matformer",),
    ("lts_ray/quantisation", "lts_ray/runtime/triton_kernels"),
    ("lts_ray/runtime/cuda",),
    ("lts_ray/models/matformer/hugging_face", "lts_ray/spaces", "lts_ray/decoding", "lts_ray/runtime"),
    ("lts_ray/models/backbones", "lts_ray/models/gemma3n", "lts_ray/models/vit", "serve/policies"),
    ("lts_ray/checkpoints", "lts_ray/proxies", "serve/autoscaling", "serve/engine", "serve/routing", "serve/traffic"),
    (
        "lts_ray/evaluation",
        "lts_ray/measurement/subjects",
        "serve/fleet",
        "serve/http",
        "serve/metrics",
    ),
    ("lts_ray/evaluation/harness", "lts_ray/measurement", "lts_ray/training/learners"),
    ("lts_ray/measurement/on_ray", "lts_ray/search/algorithms", "lts_ray/training"),
    ("lts_ray/elasticize", "lts_ray/replay", "lts_ray/search"),
    ("lts_ray/report", "lts_ray/search/on_ray", "lts_ray/vision"),
    ("lts_ray/cli", "serve/simulate"),
    ("serve",),
    ("benchmarks/common",),
    ("benchmarks/gpu", "benchmarks/laws", "benchmarks/load", "benchmarks/nested"),
    ("benchmarks/decoders",),
    ("benchmarks",),
)
"""From the ground up: a folder imports from floors below its own, never from its own or above."""
SHARED_NAMES = {"__init__.py", "__main__.py"}


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported_files(path: Path) -> set[Path]:
    """The files of ours that a file imports from, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in PACKAGES:
            continue
        place = Path(*(node.module or "").split("."))
        for name in node.names:
            candidates = (place / f"{name.name}.py", place / name.name / "__init__.py", place.with_suffix(".py"))
            known = [candidate for candidate in (*candidates, place / "__init__.py") if candidate in FILES]
            assert known, f"{path}: {node.module} is not a module"
            found.add(known[0])
    return found


def folder_of(path: Path) -> str:
    """The folder that a file counts to. A package's own `__init__.py` only names what is public, and counts to none."""
    return path.parent.as_posix()


def arrows() -> dict[tuple[str, str], set[str]]:
    """(importing folder, imported folder): the imports between them."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path in FILES:
        if path == Path("lts_ray/__init__.py"):
            continue
        for other in imported_files(path):
            if folder_of(path) != folder_of(other):
                found[folder_of(path), folder_of(other)].add(f"{path} imports {other}")
    return found


def test_every_folder_stands_on_one_floor() -> None:
    named = [folder for floor in FLOORS for folder in floor]
    assert sorted(named) == sorted({folder_of(path) for path in FILES})


def test_folders_import_only_downwards() -> None:
    height = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
    wrong = [sorted(imports) for (upper, lower), imports in arrows().items() if height[upper] <= height[lower]]
    assert wrong == []


def test_no_two_folders_import_each_other() -> None:
    pairs = arrows()
    assert [(upper, lower) for upper, lower in pairs if upper < lower and (lower, upper) in pairs] == []


def test_triton_is_imported_only_where_a_gpu_is_asked_for() -> None:
    """Its kernels, and what launches them, are imported by no other file's first lines; a bucket is numbers only."""
    gpu = ("triton", "lts_ray.runtime.triton_kernels", "lts_ray.runtime.cuda")
    early = {
        str(path)
        for path in FILES
        for node in tree(path).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and (name := getattr(node, "module", "") or node.names[0].name).startswith(gpu)
        and name != "lts_ray.runtime.cuda.bucket"
    }
    of_gpus = ("lts_ray/runtime/triton_kernels/", "lts_ray/runtime/cuda/", "lts_ray/runtime/cuda_runtime.py")
    assert early
    assert {path for path in early if not path.startswith(of_gpus)} == set()


def test_public_names_stand_once() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_file_names_stand_once() -> None:
    """Verbs of the command line too: `cli/train.py` has no namesake."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in FILES:
        if path.name not in SHARED_NAMES:
            places[path.name].append(str(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_file_passes_300_lines() -> None:
    counts = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: count for path, count in counts.items() if count > MOST_LINES} == {}


def is_settings(node: ast.ClassDef) -> bool:
    """A class that people fill in: one that `record` makes."""
    calls = [decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == "record" for call in calls)


def test_every_field_of_a_settings_class_has_a_comment_under_it() -> None:
    bare = []
    for path in FILES:
        for node in tree(path).body:
            if not isinstance(node, ast.ClassDef) or not is_settings(node):
                continue
            for line, after in zip(node.body, [*node.body[1:], None], strict=True):
                commented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                fixed = isinstance(line, ast.AnnAssign) and ast.unparse(line.annotation).startswith("ClassVar")
                if isinstance(line, ast.AnnAssign) and not commented and not fixed:
                    bare.append(f"{path}: {node.name}.{ast.unparse(line.target)}")
    assert bare == []


def test_files_and_modules_that_the_documentation_names_exist() -> None:
    missing = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?<![\w./-])((?:lts_ray|serve|benchmarks|tests|configs|docs)/[\w./-]*\w)", text):
            if not (ROOT / name).exists():
                missing.append(f"{page.name}: {name}")
        for name in re.findall(r"python -m (benchmarks\.[a-z_]+)", text):
            if not (ROOT / f"{name.replace('.', '/')}.py").exists():
                missing.append(f"{page.name}: {name}")
    assert missing == [], missing


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""Prose."""\n\nX = 1  # one\n', 1),
        ("# only\n", 0),
        ('def f():\n    """Prose\n    more."""\n    return 1\n', 2),
    ],
)
def test_lines_of_code_are_counted_without_prose(source: str, count: int) -> None:
    assert code_lines(source) == count
