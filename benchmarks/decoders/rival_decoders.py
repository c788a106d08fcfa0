"""Other libraries that decode the same checkpoint, each as a `Decode`: greedy, float32, no token ends a response.

Each is set up as its documentation says it is fastest for prompts of one length that are all there at once, and keeps
what it sets up between calls.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.decoders.decode_times import CONTINUOUS, CTRANSLATE2, TRANSFORMERS, Decode, DecodeWork, Prompts, Way
from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.errors import LtsRayError

PAGE_TOKENS = 256
"""Of a page of the KV cache of transformers' continuous batching, as it is by default."""


Rival = Callable[[DecodeWork, Path, Path], AbstractContextManager[Decode]]
"""What it opens gets a plain checkpoint, and a folder where it may write."""


@contextmanager
def _transformers_generate(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Decode]:
    """`generate` with its growing cache, which on a CPU is faster than a static one."""
    from transformers import GenerationConfig

    model = _transformers_model(folder)

    def decode(prompts: Prompts, new_tokens: int) -> list[list[int]]:
        settings = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, use_cache=True)
        tokens = torch.tensor(prompts)  # [B, T]
        with torch.inference_mode():
            texts = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        return [list(row) for row in texts[:, tokens.shape[1] :].tolist()]

    yield decode


@contextmanager
def _transformers_continuous(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Decode]:
    """The manager behind `generate_batch`, kept running: starting it takes seconds. It waits, and does not spin."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = _transformers_model(folder)
    pages, batch = -(-work.length // PAGE_TOKENS), max(work.batches)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(
            max_new_tokens=work.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages * (batch + 1),
            max_batch_tokens=max(PAGE_TOKENS, batch * work.prompt_tokens),
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
def _ctranslate2_generate(work: DecodeWork, folder: Path, scratch: Path) -> Iterator[Decode]:
    """Its own converter and generator, on as many threads within an operation; the prompts as one batch."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    converted = scratch / "ctranslate2"
    TransformersConverter(str(folder)).convert(str(converted), quantization="float32")
    words = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))
    generator = ctranslate2.Generator(
        str(converted), device="cpu", compute_type="float32", inter_threads=1, intra_threads=work.threads
    )

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

    yield decode


RIVALS: dict[str, tuple[str, Rival]] = {
    "transformers": (TRANSFORMERS, _transformers_generate),
    "transformers-cb": (CONTINUOUS, _transformers_continuous),
    "ctranslate2": (CTRANSLATE2, _ctranslate2_generate),
}
"""By the name on the command line: the name in results, and how to open one."""


def why_missing(name: str) -> str | None:
    """Why a rival cannot take part, or None. Raises LtsRayError for one that is none."""
    if name not in RIVALS:
        raise LtsRayError(f"there is no rival {name!r}; there are: {', '.join(RIVALS)}")
    if name == "ctranslate2" and find_spec(name) is None:
        return "CTranslate2 is not installed, and its rows are left out: `pip install 'lts-ray[bench]'`"
    return None


@contextmanager
def open_rivals(names: Sequence[str], source: Path, work: DecodeWork, scratch: Path) -> Iterator[dict[Way, Decode]]:
    """Each rival with each submodel of the checkpoint `source`, extracted to a folder that plain transformers loads.

    scratch: where they may write. Raises LtsRayError where a submodel's widths differ by layer.
    """
    ways: dict[Way, Decode] = {}
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
                engine, rival = RIVALS[name]
                ways[Way(engine, submodel)] = opened.enter_context(rival(work, folder, scratch / submodel))
            shutil.rmtree(folder)
        yield ways


def library_versions() -> dict[str, str]:
    """Of what is installed."""
    names = [name for name in ("torch", "transformers", "ctranslate2") if find_spec(name) is not None]
    return {name: metadata.version(name) for name in names}


def _transformers_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model
