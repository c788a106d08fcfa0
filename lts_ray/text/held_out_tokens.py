"""The text that training held out, which a checkpoint carries in its tokens: what it is evaluated on by default."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lts_ray.errors import LtsRayError
from lts_ray.files import replacing
from lts_ray.text.batches import Tokens

FILE = "held_out.safetensors"
MOST_TOKENS = 2**20
"""4 MiB of a longer text, from its beginning."""


@dataclass(frozen=True, kw_only=True)
class HeldOutTokens:
    tokens: Tokens
    """[n]."""
    corpus: str
    """What the user named it by."""

    def save(self, folder: Path) -> None:
        with replacing(folder / FILE) as temporary:
            save_file({"tokens": self.tokens[:MOST_TOKENS]}, temporary, metadata={"corpus": self.corpus})

    @classmethod
    def read(cls, folder: Path, *, vocab_size: int) -> HeldOutTokens | None:
        """None where the checkpoint carries none. Raises LtsRayError for a file that is not one, or not its own."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                tokens: Tokens = file.get_tensor("tokens")
                corpus = (file.metadata() or {}).get("corpus", "a text without a name")
        except (OSError, SafetensorError, struct.error) as error:
            raise LtsRayError(f"held-out text {path} is corrupt: {error}; give --text") from None
        if tokens.dtype.kind != "i" or tokens.ndim != 1 or not len(tokens):
            raise LtsRayError(f"held-out text {path} is not a row of tokens; give --text")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise LtsRayError(f"held-out text {path} is of another vocabulary than the model; give --text")
        return cls(tokens=tokens, corpus=corpus)
