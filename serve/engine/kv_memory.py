"""How many blocks of keys and values fit into how much memory."""

from __future__ import annotations

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.cuda.bucket import MOST_ROWS, MOST_SINGLES
from lts_ray.runtime.runtime import BLOCK_TOKENS

DEFAULT_MB = 1024.0
"""On a CPU."""
SPARE_SHARE, SPARE_BYTES = 0.05, 500_000_000
"""Of a replica's part of a GPU, left to what torch, CUDA and compiled kernels take there beside what we count."""


def block_bytes(config: DecoderConfig, *, itemsize: int = 4) -> int:
    """itemsize: bytes of a number. A head of values takes whole sixteens of numbers."""
    of_token = config.cache_shape
    values = -(-of_token.d_head // 16) * 16
    return itemsize * of_token.n_layer * of_token.n_kv_head * BLOCK_TOKENS * (of_token.d_head + values)


def blocks_that_fit(config: DecoderConfig, *, rows: int, budget_mb: float | None, itemsize: int = 4) -> int:
    """budget_mb, in 1e6 bytes: None for as much as `rows` full contexts need, but not above DEFAULT_MB.

    Raises LtsRayError where not even one full context fits: such a request could never run.
    """
    one = blocks_of_context(config)
    size = block_bytes(config, itemsize=itemsize)
    least_mb = one * size / 1e6
    if budget_mb is not None and budget_mb < least_mb:
        raise LtsRayError(
            f"kv_cache_mb={budget_mb:g} is too small: one context of {config.context_length} tokens takes "
            f"{least_mb:.1f} MB"
        )
    given = max(DEFAULT_MB, least_mb) if budget_mb is None else budget_mb
    fitting = max(one, int(given * 1e6 / size))  # the division may round below what fits
    return min(fitting, rows * one) if budget_mb is None else fitting


def blocks_on_gpu(
    config: DecoderConfig,
    *,
    rows: int,
    budget_mb: float | None,
    itemsize: int,
    memory: tuple[int, int],
    share: float = 1.0,
) -> int:
    """As `blocks_that_fit` on a GPU, where None is for as much as there is room for beside the model.

    itemsize: bytes of a number of the weights, and of the cache. memory: bytes that are free before the model is
    loaded, and all of the GPU's. share: of the GPU that is this replica's. Raises LtsRayError where the model and the
    cache, or one full context, do not fit.
    """
    free, total = memory
    own = share * total
    room = min(free, own) - SPARE_SHARE * own - SPARE_BYTES
    one, size = blocks_of_context(config), block_bytes(config, itemsize=itemsize)
    least = one if budget_mb is None else blocks_that_fit(config, rows=rows, budget_mb=budget_mb, itemsize=itemsize)
    model = config.parameters(config.universal) * itemsize + step_bytes(config, itemsize=itemsize)
    if model + least * size > room:
        cache, ways = f"kv_cache_mb={budget_mb}", ["a smaller kv_cache_mb"]
        if budget_mb is None:
            cache, ways = f"one context of {config.context_length:,} tokens", ["a shorter context"]
        ways += ["dtype bfloat16"] if itemsize > 2 else []
        ways += ["a larger num_gpus"] if share < 1 else []
        raise LtsRayError(
            f"the model and {cache} need {(model + least * size) / 1e9:.1f} GB of a GPU, and this replica has "
            f"{max(room, 0) / 1e9:.1f} GB: {free / 1e9:.1f} GB of {total / 1e9:.1f} are free and {share:g} of the GPU "
            f"is its own, less what CUDA takes; give {', '.join(ways)} or another card"
        )
    return least if budget_mb is not None else min(rows * one, int((room - model) / size))


def step_bytes(config: DecoderConfig, *, itemsize: int) -> int:
    """What the largest step takes on a GPU beside the weights, as good as all of it: residual, projections, logits."""
    of_row = 4 * config.d_model + itemsize * (4 * config.d_model + max(config.widths))
    return MOST_ROWS * of_row + 4 * MOST_SINGLES * config.vocab_size


def blocks_of_context(config: DecoderConfig) -> int:
    return -(-config.context_length // BLOCK_TOKENS)
