"""OpenVINO GenAI, which reads GGUF files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.decoders.decode_times import Decoder, DecodeWork, Prompts, by_window
from benchmarks.decoders.gguf_files import gguf_files
from lts_ray.errors import LtsRayError


@contextmanager
def open_openvino(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Mapping[str, Decoder]]:
    """Half precision, 8 and, with llama.cpp's quantiser, 4 bits."""
    if work.threads == 1:
        raise LtsRayError("OpenVINO GenAI 2026.4 divides by zero with one thread: --threads 2, or --rivals without it")
    files = gguf_files(folder, scratch)
    yield {kind: _open(path, work, each) for kind, (path, each) in files.items() if kind != "F32"}


def _open(path: Path, work: DecodeWork, weight_bytes: float) -> Decoder:
    """Its pipeline with paged attention, as it is by default on a CPU, all prompts in one step.

    It gives no logits: these are of the model that it makes of the file, run by OpenVINO itself, whose attention is
    another.
    """
    genai, openvino = import_module("openvino_genai"), import_module("openvino")
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False  # the same prompts come again, and are to be read again
    scheduler.max_num_batched_tokens = work.step_tokens
    threads = {"INFERENCE_NUM_THREADS": work.threads}
    pipeline = genai.LLMPipeline(str(path), "CPU", scheduler_config=scheduler, enable_save_ov_model=True, **threads)
    compiled = openvino.Core().compile_model(str(path.with_name("openvino_model.xml")), "CPU", threads)
    request = compiled.create_infer_request()

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        settings = genai.GenerationConfig()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = new_tokens, True, False
        rows = np.array(prompts)
        inputs = genai.TokenizedInputs(openvino.Tensor(rows), openvino.Tensor(np.ones_like(rows)))
        return [list(row) for row in pipeline.generate(inputs, settings).tokens]

    def logits(tokens: Tensor) -> Tensor:
        row = tokens[None].numpy()
        request.reset_state()
        places = np.arange(row.shape[1])[None]
        inputs = {"input_ids": row, "attention_mask": np.ones_like(row), "position_ids": places}
        found = request.infer({**inputs, "beam_idx": np.zeros(1, np.int32)})
        return torch.from_numpy(found[0][0].copy())

    return Decoder(decode=decode, loss=by_window(logits), weight_bytes=weight_bytes, cache_bytes=1)
