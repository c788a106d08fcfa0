"""What has to compile first, in processes that make themselves ready while others run: `generate`, training steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from benchmarks.common.scale import Scale, run_flops
from benchmarks.common.training_steps import quartiles_of_ratio, time_training_steps
from benchmarks.gpu.check_scale import CheckScale
from benchmarks.gpu.kernel_times import kernel_times
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

BEGIN = (sys.executable, "-m", "benchmarks.gpu.prepared_process")
"""What runs this file, with one of MEASURES and what it is of."""
WARMUP = 3
Ready = Callable[[], None]


class PreparedProcess:
    """It stops itself when it is ready, and prints what it found as JSON at last."""

    def __init__(self, command: Sequence[str]) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
        self._process = subprocess.Popen(
            command, stdout=self._output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        self._ready = False

    def wait(self, seconds: float) -> None:
        """Until it is ready, or has failed. One that is neither by then is ended."""
        until = time.monotonic() + seconds
        while not self._ready and self._process.returncode is None:
            found, status = os.waitpid(self._process.pid, os.WUNTRACED | os.WNOHANG)
            self._ready = found > 0 and os.WIFSTOPPED(status)
            if not self._ready and (found or time.monotonic() >= until):
                self.end()
            time.sleep(0.0 if found else 0.1)

    def result(self, seconds: float) -> Mapping[str, Any]:
        """What it measured, or its last words as `failed`. It is ended."""
        self.wait(seconds)
        if self._ready:
            self._process.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(seconds, 0.0))
        self.end()
        self._output.seek(0)
        lines = self._output.read().splitlines() or ["not a word"]
        return json.loads(lines[-1]) if lines[-1].startswith("{") else {"failed": lines[-3:]}

    def end(self) -> None:
        """It, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def generate_times(scale: CheckScale, shape: str, rows: int, *, ready: Ready = lambda: None) -> Mapping[str, Any]:
    """Of transformers' greedy `generate` with a static cache, which it compiles itself on a GPU; random weights.

    ready: called when all is compiled, before anything is timed.
    """
    import transformers

    config, new, ticks = scale.shapes[shape], scale.rival_tokens, list[float]()
    sizes = {"vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.widths[0]}
    heads = {"num_attention_heads": config.n_head, "num_key_value_heads": config.n_kv_head, "head_dim": config.d_head}
    layers = {"num_hidden_layers": config.n_layer, "max_position_embeddings": config.context_length}
    with torch.device(scale.device):
        theirs = transformers.LlamaConfig(**sizes, **heads, **layers, tie_word_embeddings=True)
        model = transformers.LlamaForCausalLM(theirs).to(scale.dtype).eval()
        prompts = torch.randint(2, config.vocab_size, (rows, scale.context))

    class Ticks(transformers.StoppingCriteria):  # type: ignore[misc]
        def __call__(self, tokens: torch.Tensor, scores: torch.Tensor, **options: Any) -> torch.Tensor:
            ticks.append(time.perf_counter())
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    lengths = {"min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0, "cache_implementation": "static"}
    for number in range(WARMUP + 1):
        if number == WARMUP:
            ready()
        ticks.clear()
        model.generate(prompts, do_sample=False, stopping_criteria=[Ticks()], **lengths)
    token_ms = 1e3 * median(after - before for before, after in pairwise(ticks))
    return {"shape": shape, "rows": rows, "token_ms": token_ms}


MEMORY = {256: 0.32, 512: 0.25, 1_024: 0.48}
"""Of the card, by d_model: what training may take, whose passes are as large as fits. It takes less than that, since a
pass may not be larger than the batch, or must divide it: beside the others that compile there is room for all."""


def compiled(scale: CheckScale, shape: str, dtype: str, blocks: int, *, ready: Ready) -> Mapping[str, Any]:
    """Puts the runtime's kernels into Triton's cache, and captures what a server does before it serves."""
    runtime = scale.runtime(scale.model(scale.shapes[shape], getattr(torch, dtype)), n_blocks=blocks)
    began = time.monotonic()
    runtime.prepare()
    return {"shape": shape, "dtype": dtype, "prepared_s": time.monotonic() - began}


def joint_steps(scale: CheckScale, d_model: int, *, ready: Ready = lambda: None) -> Mapping[str, Any]:
    """Beside the plain models' steps, compiled alike. flop_per_s: as if each granularity ran alone. ready: as above."""
    layers, vocabulary, rows, length = scale.lessons
    heads = max(2, d_model // 64)
    shape: dict[str, Any] = {"n_head": heads, "n_kv_head": heads // 2, "n_layer": layers, "context_length": length}
    training = TrainingSettings(batch_size=rows, sequence_length=length, device=scale.device.type)  # type: ignore[arg-type]
    model = ModelSettings(vocab_size=vocabulary, d_model=d_model, d_ff=11 * d_model, **shape)
    sized = Scale(name="check", model=model, training=training)
    kinds = {"joint": sized.universal} | dict(sized.baselines)
    if scale.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(MEMORY[d_model])

    def progress(done: int, total: int) -> None:
        if done == WARMUP * len(kinds):
            torch.cuda.empty_cache()
            ready()

    times = time_training_steps(kinds, vocab_size=vocabulary, rounds=scale.rounds, warmup=WARMUP, progress=progress)
    together = [sum(each) for each in zip(*(times[name] for name in sized.baselines), strict=True)]
    step_s, flops = median(times["joint"]) / 1e3, run_flops(sized.universal, vocabulary) / training.steps
    ratio = quartiles_of_ratio(times["joint"], together)[1]
    what = {"d_model": d_model, "joint_ms": 1e3 * step_s, "plain_together_ms": median(together), "ratio": ratio}
    speed = {"tokens_per_s": rows * length / step_s, "flop_per_s": flops / step_s}
    return what | speed | {"peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6)}


MEASURES: Mapping[str, Callable[..., Mapping[str, Any]]] = {
    measure.__name__: measure for measure in (generate_times, compiled, joint_steps, kernel_times)
}

if __name__ == "__main__":
    name, *given, number = sys.argv[1:]
    stop = partial(os.kill, os.getpid(), signal.SIGSTOP)
    print(json.dumps(MEASURES[name](CheckScale(), *given, int(number), ready=stop)))
