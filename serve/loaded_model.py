"""A model where it is to run, in the runtime that serves it there, with the cache that there is room for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lts_ray.checkpoints.universal import load_universal, read_universal
from lts_ray.device import device_here, gpu_memory, within_gpu_memory
from lts_ray.frontier import Frontier
from lts_ray.memory import check_memory, return_freed
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.kernel_library import kernel_problem
from lts_ray.runtime.runtime import Runtime
from lts_ray.target import Target
from serve.engine.kv_memory import block_bytes, blocks_on_gpu, blocks_that_fit
from serve.policies.capacity import Capacity
from serve.serve_args import ServeArgs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    fingerprint: str
    config: DecoderConfig
    validation_loss: Mapping[str, float]
    runtime: Runtime
    capacity: Capacity
    described: str
    """What runs it: the runtime, where, in which precisions, and how much at once."""

    @classmethod
    def of(cls, args: ServeArgs, target: Target | None, frontier: Frontier | None, *, threads: int) -> LoadedModel:
        """target: of ServeArgs.on_device. Raises LtsRayError for a model or a cache that does not fit in memory."""
        config, _ = read_universal(args.model)
        device = "cpu" if target is None else device_here(target.device, what=f"the device of {target.name}")
        precisions, dtype = args.served_precisions(config, frontier, target), "float32"
        itemsize, capacity, budget_mb = args.cache_itemsize(target), args.capacity(target), args.kv_cache_mb
        of_block = block_bytes(config, itemsize=itemsize)
        if target is not None:
            dtype = target.dtype
        if device == "cuda":
            n_blocks = blocks_on_gpu(
                config,
                rows=capacity.slots,
                budget_mb=budget_mb,
                itemsize=itemsize,
                memory=gpu_memory(),
                share=args.num_gpus or 1.0,
            )
        else:
            n_blocks = blocks_that_fit(config, rows=capacity.slots, budget_mb=budget_mb, itemsize=itemsize)
            cache = n_blocks * of_block
            check_memory({"lower kv_cache_mb or serve a shorter context": cache}, what="the cache of keys and values")
            if (problem := kernel_problem()) is not None:
                logger.warning(problem)
        advice = "a smaller kv_cache_mb or num_gpus, or another card, leaves more"
        with within_gpu_memory(f"model {args.model} with its cache of keys and values", advice=advice):
            checkpoint = load_universal(args.model, dtype=getattr(torch, dtype), device=device)
            runtime = build_runtime(
                checkpoint.model,
                n_blocks=n_blocks,
                threads=threads,
                precisions=precisions,
                quantised=checkpoint.quantised,
                half_cache=device == "cpu" and args.kv_cache_dtype == "bfloat16",
            )
        fingerprint, losses = checkpoint.fingerprint, checkpoint.validation_loss
        del checkpoint  # the runtime has the weights packed: they need not be held twice
        return_freed()
        where = torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads"
        numbers = " and ".join(precisions) if dtype == "float32" else dtype
        at_once = f"up to {capacity.slots} requests at once and {capacity.chunk_tokens} tokens a step"
        cached = f"{n_blocks:,} blocks of keys and values ({n_blocks * of_block / 1e6:,.0f} MB)"
        return cls(
            fingerprint=fingerprint,
            config=config,
            validation_loss=losses,
            runtime=runtime,
            capacity=capacity,
            described=f"{type(runtime).__name__} on {where} in {numbers}, {cached}, {at_once}",
        )
