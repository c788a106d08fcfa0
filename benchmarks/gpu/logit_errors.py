"""How far the runtime's logits are from float32's, prompts first and then token by token from the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.check_run import Found
from benchmarks.gpu.check_scale import CheckScale, held, mixture, piece, random_tokens
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.pick import GREEDY_PICK
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.submodel import Submodel

ROWS, LONGEST, DECODED = 8, 40, 6
EACH = held(LONGEST + DECODED)
LARGEST = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-5}
"""The largest relative norm of an error that rounding explains, by dtype."""


def errors(scale: CheckScale, shape: str, *, ready: object = None) -> Found:
    """A row for each dtype. The same weights, rounded; the tokens are those that float32 likes best."""
    config = scale.shapes[shape]
    steps = list(_steps(scale.model(config, torch.float32)))
    right = [logits for _, logits in steps]
    for dtype in scale.exact:
        model = scale.model(config, dtype)
        runtime, theirs = scale.runtime(model, n_blocks=ROWS * EACH), TorchRuntime(model, n_blocks=ROWS * EACH)
        got = [runtime.run(segments).clone() for segments, _ in steps]
        chosen = [choice.token for choice in runtime.begin(steps[-1][0], [GREEDY_PICK] * ROWS).chosen()]
        by_step, alike = list(map(_error, got, right)), torch.cat(got).argmax(-1) == torch.cat(right).argmax(-1)
        worst = max(by_step)
        torch_worst = max(_error(theirs.run(segments), logits) for segments, logits in steps)
        what = {"shape": shape, "dtype": str(dtype).removeprefix("torch."), "prompt": by_step[0]}
        far = {"by_step": by_step, "worst": worst, "allowed": LARGEST[dtype], "torch_worst": torch_worst}
        if worst > LARGEST[dtype] and scale.device.type == "cuda":  # is it the kernels, or that launches overlap?
            apart = scale.runtime(model, n_blocks=ROWS * EACH, early=False)
            far["worst_apart"] = max(_error(apart.run(segments), logits) for segments, logits in steps)
        same = {"same_token": alike.double().mean().item(), "chosen": chosen == got[-1].argmax(-1).tolist()}
        yield what | far | same | {"holds": worst <= LARGEST[dtype] and same["chosen"]}


def _steps(model: MatFormer) -> Iterator[tuple[list[Segment], Tensor]]:
    """Segments and their logits: prompts of several lengths, then DECODED tokens each; one row has a layer narrower."""
    config, runtime = model.config, TorchRuntime(model, n_blocks=ROWS * EACH)
    submodels = [*mixture(config, ROWS - 1), Submodel(config.trained["M"].widths[:1] + config.widths[1:])]
    tokens = [tokens[: 5 * row + 5] for row, tokens in enumerate(random_tokens(config, ROWS, LONGEST))]
    starts = [0] * ROWS
    for _ in range(1 + DECODED):
        segments = [piece(row, tokens[row], starts[row], EACH, submodel) for row, submodel in enumerate(submodels)]
        logits = runtime.run(segments).clone()
        yield segments, logits
        starts, tokens = [segment.stop for segment in segments], logits.argmax(-1)[:, None].tolist()


def _error(got: Tensor, right: Tensor) -> float:
    """Of the worst row; infinite where any logit is no number."""
    return float(((got - right).norm(dim=-1) / right.norm(dim=-1)).nan_to_num(torch.inf).max())
