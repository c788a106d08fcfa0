"""Parameters as they are published: of the files, where layers that share keys still have unused ones of their own."""

from __future__ import annotations

from dataclasses import dataclass

from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class PublishedCounts:
    """effective: of text, without what need not be on the accelerator, the embeddings. text: of the decoder.

    total: of the model, the output matrix counted beside the embedding, which it is, and the towers of other senses.
    """

    effective: int
    text: int
    total: int


def published_counts(config: Gemma3nConfig, submodel: Submodel | None = None, *, towers: int = 0) -> PublishedCounts:
    """towers: parameters of vision and audio, with what leads from them to the decoder. No submodel cuts them."""
    chosen = config.universal if submodel is None else config.check(submodel)
    shared = sum(width > 0 for width in chosen.widths[config.first_shared :])
    effective = config.decoder_params(chosen) + shared * config.key_params
    text = effective + config.table_params(chosen)
    return PublishedCounts(effective=effective, text=text, total=text + config.vocab_size * config.d_model + towers)
