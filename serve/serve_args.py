"""The arguments of `serve run serve.app:build`, and what can be checked of them before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

import lts_ray
from lts_ray.checkpoints.universal import read_universal, universal_fingerprint
from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, read_frontier
from lts_ray.target import Target
from lts_ray.text.tokenizer import load_tokenizer
from serve.engine.kv_budget import blocks_for
from serve.http.keys import Keys
from serve.http.request_limits import RequestLimits
from serve.user_config import LiveConfig

SHIPPED_MODEL = Path(lts_ray.__file__).parent / "pretrained" / "sotu"

Count = Annotated[int, Field(ge=1)]
MAX_QUEUE = 1024
"""Each arrival is judged by a look at all that wait, which takes time on the event loop."""


class ServeArgs(BaseModel):
    """model: a checkpoint folder with its tokenizer. frontier: what `lts-ray search` wrote for that model.

    target: the frontier's target that the replicas run on, which also places them; else each replica takes the one
    that its node's labels match, or measures its steps when it starts. anywhere: place the replicas on any node all
    the same, to try on one machine what was searched on a simulated cluster. threads: torch's, in each replica; else
    the target's, or an equal share of the node's cores but one. name: what clients call it; else the folder's.

    max_batch_size: requests that run together; max_queue: that wait beyond them. chunk_tokens: the most tokens of one
    step, pieces of prompts included. kv_cache_mb: memory for keys and values, in 1e6 bytes; None: see
    serve.engine.kv_budget.
    policy: chooses the widths (see serve.policies.named_policies); its thresholds are changed live, by user_config.
    keys: file of API keys' hashes; None: open to everybody. max_n, max_prompt_tokens: of one request.
    drain_s: how long a replica that is taken down may finish its requests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path = SHIPPED_MODEL
    frontier: Path | None = None
    target: str | None = None
    anywhere: bool = False
    threads: Count | None = None
    max_batch_size: Count = 8
    max_queue: Annotated[int, Field(ge=1, le=MAX_QUEUE)] = 64
    chunk_tokens: Count = 256
    kv_cache_mb: Annotated[float, Field(gt=0)] | None = None
    prefix_cache: bool = True
    policy: str = "deadline"
    keys: Path | None = None
    max_n: Count = 16
    max_prompt_tokens: Count | None = None
    playground: bool = True
    drain_s: Annotated[float, Field(gt=0)] = 60.0
    num_replicas: Count = 1
    name: Annotated[str, Field(min_length=1, pattern=r"^[^:\s]+$")] | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> ServeArgs:
        """Raises LtsRayError that names the first argument that is wrong."""
        try:
            args = cls.model_validate(dict(raw))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            argument = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                raise LtsRayError(f"unknown argument {argument}; known: {', '.join(cls.model_fields)}") from None
            raise LtsRayError(f"argument {argument}: {problem['msg']}; got {problem['input']!r}") from None
        # A replica has another working directory than the command that starts it.
        paths = {name: getattr(args, name) for name in ("model", "frontier", "keys")}
        return args.model_copy(update={name: path and path.absolute() for name, path in paths.items()})

    @property
    def served_name(self) -> str:
        return self.model.name.replace(":", "-") if self.name is None else self.name

    def check(self) -> Target | None:
        """Raise LtsRayError for what cannot be served. Returns the named target. The weights are not loaded."""
        if self.chunk_tokens < self.max_batch_size:
            raise LtsRayError(
                f"chunk_tokens={self.chunk_tokens} is below max_batch_size={self.max_batch_size}: a step has a token "
                "of each request that runs"
            )
        config, _ = read_universal(self.model)
        weights = self.model / "model.safetensors"
        try:
            with safe_open(weights, framework="numpy"):
                pass  # reads the header, and that the file is as long as it says
        except (OSError, SafetensorError) as error:
            raise LtsRayError(f"weights {weights} are missing or corrupt: {error}") from None
        tokenizer = load_tokenizer(self.model)
        if tokenizer.vocab_size > config.vocab_size:
            raise LtsRayError(
                f"model {self.model} has {config.vocab_size} embeddings, but its tokenizer has "
                f"{tokenizer.vocab_size} tokens: it is another model's tokenizer"
            )
        LiveConfig(policy=self.policy).build()
        blocks_for(config, rows=self.max_batch_size, budget_mb=self.kv_cache_mb)
        self.read_keys()
        frontier = self.read_frontier()
        if frontier is None:
            if self.target is not None:
                raise LtsRayError(f"target={self.target} needs frontier=FILE: the frontier says what a target is")
            return None
        frontier.check_model(universal_fingerprint(self.model), config)
        if self.target is None:
            return None
        frontier.front(self.target)  # raises for an unknown target
        return frontier.targets[self.target]

    def read_keys(self) -> Keys | None:
        return None if self.keys is None else Keys.read(self.keys)

    @property
    def limits(self) -> RequestLimits:
        return RequestLimits(max_n=self.max_n, max_prompt_tokens=self.max_prompt_tokens)

    def read_frontier(self) -> Frontier | None:
        return None if self.frontier is None else read_frontier(self.frontier)
