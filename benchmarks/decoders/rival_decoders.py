"""Other libraries that decode the same checkpoint, in the precisions that they are used in: greedy, no token ends a
response.

Each is set up as its documentation says it is fastest for prompts of one length that are all there at once, and keeps
what it sets up between calls. None is needed: those that are not installed are left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from benchmarks.decoders.decode_times import (
    CONTINUOUS,
    CTRANSLATE2,
    LLAMA_CPP,
    OPENVINO,
    TRANSFORMERS,
    Decode,
    Decoder,
    DecodeWork,
    Prompts,
    Way,
    by_window,
)
from benchmarks.decoders.llama_cpp_decoder import open_llama_cpp
from benchmarks.decoders.openvino_decoder import open_openvino
from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.errors import LtsRayError
from lts_ray.processor import Processor

PAGE_TOKENS = 256
"""Of a page of the KV cache of transformers' continuous batching, as it is by default."""


CTRANSLATE2_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a weight, by the types that are asked of CTranslate2, where it has them on this CPU."""

Opened = AbstractContextManager[Mapping[str, Decoder]]


@contextmanager
def _transformers_generate(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Mapping[str, Decoder]]:
    """`generate` with its growing cache, which on a CPU is faster than a static one."""
    yield {dtype: _of_transformers(model, _generate(model)) for dtype, model in _transformers_models(folder).items()}


def _generate(model: Any) -> Decode:
    from transformers import GenerationConfig

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        settings = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, use_cache=True)
        tokens = torch.tensor(prompts)  # [B, T]
        with torch.inference_mode():
            texts = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        return [list(row) for row in texts[:, tokens.shape[1] :].tolist()]

    return decode


@contextmanager
def _transformers_continuous(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Mapping[str, Decoder]]:
    with ExitStack() as opened:
        yield {
            dtype: _of_transformers(model, opened.enter_context(_continuous(model, work)))
            for dtype, model in _transformers_models(folder).items()
        }


@contextmanager
def _continuous(model: Any, work: DecodeWork) -> Iterator[Decode]:
    """The manager behind `generate_batch`, kept running: starting it takes seconds. It waits, and does not spin."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    pages, batch = -(-work.length // PAGE_TOKENS), max(work.batches)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(
            max_new_tokens=work.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages * (batch + 1),
            max_batch_tokens=max(PAGE_TOKENS, work.step_tokens),
            allow_block_sharing=False,  # the same prompts come again, and are to be read again
        ),
    )
    manager.start()

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        names = manager.add_requests(inputs=[list(prompt) for prompt in prompts], max_new_tokens=new_tokens)
        responses: dict[str, list[int]] = {}
        while len(responses) < len(names):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise LtsRayError(f"{CONTINUOUS} has ended before its responses")
            if result is not None and result.is_finished():
                responses[result.request_id] = list(result.generated_tokens)
        return [responses[name] for name in names]

    try:
        yield decode
    finally:
        manager.stop(block=True)
        manager.destroy()


@contextmanager
def _ctranslate2_generate(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Mapping[str, Decoder]]:
    import ctranslate2

    types = ctranslate2.get_supported_compute_types("cpu")
    yield {
        kind: _ctranslate2(work, folder, scratch / kind, kind, each)
        for kind, each in CTRANSLATE2_BYTES.items()
        if kind in types
    }


def _ctranslate2(work: DecodeWork, folder: Path, converted: Path, kind: str, weight_bytes: float) -> Decoder:
    """Its own converter and generator, on as many threads within an operation; the prompts as one batch."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(converted), quantization=kind)
    words = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))
    generator = ctranslate2.Generator(
        str(converted), device="cpu", compute_type=kind, inter_threads=1, intra_threads=work.threads
    )

    def logits(tokens: Tensor) -> Tensor:
        found = generator.forward_batch([[words[token] for token in tokens.tolist()]])
        return torch.from_numpy(np.array(found))[0]

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        responses = generator.generate_batch(
            [[words[token] for token in prompt] for prompt in prompts],
            max_length=new_tokens,
            beam_size=1,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
        )
        return [list(response.sequences_ids[0]) for response in responses]

    return Decoder(decode=decode, loss=by_window(logits), weight_bytes=weight_bytes)


@dataclass(frozen=True, kw_only=True)
class Rival:
    engine: str
    """Its name in results."""
    module: str
    install: str
    open: Callable[[DecodeWork, Path, Path], Opened]
    """By precision. It gets a plain checkpoint, and a folder where it may write."""


BENCH = "pip install 'lts-ray[bench]'"
RIVALS = {
    "llama-cpp": Rival(
        engine=LLAMA_CPP,
        module="llama_cpp",
        install="pip install llama-cpp-python 'lts-ray[gguf]'",
        open=open_llama_cpp,
    ),
    "openvino": Rival(
        engine=OPENVINO,
        module="openvino_genai",
        install="pip install openvino-genai 'lts-ray[gguf]'",
        open=open_openvino,
    ),
    "ctranslate2": Rival(engine=CTRANSLATE2, module="ctranslate2", install=BENCH, open=_ctranslate2_generate),
    "transformers": Rival(engine=TRANSFORMERS, module="transformers", install=BENCH, open=_transformers_generate),
    "transformers-cb": Rival(engine=CONTINUOUS, module="transformers", install=BENCH, open=_transformers_continuous),
}
"""By the name on the command line."""


def why_missing(name: str) -> str | None:
    """Why a rival cannot take part, or None. Raises LtsRayError for one that is none."""
    if name not in RIVALS:
        raise LtsRayError(f"there is no rival {name!r}; there are: {', '.join(RIVALS)}")
    rival = RIVALS[name]
    if find_spec(rival.module) is None:
        return f"{rival.engine} is not installed, and its rows are left out: `{rival.install}`"
    return None


@contextmanager
def open_rivals(names: Sequence[str], source: Path, work: DecodeWork, scratch: Path) -> Iterator[dict[Way, Decoder]]:
    """Each rival with each submodel of the checkpoint `source`, extracted to a folder that plain transformers loads.

    scratch: where they may write. Raises LtsRayError where a submodel's widths differ by layer.
    """
    ways: dict[Way, Decoder] = {}
    transformers_logging.disable_progress_bar()  # it would show one for each model that it loads
    with ExitStack() as opened:
        for submodel in work.submodels if names else ():
            folder = scratch / "extracted" / submodel
            widths = extract_checkpoint(source, submodel, folder).submodel.widths
            if len(set(widths)) > 1:
                raise LtsRayError(
                    f"no rival runs layers of different widths, as {submodel} has; measure it with --rivals ''"
                )
            for name in names:
                rival, place = RIVALS[name], scratch / name / submodel
                place.mkdir(parents=True)
                decoders = opened.enter_context(rival.open(work, folder, place))
                ways |= {Way(rival.engine, submodel, precision): each for precision, each in decoders.items()}
            shutil.rmtree(folder)
        yield ways


def library_versions() -> dict[str, str]:
    """Of what is installed."""
    modules = ("torch", *dict.fromkeys(rival.module for rival in RIVALS.values()))
    names = {module: metadata.packages_distributions()[module][0] for module in modules if find_spec(module)}
    return {name: metadata.version(name) for name in names.values()}


def _transformers_models(folder: Path) -> dict[str, Any]:
    """By precision: bfloat16 where the CPU multiplies it."""
    from transformers import AutoModelForCausalLM

    dtypes = {"float32": torch.float32}
    if {"avx512_bf16", "amx_bf16"} & set(Processor.here().flags):
        dtypes["bfloat16"] = torch.bfloat16
    models = {name: AutoModelForCausalLM.from_pretrained(folder, dtype=each).eval() for name, each in dtypes.items()}
    for model in models.values():
        model.generation_config.eos_token_id = None
    return models


def _of_transformers(model: Any, decode: Decode) -> Decoder:
    def logits(tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(tokens[None]).logits[0]
        return found

    size = model.dtype.itemsize
    return Decoder(decode=decode, loss=by_window(logits), weight_bytes=size, cache_bytes=size)
