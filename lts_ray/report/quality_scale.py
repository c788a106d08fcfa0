"""How a search's quality is shown. Searches minimise a loss; a person reads parameters as a size, larger is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lts_ray.frontier import Quality

HIGHEST_LOSS = 50.0
"""Above it a perplexity has more than twenty digits and says nothing."""


@dataclass(frozen=True, kw_only=True)
class QualityScale:
    title: str
    """Of an axis."""
    short: str
    """Where there is little room."""
    word: str
    """Within a sentence."""
    is_loss: bool
    """Lower is better."""

    def of(self, stacks: str) -> QualityScale:
        """As of a backbone whose parameters are those of these stacks of layers, such as "encoder"."""
        return replace(self, title=self.title.replace("decoder", stacks), word=self.word.replace("decoder", stacks))


SCALES: dict[Quality, QualityScale] = {
    "validation_loss": QualityScale(
        title="validation loss, nats per token", short="loss, nats", word="loss", is_loss=True
    ),
    "few_shot": QualityScale(
        title="predicted loss, nats per token", short="predicted loss, nats", word="predicted loss", is_loss=True
    ),
    "decoder_params": QualityScale(
        title="decoder parameters, millions", short="params, M", word="decoder parameters", is_loss=False
    ),
}


def perplexity_text(loss: float) -> str:
    return f"{math.exp(loss):,.2f}" if loss < HIGHEST_LOSS else "–"
