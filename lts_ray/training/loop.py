"""The training loop of one worker: plain torch, no Ray. Every worker runs it on its share of each batch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line
from lts_ray.text.batches import Batches, blocks_of
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from lts_ray.training.learners.learner import Learner
from lts_ray.training.new_learner import new_learner
from lts_ray.training.run_folder import RunFolder, exclusive, forget_after
from lts_ray.training.run_settings import RunSettings, TrainingSettings
from lts_ray.training.snapshot import load_snapshot, save_snapshot, snapshots

Record = dict[str, Any]
CPU = torch.device("cpu")


def train(
    settings: RunSettings,
    folder: RunFolder,
    *,
    rank: int = 0,
    workers: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Run from the newest snapshot, or from the start, to the end; worker 0 writes metrics, snapshots and the model.

    With several workers a torch.distributed process group must exist.
    """
    options = chosen(settings.training)
    device = torch.device(options.device)
    with exclusive(folder.path / ".lock") if rank == 0 else contextlib.nullcontext():
        batches = Batches(
            tokens=np.load(folder.data / "train.npy", mmap_mode="r"),
            sequence_length=options.sequence_length,
            batch_size=options.batch_size,
            seed=options.seed,
        )
        held_out = blocks_of(np.load(folder.data / "validation.npy"), length=options.sequence_length).to(device)
        tokenizer = load_tokenizer(folder.data)
        learner = new_learner(settings, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, device=device)
        optimizer = make_optimizer(learner.model, options)
        existing = snapshots(folder.snapshots)
        step = load_snapshot(existing[-1], learner.model, optimizer) if existing else 0
        if rank == 0:
            forget_after(folder.metrics, step)
        if step == 0 and rank == 0:
            append_json_line(folder.metrics, evaluation(learner, held_out[: options.evaluation_blocks], step=0))
        last_log, last_step = clock(), step
        while step < options.steps:
            blocks = batches.batch(step, rank=rank, workers=workers).to(device)
            losses = optimize(learner, optimizer, blocks, step, options, options.precision)
            step += 1
            if rank != 0:
                continue
            if step % options.log_every == 0 or step == options.steps:
                now = when_done(device, clock)
                tokens = (step - last_step) * options.batch_size * options.sequence_length
                append_json_line(
                    folder.metrics,
                    {
                        "step": step,
                        "loss": {name: round(float(loss), 5) for name, loss in losses.items()},
                        "learning_rate": options.learning_rate_at(step - 1),
                        "tokens_per_s": round(tokens / (now - last_log), 1),
                        "precision": options.precision,
                    },
                )
                last_log, last_step = now, step
            if step % options.evaluate_every == 0 and step < options.steps:
                append_json_line(folder.metrics, evaluation(learner, held_out[: options.evaluation_blocks], step=step))
                last_log = clock()
            if step % options.checkpoint_every == 0 or step == options.steps:
                save_snapshot(folder.snapshots, step, learner.model, optimizer)
        if rank == 0:
            finish(learner, held_out, settings, folder)


def make_optimizer(model: nn.Module, options: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases are not decayed."""
    learning = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
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
    learner: Learner, optimizer: torch.optim.AdamW, blocks: Tensor, step: int, options: TrainingSettings, precision: str
) -> dict[str, Tensor]:
    """One step on this worker's rows; gradients and losses are averaged over the workers, once."""
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate_at(step)
    optimizer.zero_grad(set_to_none=True)
    losses = propagate(learner, blocks, step, precision)
    parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    average([*(p.grad for p in parameters if p.grad is not None), *losses.values()])
    nn.utils.clip_grad_norm_(parameters, options.gradient_clip)
    optimizer.step()
    return losses


def propagate(learner: Learner, blocks: Tensor, step: int, precision: str) -> dict[str, Tensor]:
    """Add this worker's gradients to the parameters', pass by pass; no two passes are in memory at once."""
    passes, losses, device = learner.losses(blocks, step), dict[str, Tensor](), blocks.device.type
    while True:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            found = next(passes, None)
        if found is None:
            return losses
        found[0].backward()  # type: ignore[no-untyped-call]
        for name, loss in found[1].items():
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


def evaluation(learner: Learner, blocks: Tensor, *, step: int) -> Record:
    losses = learner.evaluate(blocks)
    return {"step": step, "validation_loss": {name: round(loss, 5) for name, loss in losses.items()}}


def finish(learner: Learner, held_out: Tensor, settings: RunSettings, folder: RunFolder) -> None:
    """Write the checkpoint, then evaluate what was written: the saved numbers are those of the saved weights."""
    dtype: torch.dtype = getattr(torch, settings.training.save_dtype)
    learner.save(folder.model, dtype=dtype)
    for checkpoint in learner.checkpoints(folder.model):
        save_tokenizer(load_tokenizer(folder.data), checkpoint)
    saved = learner.load(folder.model)
    saved.model.to(held_out.device)
    record = evaluation(saved, held_out[: settings.training.final_evaluation_blocks], step=settings.training.steps)
    saved.save(folder.model, dtype=dtype, validation_loss=record["validation_loss"])
    append_json_line(folder.metrics, {**record, "final": True})


def chosen(options: TrainingSettings) -> TrainingSettings:
    """With every choice made that depends on this machine's hardware. Raises LtsRayError."""
    device = device_named(options.device)
    precision = native_precision(device) if options.precision == "auto" else options.precision
    return replace(options, device="cuda" if device.type == "cuda" else "cpu", precision=precision)


def device_named(name: str) -> torch.device:
    """Of `training.device`. Raises LtsRayError for a GPU where there is none."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise LtsRayError("training.device is cuda, but torch finds no CUDA GPU on this machine: give cpu or auto")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


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
