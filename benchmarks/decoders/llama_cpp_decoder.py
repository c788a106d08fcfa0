"""llama.cpp through its C interface: sequences side by side in one `llama_decode`, which its Python class cannot."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.decoders.decode_times import Decoder, DecodeWork, Prompts, by_window
from benchmarks.decoders.gguf_files import gguf_files
from lts_ray.errors import LtsRayError

Result = TypeVar("Result")
ERROR = 4
"""Of its log's levels; below are warnings, and what it tells of itself."""


@contextmanager
def open_llama_cpp(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Mapping[str, Decoder]]:
    """All else than sizes and threads as it is by default: float16 in the KV cache, flash attention as it decides.

    In a thread of its own: it sets up a thread's AMX tiles once, and other libraries set them up otherwise.
    """
    library = _library()
    with ThreadPoolExecutor(max_workers=1) as thread, ExitStack() as opened:
        decoders = {}
        for kind, (path, weight_bytes) in gguf_files(folder, scratch).items():
            context = LlamaContext(library, path, work)
            opened.callback(context.close)
            decoders[kind] = Decoder(
                decode=partial(_in_thread, thread, context.decode),
                loss=by_window(partial(_in_thread, thread, context.logits)),
                weight_bytes=weight_bytes,
                cache_bytes=2,
            )
        yield decoders


def _in_thread(thread: ThreadPoolExecutor, call: Callable[..., Result], *arguments: Any) -> Result:
    return thread.submit(call, *arguments).result()


@cache
def _library() -> Any:
    """Silent but for errors. What it calls to log lives as long as it."""
    library: Any = import_module("llama_cpp.llama_cpp")
    library.lts_log = library.llama_log_callback(lambda level, text, data: level == ERROR and print(text.decode()))
    library.llama_log_set(library.lts_log, ctypes.c_void_p(0))
    library.llama_backend_init()
    return library


class LlamaContext:
    def __init__(self, library: Any, path: Path, work: DecodeWork) -> None:
        self._library = library
        self._model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self._model:
            raise LtsRayError(f"llama.cpp does not load {path}")
        settings = library.llama_context_default_params()
        settings.n_seq_max = max(work.batches)
        settings.n_ctx = settings.n_seq_max * work.length
        settings.n_batch = work.step_tokens
        settings.n_threads = settings.n_threads_batch = work.threads
        self._context = library.llama_init_from_model(self._model, settings)
        if not self._context:
            raise LtsRayError(f"llama.cpp has no room for {settings.n_seq_max} sequences of {work.length} tokens")
        self._batch = library.llama_batch_init(work.step_tokens, 0, 1)
        self._vocab_size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))

    def close(self) -> None:
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def decode(self, prompts: Prompts, new_tokens: int) -> list[list[int]]:
        self._forget()
        responses: list[list[int]] = [[] for _ in prompts]
        pieces, start = prompts, 0
        for _ in range(new_tokens):
            chosen = self._run(pieces, start=start, all_logits=False).argmax(-1).tolist()
            start += len(pieces[0])
            pieces = [[token] for token in chosen]
            for response, token in zip(responses, chosen, strict=True):
                response.append(token)
        return responses

    def logits(self, tokens: Tensor) -> Tensor:
        """[T] to [T, vocab_size]."""
        self._forget()
        row, most = tokens.tolist(), self._library.llama_n_batch(self._context)
        found = [self._run([row[at : at + most]], start=at, all_logits=True).copy() for at in range(0, len(row), most)]
        return torch.from_numpy(np.concatenate(found))

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def _run(self, pieces: Sequence[Sequence[int]], *, start: int, all_logits: bool) -> NDArray[np.float32]:
        """The pieces of sequences 0, 1, … of one length, at the places from start. Logits, valid until the next run."""
        batch, wanted = self._batch, 0
        batch.n_tokens = 0
        for row, piece in enumerate(pieces):
            for place, token in enumerate(piece):
                at = batch.n_tokens
                batch.token[at], batch.pos[at] = token, start + place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                batch.logits[at] = all_logits or place == len(piece) - 1
                wanted += batch.logits[at]
                batch.n_tokens += 1
        if failed := self._library.llama_decode(self._context, batch):
            raise LtsRayError(f"llama.cpp's llama_decode gave {failed} for {len(pieces)} sequences from {start}")
        found = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (wanted, self._vocab_size))
