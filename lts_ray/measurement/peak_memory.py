"""The most memory that a candidate needs at once on a target: its weights, activations and KV cache.

On the CPU the allocator's own timeline is taken from the torch profiler (every allocation and free in order) and its
running sum's maximum is the peak. What a runtime keeps from step to step, such as its KV cache, is added. Not counted:
scratch space that a kernel library takes past torch's allocator, and the interpreter itself; a test compares with what
the operating system saw. On CUDA the allocator keeps the maximum.

Weights are counted, not measured: a universal model is in memory whole, but a submodel served alone needs its slice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from lts_ray.measurement.steps import check_fits, decode_context, prefill_step, random_tokens
from lts_ray.measurement.subjects.encoder_subject import has_steps
from lts_ray.measurement.subjects.subject import Subject
from lts_ray.target import Target
from lts_ray.timing import Step, torch_threads


def peak_memory_bytes(subject: Subject, target: Target) -> int:
    """Peak over a prefill of the target's batch and one decode step after it."""
    run = generation(subject, target)
    with torch_threads(target.threads), torch.inference_mode():
        run()  # what a first run allocates and keeps is not this candidate's
        return subject.weight_bytes + subject.kept_bytes + peak_of(run, device=subject.device)


def generation(subject: Subject, target: Target) -> Step:
    """A prefill and one decode step on a new cache; of an encoder, its pass alone."""
    check_fits(subject.context_length, target.sequence_length)
    if not has_steps(subject):
        return prefill_step(subject, rows=target.batch_size, tokens=target.sequence_length)
    rows, context = target.batch_size, decode_context(subject, target.sequence_length)
    prompt, following = random_tokens(subject, rows, context), random_tokens(subject, rows, 1)

    def run() -> None:
        cache = subject.empty_cache(rows=rows, length=context + 1)
        subject.run(prompt, cache)
        subject.run(following, cache)

    return run


def peak_of(run: Callable[[], None], *, device: torch.device) -> int:
    """The most bytes in use at once that `run` allocated."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with (
        native_stderr_muted(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen,
    ):
        run()
    # The public event list attributes memory to operators and loses the order; the timeline has every change.
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes: list[int] = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes, initial=0))


@contextmanager
def native_stderr_muted() -> Iterator[None]:
    """Drop what native code writes to file descriptor 2: torch's profiler announces each start and stop there."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
