"""What `--model_args` says, from lm_eval's own parser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge

from lts_ray.errors import LtsRayError
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.record import read_record, record

BATCH_SIZE = 8


@record(what="model_args")
class ModelArguments:
    model: Path = DEFAULT_MODEL
    """A checkpoint's folder."""
    submodel: str | None = None
    """By name; None: the universal model."""
    frontier: Path | None = None
    """A file whose points `submodel` may name."""
    batch_size: Annotated[int, Ge(1)] = BATCH_SIZE
    """Texts at once."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens of context and continuation; None: the model's context."""
    add_bos_token: bool | None = None
    """Whether a text begins with the token for that; None: as the tokenizer has it."""
    device: str = "cpu"
    """One of torch's names."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the weights are computed in."""

    def __post_init__(self) -> None:
        try:
            torch.device(self.device)
        except RuntimeError:
            raise LtsRayError(
                f"model_args.device must be one of torch's, such as cpu or cuda; got {self.device!r}"
            ) from None
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise LtsRayError(f"model_args.device is {self.device!r}, but torch finds no GPU here; leave it out")

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> ModelArguments:
        """Raises LtsRayError for an unknown name, or a value of another kind."""
        values = dict(given)
        if "submodel" in values:
            values["submodel"] = _submodel(values["submodel"])
        if str(values.get("add_bos_token")) in ("True", "False"):
            values["add_bos_token"] = str(values["add_bos_token"]) == "True"
        for name in ("batch_size", "max_length"):
            if str(values.get(name)).isdecimal():
                values[name] = int(str(values[name]))
        # `auto`, and `auto:4`, are lm_eval's words for what fits; a fixed number does.
        if str(values.get("batch_size")).startswith("auto"):
            del values["batch_size"]
        return read_record(cls, values, what="model_args")


def _submodel(value: object) -> str:
    """Widths are joined by `+`, since commas part the arguments; lm_eval makes a list of `[8,64,16]`."""
    if isinstance(value, list | tuple):
        return ",".join(str(width) for width in value)
    return str(value).strip("[]").replace("+", ",")
