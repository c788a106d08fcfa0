"""The compiled kernels, as the interpreter sees them: structures laid out as in kernels/step.h, and a few functions."""

from __future__ import annotations

import ctypes
import shutil
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from lts_ray.precision import PRECISIONS
from lts_ray.quantisation.quantised_matrix import GROUP
from lts_ray.runtime.panels import PANEL
from lts_ray.runtime.runtime import BLOCK_TOKENS

POINTER, INTEGER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double

LAYER_MATRICES = ("qkv", "out", "inward", "down")
LAYER_POINTERS = (
    "attention_norm",
    "attention_norm_bias",
    "qkv_bias",
    "q_norm",
    "k_norm",
    "out_bias",
    "ffn_norm",
    "ffn_norm_bias",
    "inward_bias",
    "down_bias",
)
MODEL_MATRICES = ("head", "embedding")
MODEL_POINTERS = ("positions", "cosines", "sines", "norm", "norm_bias")
MATRIX_POINTERS = ("plain", "half", "upper", "lower", "scales")


class KernelMatrix(ctypes.Structure):
    _fields_ = [(name, POINTER) for name in MATRIX_POINTERS]


class KernelLayer(ctypes.Structure):
    _fields_ = [
        *((name, KernelMatrix) for name in LAYER_MATRICES),
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
                "block_stride",
                "half_cache",
            )
        ),
        ("eps", REAL),
        ("layers", ctypes.POINTER(KernelLayer)),
        *((name, KernelMatrix) for name in MODEL_MATRICES),
        *((name, POINTER) for name in MODEL_POINTERS),
    ]


class KernelRows(ctypes.Structure):
    _fields_ = [
        ("rows", INTEGER),
        ("logit_rows", INTEGER),
        ("apart", INTEGER),
        ("d_used", INTEGER),
        *((name, INTEGER * (len(PRECISIONS) + 1)) for name in ("starts", "logit_starts")),
        *((name, POINTER) for name in ("tokens", "places", "table", "blocks", "wants", "targets")),
        *((name, POINTER) for name in ("submodels", "dims", "heads", "most_heads", "order", "widths")),
        *((name, POINTER) for name in ("x", "normed", "own", "qkv", "mixed", "inner", "scores", "logits")),
        *((name, POINTER) for name in ("rounded", "own_rounded", "inner_rounded")),
        ("rounded_size", INTEGER),
        ("scores_size", INTEGER),
        ("phases", POINTER),
    ]


LAYOUT = {
    "layer_bytes": ctypes.sizeof(KernelLayer),
    "model_bytes": ctypes.sizeof(KernelModel),
    "rows_bytes": ctypes.sizeof(KernelRows),
    "matrix_bytes": ctypes.sizeof(KernelMatrix),
    "panel": PANEL,
    "group": GROUP,
    "precisions": len(PRECISIONS),
    "block_tokens": BLOCK_TOKENS,
}
"""Numbers by which memory is laid out here, and which the library must have too."""


def kernel_library() -> ctypes.CDLL | None:
    """None where there is a `kernel_problem`. A call lets other Python threads run meanwhile."""
    loaded = _load(Path(__file__).parent)
    return loaded if isinstance(loaded, ctypes.CDLL) else None


def kernel_problem() -> str | None:
    """Why plain torch stands in for the kernels, and the command that mends it, as one line; None where it does not."""
    loaded = _load(Path(__file__).parent)
    return loaded if isinstance(loaded, str) else None


def warn_of_missing_kernels() -> None:
    """One line on stderr where plain torch stands in for them: its times are not theirs."""
    problem = kernel_problem()
    if problem is not None:
        print(f"warning: {problem}", file=sys.stderr)


@cache
def _load(here: Path) -> ctypes.CDLL | str:
    """The library in this folder; else what is wrong, as one line."""
    files = [path for suffix in EXTENSION_SUFFIXES if (path := here / f"_kernels{suffix}").is_file()]
    if not files:
        return f"the kernels are not compiled, so plain torch runs, several times slower; {_remedy(here)}"
    try:
        library = ctypes.CDLL(str(files[0]))
        _declare(library)
        differing = [name for name, ours in LAYOUT.items() if constant(library, name) != ours]
    except (OSError, AttributeError, ValueError) as error:
        return f"the kernels, {files[0]}, cannot be used ({error}), so plain torch runs; {_remedy(here)}"
    if differing:
        other = ", ".join(differing)
        return f"the kernels were compiled from other sources ({other}), so plain torch runs; {_remedy(here)}"
    return library


def _remedy(here: Path) -> str:
    """The command that compiles the kernels of the package in whose `runtime` folder this is."""
    clone = here.parents[1]
    is_clone = (clone / "pyproject.toml").is_file()
    what = f"--editable {clone}" if is_clone else "--force-reinstall --no-binary lts-ray lts-ray"
    compiler = "" if any(map(shutil.which, ("cc", "gcc", "clang"))) else "install a C compiler, such as gcc, then "
    return f"{compiler}run: {sys.executable} -m pip install --no-deps {what}"


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
