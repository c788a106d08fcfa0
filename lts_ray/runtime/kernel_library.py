"""The compiled kernels, as the interpreter sees them: structures laid out as in kernels/step.h, and a few functions."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from lts_ray.runtime.panels import PANEL
from lts_ray.runtime.runtime import BLOCK_TOKENS

logger = logging.getLogger(__name__)

POINTER, INTEGER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double

LAYER_POINTERS = (
    "attention_norm",
    "attention_norm_bias",
    "qkv",
    "qkv_bias",
    "q_norm",
    "k_norm",
    "out",
    "out_bias",
    "ffn_norm",
    "ffn_norm_bias",
    "inward",
    "inward_bias",
    "down",
    "down_bias",
)
MODEL_POINTERS = ("head", "embedding", "positions", "cosines", "sines", "norm", "norm_bias")


class KernelLayer(ctypes.Structure):
    _fields_ = [
        *((name, POINTER) for name in LAYER_POINTERS),
        ("keys", POINTER),
        ("values", POINTER),
        ("width", INTEGER),
    ]


class KernelModel(ctypes.Structure):
    _fields_ = [
        *(
            (name, INTEGER)
            for name in (
                "n_layer",
                "d_model",
                "n_head",
                "n_kv_head",
                "d_head",
                "vocab_size",
                "context_length",
                "activation",
                "gated",
                "layer_norm",
                "fan_in",
            )
        ),
        ("eps", REAL),
        ("layers", ctypes.POINTER(KernelLayer)),
        *((name, POINTER) for name in MODEL_POINTERS),
    ]


class KernelRows(ctypes.Structure):
    _fields_ = [
        ("rows", INTEGER),
        ("logit_rows", INTEGER),
        ("apart", INTEGER),
        ("d_used", INTEGER),
        *((name, POINTER) for name in ("tokens", "places", "table", "blocks", "wants")),
        *((name, POINTER) for name in ("submodels", "dims", "heads", "most_heads", "order", "widths")),
        *((name, POINTER) for name in ("x", "normed", "own", "qkv", "mixed", "inner", "scores", "logits")),
        ("scores_size", INTEGER),
        ("phases", POINTER),
    ]


LAYOUT = {
    "layer_bytes": ctypes.sizeof(KernelLayer),
    "model_bytes": ctypes.sizeof(KernelModel),
    "rows_bytes": ctypes.sizeof(KernelRows),
    "panel": PANEL,
    "block_tokens": BLOCK_TOKENS,
}
"""Numbers by which memory is laid out here, and which the library must have too."""


@cache
def kernel_library() -> ctypes.CDLL | None:
    """None where the package was installed without a C compiler. A call lets other Python threads run meanwhile."""
    here = Path(__file__).parent
    files = [path for suffix in EXTENSION_SUFFIXES if (path := here / f"_kernels{suffix}").is_file()]
    if not files:
        return None
    try:
        library = ctypes.CDLL(str(files[0]))
        _declare(library)
        differing = [name for name, ours in LAYOUT.items() if constant(library, name) != ours]
    except (OSError, AttributeError, ValueError) as error:
        logger.warning("%s cannot be used, plain torch stands in: %s; install this package again", files[0], error)
        return None
    if differing:
        logger.warning(
            "%s was built from other sources (%s), plain torch stands in: install this package again",
            files[0],
            ", ".join(differing),
        )
        return None
    return library


def constant(library: ctypes.CDLL, name: str) -> int:
    """A number that kernels/step.c hands out."""
    return INTEGER.in_dll(library, f"lts_{name}").value


def _declare(library: ctypes.CDLL) -> None:
    library.lts_team_new.argtypes, library.lts_team_new.restype = [ctypes.c_int], POINTER
    library.lts_team_free.argtypes, library.lts_team_free.restype = [POINTER], None
    library.lts_phases.argtypes, library.lts_phases.restype = [INTEGER], INTEGER
    library.lts_thread_step.argtypes, library.lts_thread_step.restype = [ctypes.c_int], POINTER
    library.lts_step.argtypes = [POINTER, POINTER, POINTER, POINTER, INTEGER, POINTER]
    library.lts_step.restype = None


def thread_steps(library: ctypes.CDLL) -> list[int]:
    """Addresses of a thread's step for each kind of CPU that this one is, the plainest first, the fastest last."""
    addresses: list[int] = []
    while address := library.lts_thread_step(len(addresses)):
        addresses.append(address)
    return addresses
