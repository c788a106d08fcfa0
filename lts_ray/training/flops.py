"""Arithmetic of training, so that objectives can be compared at equal compute and not only at equal steps."""

from __future__ import annotations

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel
from lts_ray.training.learners.objective import Objective


def training_flops(config: MatFormerConfig, submodel: Submodel, tokens: int, sequence_length: int) -> float:
    """Of one forward and backward pass of `submodel` over `tokens` tokens, in sequences of `sequence_length`.

    Two operations a parameter and token forward, four backward, the output matrix included and the embedding, which is
    looked up, not; and the attention's scores and sums, counted as if every token saw the whole sequence (PaLM's
    convention), which a causal kernel halves.
    """
    parameters = config.decoder_params(submodel) + config.vocab_size * (submodel.d_model or config.d_model)
    attention = 2 * sum(submodel.heads or config.layer_heads) * config.d_head * sequence_length
    return 6.0 * tokens * (parameters + attention)


def objective_flops(config: MatFormerConfig, objective: Objective, tokens: int, sequence_length: int) -> float:
    """Of a step by `objective`, in the mean: of all its granularities, or of the one that is drawn.

    Each counts as if it ran alone: what a mixed pass shares is the merit of the pass, not of the objective.
    """
    sampled = objective.kind == "sampled"
    chances = objective.probabilities if sampled else dict.fromkeys(objective.weights, 1.0)
    return sum(
        chance * training_flops(config, config.trained[name], tokens, sequence_length)
        for name, chance in chances.items()
    )
