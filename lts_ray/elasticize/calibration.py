"""How a checkpoint's matrices are rounded: found on text, written beside its weights with what it loses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.console import progress_bars
from lts_ray.elasticize.importance import evenly
from lts_ray.evaluation.text_quality import SOTU, evaluation_blocks
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.files import read_json, write_json
from lts_ray.models.checkpoint_folder import CONFIG
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_quantised
from lts_ray.precision import QUANTISED
from lts_ray.quantisation.calibrated_rounding import calibrated_weights
from lts_ray.quantisation.quantised_weights import at_precision
from lts_ray.text.batches import blocks_of, split_documents, tokenize
from lts_ray.text.corpus import read_corpus

LENGTH = 256
"""Tokens of a sequence to calibrate on."""
HELD_OUT = 16
"""Sequences that losses are measured on."""


@dataclass(frozen=True)
class RoundedLoss:
    """Nats per token of one submodel on held-out text."""

    submodel: str
    precision: str
    nearest: float
    """With each weight rounded to the nearest."""
    calibrated: float
    stored: float
    """In float32."""


def calibrate(folder: Path, *, corpus: str | None, blocks: int, device: str = "cpu") -> list[RoundedLoss]:
    """Write `quantised.safetensors` to `folder`, and the losses to its config.json, by `S@int4`.

    corpus: whose training documents are calibrated on; None: `SOTU`. blocks: sequences of it. A loss is noted as far
    above the one in float32 as it was found to be, since training measured that on a text of its own.
    Raises LtsRayError for an unusable model or text.
    """
    checkpoint = load_checkpoint(folder, device=device)
    model, config = checkpoint.model, checkpoint.model.config
    tokenizer = load_model_tokenizer(folder, vocab_size=config.vocab_size)
    training, _ = split_documents(read_corpus(corpus or SOTU), 0.05)
    text = blocks_of(tokenize(training, tokenizer), length=min(LENGTH, config.context_length))[:, :-1]
    held_out = evaluation_blocks(folder, text=None, corpus=corpus, count=HELD_OUT)
    with progress_bars() as show:
        chosen = text[evenly(len(text), blocks)].to(device)
        rounded = calibrated_weights(model, chosen, progress=lambda done, total: show("rounding layers", done, total))
        models = {"": model}
        for precision in QUANTISED:
            models[f"{precision} nearest"] = at_precision(model, precision)
            models[precision] = at_precision(model, precision, rounded)
        found = {}
        for done, (key, name) in enumerate(product(models, config.trained)):
            found[key, name] = validation_loss(models[key], held_out, config.trained[name])
            show("measuring losses", done + 1, len(models) * len(config.trained))
    noted = dict(checkpoint.validation_loss)
    for precision, name in product(QUANTISED, config.trained):
        more = found[precision, name] - found["", name]
        noted[f"{name}@{precision}"] = round(noted.get(name, found["", name]) + more, 5)
    raw = read_json(folder / CONFIG, what="model configuration")
    raw["lts_ray"] = {**raw.get("lts_ray", {"schema": 1}), "validation_loss": noted}
    save_quantised(folder, rounded)
    write_json(folder / CONFIG, raw)
    return [
        RoundedLoss(name, precision, found[f"{precision} nearest", name], found[precision, name], found["", name])
        for precision, name in product(QUANTISED, config.trained)
    ]
