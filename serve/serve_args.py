"""The arguments of `serve run serve.app:build`, and what can be checked of them before anything is started."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

import lts_ray
from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.checkpoints.universal import read_universal, universal_fingerprint, vouched
from lts_ray.device import Device, dtype_here
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, read_frontier
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.models.matformer.hugging_face.checkpoint import read_dtype
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.precision import DEFAULT_PRECISIONS
from lts_ray.record import Text, record
from lts_ray.runtime.kernel_library import kernel_library
from lts_ray.target import Target
from serve.argument_types import AbsolutePath, Autoscaling, Count, Name, Names, Origins, Precisions, Replicas
from serve.engine.kv_memory import blocks_that_fit
from serve.fleet.node_kind import GpuShare, NodeKind, load_kinds, named_kinds
from serve.http.keys import Keys
from serve.http.request_limits import RequestLimits
from serve.policies.capacity import Capacity
from serve.policies.menu import menu_of_frontier, menu_of_granularities
from serve.user_config import UserConfig

SHIPPED_MODEL = Path(lts_ray.__file__).parent / "pretrained" / "sotu"

MODEL_FOLDER = "model"
MAX_QUEUE = 1024
"""Each arrival is judged by a look at all that wait, which takes time on the event loop."""


@record(strict=False)
class ServeArgs:
    model: AbsolutePath = SHIPPED_MODEL
    """A checkpoint folder with its tokenizer."""
    frontier: AbsolutePath | None = None
    """What `lts-ray search` wrote for that model; None: the granularities are served."""
    target: str | None = None
    """The frontier's target that the replicas run on, which also places them. None: a replica takes the one that its
    node's labels match."""
    kinds: Names = ()
    """Several of the frontier's targets, with commas between them: one replica on each, all behind one endpoint."""
    fleet: AbsolutePath | None = None
    """A fleet.yaml in place of `kinds`: with numbers of replicas and costs."""
    max_migrations: Annotated[int, Field(ge=0, le=1000)] = 2
    """How often a request may go on at another replica when the one that it runs on dies; then it fails."""
    anywhere: bool = False
    """Place the replicas on any node all the same, to try on one machine what was searched on a simulated cluster."""
    device: Device = "auto"
    """Where replicas run that no target places: cpu, cuda, or auto: a GPU where the cluster has one, else the CPU."""
    num_gpus: GpuShare | None = None
    """A replica's part of a GPU, where it runs on one: with 0.5 two of them share it. None: all of one."""
    threads: Count | None = None
    """Torch's, in a replica. None: the target's, or an equal share of the node's cores but one."""
    max_batch_size: Count | None = None
    """Requests that run together; None: 8 on a CPU, 64 on a GPU."""
    max_queue: Annotated[int, Field(ge=1, le=MAX_QUEUE)] = Capacity.max_queue
    """Requests that wait beyond those."""
    chunk_tokens: Count | None = None
    """The most tokens of one step, pieces of prompts included; None: 256 on a CPU, 512 on a GPU."""
    kv_cache_mb: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Memory for keys and values, in 1e6 bytes; None: what `max_batch_size` full contexts need, on a CPU at most 1024,
    on a GPU at most what is free beside the model."""
    kv_cache_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of keys and values on a CPU; on a GPU they are what the weights are. bfloat16: half the memory, so room for twice
    the tokens; steps take as long."""
    prefix_cache: bool = True
    """Reuse the keys and values of prompts that begin alike."""
    precisions: Precisions = ()
    """That submodels are served in, with commas between them: float32, bfloat16, int8, int4. None: those of the
    frontier's points, or without a frontier what suits the model best here."""
    policy: str = UserConfig.policy
    """Chooses the widths; its thresholds are changed while it serves, by `user_config`."""
    attainment: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """The share of the budgets that can be kept which is to be kept: the reserve of time that counts as safe."""
    quality_floor: Text | None = None
    """What autoscaling lets the mean loss of tokens come to: a submodel's, by its name, or nats a token. None: any."""
    keys: AbsolutePath | None = None
    """File of API keys' hashes; None: every client is served."""
    max_n: Count = RequestLimits.max_n
    """Choices of each prompt of a request."""
    max_prompt_tokens: Count | None = None
    """Of one request; None: as many as the context has room for."""
    body_timeout_s: Annotated[float, Field(gt=0)] = RequestLimits.body_timeout_s
    """How long a client may take to send a request's body, then 408."""
    cors_origins: Origins = ()
    """Web pages' origins, such as https://example.org, whose scripts may use the server; * for all. Several are
    separated by commas. None: only its own pages."""
    playground: bool = True
    """Serve the page at /playground."""
    drain_s: Annotated[float, Field(gt=0)] = 60.0
    """How long a replica that is taken down may finish its requests."""
    num_replicas: Replicas = 1
    """Engines, each with a copy of the model. None, in words auto: as many as there is work for."""
    autoscaling_config: Autoscaling = None
    """Ray Serve's, for a number of replicas that follows the work; as JSON on a command line. None: its defaults."""
    name: Name | None = None
    """What clients call the model; None: as its run is called, or else its folder."""

    @property
    def served_name(self) -> str:
        """A training leaves its checkpoint in the folder `model` of the run's: every run's is called that."""
        if self.name is not None:
            return self.name
        run = self.model.parent.name if self.model.name == MODEL_FOLDER else ""
        return re.sub(r"[:\s]", "-", run or self.model.name)

    def cache_itemsize(self, target: Target | None) -> int:
        """Bytes of a key's or value's number. target: of `on_device`."""
        if target is not None and (target.device == "cuda" or target.dtype != "float32"):
            return int(getattr(torch, target.dtype).itemsize)
        return 2 if self.kv_cache_dtype == "bfloat16" else 4

    def decided(self, *, has_gpu: bool) -> ServeArgs:
        """With cpu or cuda in place of auto. has_gpu: whether there is a GPU where the replicas may run: a frontier's
        targets are to be on one, too, and no precision asked for that a GPU does not run."""
        if self.device != "auto":
            return self
        frontier = self.read_frontier()
        searched = frontier is None or any(target.device == "cuda" for target in frontier.targets.values())
        return replace(self, device="cuda" if has_gpu and searched and not {*self.precisions} - {STORED} else "cpu")

    def on_device(self, target: Target | None) -> Target | None:
        """What a replica runs on: the target or, where there is none, a GPU if `device` says so; None: the CPU."""
        if target is not None or self.device != "cuda":
            return target
        dtype = "float16" if read_dtype(self.model) == torch.float16 else dtype_here("cuda")
        return Target(name="a GPU", local=True, device="cuda", dtype=dtype)

    @property
    def is_autoscaled(self) -> bool:
        return self.num_replicas is None or self.autoscaling_config is not None

    @property
    def most_replicas(self) -> int:
        """That may come to share a node."""
        most = (self.autoscaling_config or {}).get("max_replicas", 100) if self.is_autoscaled else self.num_replicas
        return int(most or 1)

    def check(self) -> Target | None:
        """Raise LtsRayError for what cannot be served. Returns the named target. The weights are not loaded."""
        config, _ = read_universal(self.model)
        weights = self.model / "model.safetensors"
        try:
            with safe_open(weights, framework="numpy"):
                pass  # reads the header, and that the file is as long as it says
        except (OSError, SafetensorError) as error:
            raise LtsRayError(f"weights {weights} are missing or corrupt: {error}") from None
        load_model_tokenizer(self.model, vocab_size=config.vocab_size)
        UserConfig(policy=self.policy).build()
        self.read_keys()
        self._check_on(config, None, None)
        if self.autoscaling_config is not None and (self.num_replicas or 1) > 1:
            raise LtsRayError(
                f"num_replicas={self.num_replicas} and autoscaling_config say two things: give num_replicas=auto, or "
                "none, with it"
            )
        kinds, frontier = self.node_kinds(), self.read_frontier()
        if frontier is None:
            asked = f"target={self.target}" if self.target else "kinds=" + ",".join(kind.name for kind in kinds)
            if kinds or self.target is not None:
                raise LtsRayError(f"{asked} needs frontier=FILE: the frontier says what a target is")
            return None
        frontier.check_model(universal_fingerprint(self.model), config.check)
        points = {point.submodel.precision for point in frontier.points}
        if self.precisions and points and not points & {"", *self.precisions}:
            raise LtsRayError(
                f"precisions={','.join(self.precisions)} leaves none of the frontier's points, which are in "
                + ", ".join(sorted(points))
            )
        for kind in kinds:
            if kind.target_name not in frontier.targets:
                has = ", ".join(frontier.targets) or "none"
                raise LtsRayError(f"kind {kind.name!r}: the frontier has no target {kind.target_name!r}; it has: {has}")
            own = replace(self.of_kind(kind), num_gpus=kind.num_gpus)
            own._check_on(config, frontier, frontier.targets[kind.target_name])
        if self.target is None:
            self._check_on(config, frontier, None)
            return None
        frontier.front(self.target)  # raises for an unknown target
        target = frontier.targets[self.target]
        self._check_on(config, frontier, target)
        return target

    def _check_on(self, config: DecoderConfig, frontier: Frontier | None, named: Target | None) -> None:
        """Raise LtsRayError for what replicas on this target could not do."""
        target = self.on_device(named)
        if named is not None and self.device not in ("auto", named.device):
            raise LtsRayError(f"device={self.device} and target {named.name!r}, on {named.device}, say two things")
        if self.num_gpus is not None and "cpu" in (self.device, named and named.device):
            raise LtsRayError(f"num_gpus={self.num_gpus:g} is of replicas on a GPU, and these run on the CPU")
        self.served_precisions(config, frontier, target)
        itemsize = self.cache_itemsize(target)
        blocks_that_fit(config, rows=self.capacity(target).slots, budget_mb=self.kv_cache_mb, itemsize=itemsize)

    def served_precisions(
        self, config: DecoderConfig, frontier: Frontier | None = None, target: Target | None = None
    ) -> tuple[str, ...]:
        """The most precise first. Raises LtsRayError for one that the model, or the target, does not run."""
        plain = target is None or (target.device, target.dtype) == ("cpu", STORED)
        can = config.precisions if plain else (STORED,)
        if self.precisions:
            if unknown := [each for each in self.precisions if each not in can]:
                if target is not None and not plain:
                    what = f"{target.name} runs the model in {target.dtype} on {target.device} alone"
                else:
                    what = f"the model runs in {', '.join(can)}"
                raise LtsRayError(f"precisions asks for {', '.join(unknown)}, and {what}")
            wanted = self.precisions
        elif frontier is not None:
            wanted = tuple(point.submodel.precision or STORED for point in frontier.points)
        else:
            by_kernels = isinstance(config, MatFormerConfig) and not config.heads and kernel_library() is not None
            wanted = DEFAULT_PRECISIONS if by_kernels else ()
        return tuple(each for each in can if each in wanted) or (STORED if STORED in can else can[0],)

    def node_kinds(self) -> tuple[NodeKind, ...]:
        """Of a fleet; none where all replicas are alike. Raises LtsRayError for what names none, or says two things."""
        if not self.kinds and self.fleet is None:
            return ()
        given = {
            "kinds": bool(self.kinds),
            "fleet": self.fleet is not None,
            "target": self.target is not None,
            "num_replicas": self.num_replicas != 1,
            "device": self.device != "auto",
            "autoscaling_config": self.autoscaling_config is not None,
        }
        if len(both := [name for name, is_given in given.items() if is_given]) > 1:
            raise LtsRayError(
                f"{' and '.join(both)} say two things: a fleet.yaml (fleet=FILE) has each kind's target and replicas"
            )
        return named_kinds(self.kinds) if self.fleet is None else load_kinds(self.fleet)

    def of_kind(self, kind: NodeKind) -> ServeArgs:
        """For the replicas of this kind, as if there were no other."""
        fixed, slots = kind.min_replicas == kind.most, self.slots_of(kind)
        bounds = {"min_replicas": kind.min_replicas, "max_replicas": kind.most, "target_ongoing_requests": slots}
        return replace(
            self,
            kinds=(),
            fleet=None,
            target=kind.target_name,
            threads=kind.threads or self.threads,
            num_gpus=kind.num_gpus or self.num_gpus,
            num_replicas=kind.most if fixed else None,
            autoscaling_config=None if fixed else bounds,
        )

    def warnings(self) -> list[str]:
        """What `serve run` should say of what it serves all the same."""
        config, losses = read_universal(self.model)
        known, frontier = vouched(config, losses), self.read_frontier()
        if frontier is None:
            menu = menu_of_granularities(config, losses, vouched=known)
        else:
            menu = menu_of_frontier(
                config, frontier, self.target, vouched=known, precisions=self.served_precisions(config, frontier)
            )
        untrained = ", ".join(name for name in menu.named if name in menu.untrained and "@" not in name)
        line = (
            f"{untrained} of {self.model} were never trained, nor their losses measured: "
            "no budget chooses them; `lts-ray elasticize` trains a checkpoint's submodels"
        )
        return [line] if menu.untrained else []

    def read_keys(self) -> Keys | None:
        return None if self.keys is None else Keys.read(self.keys)

    def slots_of(self, kind: NodeKind) -> int:
        """Requests that run together on a replica of this kind."""
        frontier = self.read_frontier()
        return self.capacity(None if frontier is None else frontier.targets.get(kind.target_name)).slots

    def capacity(self, target: Target | None) -> Capacity:
        """Of a replica. target: of `on_device`."""
        device = "cpu" if target is None else target.device
        return Capacity.on(device, slots=self.max_batch_size, chunk_tokens=self.chunk_tokens, max_queue=self.max_queue)

    @property
    def limits(self) -> RequestLimits:
        return RequestLimits(
            max_n=self.max_n, max_prompt_tokens=self.max_prompt_tokens, body_timeout_s=self.body_timeout_s
        )

    def read_frontier(self) -> Frontier | None:
        return None if self.frontier is None else read_frontier(self.frontier)
