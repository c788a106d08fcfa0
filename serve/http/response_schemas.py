"""The answers of the wire: OpenAI's types, where they fit, and our field `lts`.

Whole answers and errors are made of them; a stream's chunks are put together as text (see answers.py), in these shapes.
"""

from __future__ import annotations

from typing import Literal

from openai.types import Completion, CompletionUsage, Model
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel, ConfigDict

from serve.policies.budget import Kind

MillisecondsByKind = dict[Kind, float]


class OwnShape(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Report(OwnShape):
    """Which submodels wrote a response, what was predicted of it, and whether its budget was met."""

    submodel: str | None
    """Chosen when the request was admitted."""
    tokens: dict[str, int]
    """By the submodel that wrote them."""
    predicted_ms: MillisecondsByKind | None
    """When it was admitted, counted from the request's arrival: what the policy's plan comes to with all that run and
    wait, for a response that makes all the tokens that it may."""
    predicted_interval_ms: dict[Kind, tuple[float, float]] | None
    """Between which bounds that will be, nine times in ten."""
    measured_ms: MillisecondsByKind | None
    """From the request's arrival, at the proxy where it says when that was, to the engine's tokens."""
    time_ms: dict[Literal["queue", "engine", "delivery"], float] | None
    """Where the time of the whole response went: until its first step began, to its last token, and from there to the
    bytes in the server's hands. The last is what it takes as a rule: these are among the bytes."""
    budget_ms: MillisecondsByKind | None
    """Only the kinds that the request has a limit for; null without any."""
    budget_met: bool | None
    """By what was measured and the delivery. Null without a budget, or before anything came."""
    untrained: bool = False
    """True only where a submodel has written that nothing vouches for: it was never trained, nor its loss measured."""
    kind: str | None = None
    """Of node, on which it ended. This and what follows are there only where a fleet serves."""
    replica: str | None = None
    """On which it ended."""
    migrations: int = 0
    """How often another replica has gone on with it, because the one before was lost or had to leave."""


class ReportPerChoice(OwnShape):
    """In place of one report, where a request has several choices."""

    choices: list[Report]


class ChunkTrace(OwnShape):
    """Which submodel wrote a chunk of a stream; only with the header `x-lts-trace`."""

    submodel: str
    tokens: int
    at_ms: float
    """When the last of them came, counted from the request's arrival."""


class CompletionResponse(Completion):
    usage: CompletionUsage
    lts: Report | ReportPerChoice


class ChatResponse(ChatCompletion):
    usage: CompletionUsage
    lts: Report | ReportPerChoice


class Chunk(OwnShape):
    id: str
    created: int
    model: str
    usage: CompletionUsage | None = None
    """In the chunk after the last choice's, if it was asked for; before it null, or the choice's own so far."""
    lts: Report | ReportPerChoice | ChunkTrace | None = None
    """A report in the stream's last chunk; in others a trace, if it was asked for."""


class CompletionChunkChoice(OwnShape):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(Chunk):
    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]


class ChatDelta(OwnShape):
    """A choice's first chunk has its role and no text, its last has nothing."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    refusal: None = None


class ChatChunkChoice(OwnShape):
    index: int
    delta: ChatDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatChunk(Chunk):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]


class ServedSubmodel(OwnShape):
    """The submodel that a model's name stands for; the universal model for the name alone."""

    submodel: str
    widths: list[int]
    heads: list[int] | None = None
    """Of each layer; absent where it has all."""
    d_model: int | None = None
    """Absent where it has all."""
    precision: str | None = None
    """Of its matrices: bfloat16, int8 or int4. Absent where they are as the model is stored."""
    decoder_params: int
    loss: float | None
    """Of validation text, in nats a token; null where none was measured."""
    untrained: bool = False
    """True only of a submodel that nothing vouches for: no budget chooses it."""


class ServedModel(Model):
    lts: ServedSubmodel


class ModelList(OwnShape):
    object: Literal["list"]
    data: list[ServedModel]


class Health(OwnShape):
    status: Literal["ok"]
    running: int
    waiting: int


class ErrorDetails(OwnShape):
    message: str
    type: str
    param: str | None
    """The field or header that is wrong."""
    code: str | None
    smallest_feasible_budget_ms: MillisecondsByKind | None = None
    """Only where a strict budget was refused."""


class ErrorResponse(OwnShape):
    error: ErrorDetails
