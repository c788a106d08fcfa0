"""The text that a submodel goes on with, up to a stop string: the project's own loop, with its KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lts_ray.decoding.plain_loop import generate
from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel
from lts_ray.text.tokenizer import Tokenizer

SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True, kw_only=True)
class CompletionSettings:
    stops: tuple[str, ...]
    """The completion ends before the first of them."""
    max_tokens: int
    sampling: Sampling

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> CompletionSettings:
        """Of lm_eval's generation settings, as its `normalize_gen_kwargs` leaves them.

        Raises LtsRayError for a setting that would change the text and that is not had here.
        """
        rest = dict(given)
        stops, max_tokens = rest.pop("until"), rest.pop("max_gen_toks")
        draws = rest.pop("do_sample", False)
        sampling = {name: rest.pop(name) for name in SAMPLING if name in rest}
        if rest.pop("num_beams", 1) != 1:
            raise LtsRayError("generation setting num_beams must be 1: there is no beam search")
        if rest:
            known = ", ".join(("until", "max_gen_toks", "do_sample", *SAMPLING))
            raise LtsRayError(f"unknown generation setting {', '.join(map(str, rest))}; known: {known}")
        return cls(
            stops=tuple(stop for stop in stops if stop),
            max_tokens=max_tokens,
            sampling=Sampling(**{"temperature": 1.0, **sampling}) if draws else Sampling(),
        )


def complete(
    model: UniversalModel,
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    *,
    submodel: Submodel,
    settings: CompletionSettings,
    generator: torch.Generator,
) -> str:
    """Raises LtsRayError when prompt and completion do not fit the context together."""
    stream, text, tokens = tokenizer.stream(), "", []
    for token in generate(
        model,
        prompt_ids,
        submodel=submodel,
        max_tokens=settings.max_tokens,
        sampling=settings.sampling,
        eos_ids=tokenizer.eos_ids,
        generator=generator,
    ):
        tokens.append(token)
        text += stream.step(token)
        if any(stop in text for stop in settings.stops):
            break
    return before_stop(tokenizer.decode(tokens), settings.stops)


def before_stop(text: str, stops: Sequence[str]) -> str:
    ends = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(ends, default=len(text))]
