"""The training loop of one worker: plain torch, no Ray. Every worker runs it on its share of each batch."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from lts_ray.device import CPU, autocast, device_here, within_gpu_memory
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line
from lts_ray.torch_compiler import can_compile
from lts_ray.training.learners.learner import Batch, Learner, Lessons
from lts_ray.training.run_folder import RunFolder, forget_after
from lts_ray.training.run_settings import TrainingSettings
from lts_ray.training.snapshot import drop_snapshot, load_snapshot, save_snapshot, snapshots

COMPILED_STEPS = 100
"""Fewer are soon done as they are."""


def train(
    learner: Learner[Batch],
    lessons: Lessons[Batch],
    options: TrainingSettings,
    folder: RunFolder,
    *,
    rank: int = 0,
    workers: int = 1,
    evaluate_first: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Run from the newest snapshot, or from the start, to the end; worker 0 writes metrics, snapshots and the model.

    options: with every choice made (`chosen`). evaluate_first: at step 0 too.
    Raises LtsRayError where a loss is no number.
    With several workers a torch.distributed process group must exist.
    """
    device = torch.device(options.device)
    with folder.only_writer() if rank == 0 else contextlib.nullcontext():
        optimizer = make_optimizer(learner.model, options)
        existing = snapshots(folder.snapshots)
        step = load_snapshot(existing[-1], learner.model, optimizer) if existing else 0
        if rank == 0:
            forget_after(folder.metrics, step)
        if step == 0 and rank == 0 and evaluate_first:
            _append_evaluation(learner, lessons, folder, 0)
        last_log, last_step, unseen = clock(), step, list[dict[str, Tensor]]()
        while step < options.steps:
            batch = lessons.batch(step, rank=rank, workers=workers)
            with within_gpu_memory("a step of training", advice="lower training.batch_size or the model's size"):
                losses = optimize(learner, optimizer, batch, step, options, options.precision)
            step += 1
            logs = step % options.log_every == 0 or step == options.steps
            unseen.append(losses)
            if logs or device.type == "cpu" or step % options.checkpoint_every == 0:  # a look waits for a GPU
                for at, each in enumerate(unseen, step - len(unseen)):
                    check_finite({name: float(loss) for name, loss in each.items()}, at, folder)
                unseen.clear()
            if rank != 0:
                continue
            if logs:
                now = when_done(device, clock)
                append_json_line(
                    folder.metrics,
                    {
                        "step": step,
                        "loss": {name: round(float(loss), 5) for name, loss in losses.items()},
                        "learning_rate": options.learning_rate_at(step - 1),
                        f"{lessons.unit}_per_s": round((step - last_step) * lessons.units / (now - last_log), 1),
                        "precision": options.precision,
                    },
                )
                last_log, last_step = now, step
            if step % options.evaluate_every == 0 and step < options.steps:
                _append_evaluation(learner, lessons, folder, step)
                last_log = clock()
            if step % options.checkpoint_every == 0 or step == options.steps:
                save_snapshot(folder.snapshots, step, learner.model, optimizer)
        if rank == 0:
            finish(learner, lessons, options, folder)


def _append_evaluation(learner: Learner[Batch], lessons: Lessons[Batch], folder: RunFolder, step: int) -> None:
    evaluation = learner.evaluate(lessons.held_out(final=False))
    check_finite(evaluation["validation_loss"], step, folder)
    append_json_line(folder.metrics, {"step": step, **evaluation})


def check_finite(losses: Mapping[str, float], step: int, folder: RunFolder) -> None:
    """Raises LtsRayError where the weights after `step` steps gave a loss that is no number; no snapshot has them then.

    What was kept before gave losses that are numbers: that is known of a snapshot before the one after it is written.
    """
    if all(map(math.isfinite, losses.values())):
        return
    drop_snapshot(folder.snapshots, step)
    kept = snapshots(folder.snapshots)
    shown = ", ".join(f"{name} {loss}" for name, loss in losses.items()) if len(losses) > 1 else str(*losses.values())
    raise LtsRayError(
        f"training went wrong: after step {step} the loss is {shown}; "
        + (f"the last good snapshot is {kept[-1]}; " if kept else "there was no good snapshot yet; ")
        + "start anew, with a lower training.learning_rate and another --output"
    )


def make_optimizer(model: nn.Module, options: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases are not decayed."""
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = [(parameter, _is_decayed(name, parameter)) for name, parameter in learning]
    groups = [
        {"params": [parameter for parameter, decayed in parameters if decayed], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter, decayed in parameters if not decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, fused=True)


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """By name as well: the biases of Transformer-XL's attention have a row for each head."""
    return parameter.dim() > 1 and not name.endswith("bias")


def optimize(
    learner: Learner[Batch],
    optimizer: torch.optim.AdamW,
    batch: Batch,
    step: int,
    options: TrainingSettings,
    precision: str,
) -> dict[str, Tensor]:
    """One step on this worker's rows; gradients and losses are averaged over the workers, once."""
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate_at(step)
    optimizer.zero_grad(set_to_none=True)
    losses = propagate(learner, batch, step, precision)
    parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    average([*(p.grad for p in parameters if p.grad is not None), *losses.values()])
    nn.utils.clip_grad_norm_(parameters, options.gradient_clip)
    optimizer.step()
    return losses


def propagate(learner: Learner[Batch], batch: Batch, step: int, precision: str) -> dict[str, Tensor]:
    """Add this worker's gradients to the parameters', pass by pass; no two passes are in memory at once."""
    passes, losses = learner.losses(batch, step), dict[str, Tensor]()
    device = next(learner.model.parameters()).device
    while True:
        with autocast(device, precision):
            computed = next(passes, None)
        if computed is None:
            return losses
        total, parts = computed
        total.backward()  # type: ignore[no-untyped-call]
        for name, loss in parts.items():
            losses[name] = losses[name] + loss if name in losses else loss


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the workers: one all-reduce for all of them together."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def finish(learner: Learner[Batch], lessons: Lessons[Batch], options: TrainingSettings, folder: RunFolder) -> None:
    """Write the checkpoint, then evaluate what was written: the saved numbers are those of the saved weights."""
    dtype: torch.dtype = getattr(torch, options.save_dtype)
    for checkpoint in learner.save(folder.model, dtype=dtype):
        lessons.save(checkpoint)
    saved = learner.load(folder.model)
    saved.model.to(options.device)
    evaluation = saved.evaluate(lessons.held_out(final=True))
    if not all(map(math.isfinite, evaluation["validation_loss"].values())):
        shutil.rmtree(folder.model)
        check_finite(learner.evaluate(lessons.held_out(final=False))["validation_loss"], options.steps, folder)
        raise LtsRayError(
            f"stored as {options.save_dtype}, the weights give a loss that is no number: they do not fit it; "
            "start anew, with another training.save_dtype and another --output"
        )
    saved.save(folder.model, dtype=dtype, evaluation=evaluation)
    append_json_line(folder.metrics, {"step": options.steps, **evaluation, "final": True})


def chosen(options: TrainingSettings) -> TrainingSettings:
    """With every choice made that depends on this machine's hardware. Raises LtsRayError."""
    device = device_here(options.device, what="training.device")
    precision = native_precision(torch.device(device)) if options.precision == "auto" else options.precision
    compiles = device == "cuda" and options.steps >= COMPILED_STEPS and can_compile()
    by_compiler = compiles if options.compile is None else options.compile
    return replace(options, device=device, precision=precision, compile=by_compiler)


def when_done(device: torch.device, clock: Callable[[], float]) -> float:
    """The clock's time once the device has done all that it was given: a GPU is handed work, and does it later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def native_precision(device: torch.device = CPU) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device multiplies it in hardware; emulated on a CPU, it is 60 times slower than float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    names = ("avx512_bf16", "amx_bf16")
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    return "bfloat16" if any(capabilities.get(name) for name in names) else "float32"
