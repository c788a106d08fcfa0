"""How many blocks of keys and values fit into how much memory."""

from __future__ import annotations

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.runtime import BLOCK_TOKENS

DEFAULT_MB = 1024.0


def block_bytes(config: DecoderConfig, *, half: bool = False) -> int:
    """In float32, or bfloat16. A head of values takes whole sixteens of numbers."""
    of_token = config.cache_shape
    values = -(-of_token.d_head // 16) * 16
    return (2 if half else 4) * of_token.n_layer * of_token.n_kv_head * BLOCK_TOKENS * (of_token.d_head + values)


def blocks_that_fit(config: DecoderConfig, *, rows: int, budget_mb: float | None, half: bool = False) -> int:
    """budget_mb, in 1e6 bytes: None for as much as `rows` full contexts need, but not above DEFAULT_MB.

    Raises LtsRayError where not even one full context fits: such a request could never run.
    """
    one = -(-config.context_length // BLOCK_TOKENS)
    size = block_bytes(config, half=half)
    least_mb = one * size / 1e6
    if budget_mb is not None and budget_mb < least_mb:
        raise LtsRayError(
            f"kv_cache_mb={budget_mb:g} is too small: one context of {config.context_length} tokens takes "
            f"{least_mb:.1f} MB"
        )
    given = max(DEFAULT_MB, least_mb) if budget_mb is None else budget_mb
    fitting = max(one, int(given * 1e6 / size))  # the division may round below what fits
    return min(fitting, rows * one) if budget_mb is None else fitting
