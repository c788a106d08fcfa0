"""What `--model_args` says, from lm_eval's own parser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from lts_ray.errors import LtsRayError
from lts_ray.pretrained import DEFAULT_MODEL

BATCH_SIZE = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """model: a checkpoint folder. submodel: by name; None: the universal model. frontier: a file whose points it may
    name. batch_size: texts at once. max_length: tokens of context and continuation; None: the model's context."""

    model: Path = DEFAULT_MODEL
    submodel: str | None = None
    frontier: Path | None = None
    batch_size: int = BATCH_SIZE
    max_length: int | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> ModelArguments:
        """Raises LtsRayError for an unknown name, or a value of another kind."""
        known = [each.name for each in fields(cls)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise LtsRayError(f"unknown model argument {', '.join(unknown)}; known: {', '.join(known)}")
        plain = cls()
        length, dtype = given.get("max_length"), str(given.get("dtype", "float32"))
        device = str(given.get("device", plain.device))
        try:
            torch.device(device)
        except RuntimeError:
            raise LtsRayError(
                f"model argument device must be one of torch's, such as cpu or cuda; got {device!r}"
            ) from None
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise LtsRayError(f"model argument device is {device!r}, but torch finds no GPU here; leave it out")
        if dtype not in DTYPES:
            raise LtsRayError(f"model argument dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
        return cls(
            model=Path(str(given.get("model", plain.model))),
            submodel=_submodel(given["submodel"]) if "submodel" in given else None,
            frontier=Path(str(given["frontier"])) if "frontier" in given else None,
            batch_size=_batch_size(given.get("batch_size", plain.batch_size)),
            max_length=None if length is None else _positive("max_length", length),
            device=device,
            dtype=DTYPES[dtype],
        )


def _submodel(value: object) -> str:
    """Widths are joined by `+`, since commas part the arguments; lm_eval makes a list of `[8,64,16]`."""
    if isinstance(value, list | tuple):
        return ",".join(str(each) for each in value)
    return str(value).strip("[]").replace("+", ",")


def _batch_size(value: object) -> int:
    """`auto`, and `auto:4`, are lm_eval's words for what fits; a fixed number does."""
    return BATCH_SIZE if str(value).startswith("auto") else _positive("batch_size", value)


def _positive(name: str, value: object) -> int:
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise LtsRayError(f"model argument {name} must be a whole number of at least 1; got {value!r}")
    return int(str(value))
