"""A search with all that running it takes: what is measured, and what becomes of the results. Plain data, no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

import torch

from lts_ray.measurement.subjects.subject import SubjectSource
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_results import Results
from lts_ray.spaces.search_space import Candidate


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredLoss:
    """blocks: [N, T + 1], int64: text that the validation loss is measured on."""

    config: DecoderConfig
    blocks: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob(Generic[Candidate]):
    """payload: what the source needs and is too large for it, e.g. weights. loss: None where it is computed.

    actor_class: what measures; None is the usual one, which measures for real.
    """

    plan: SearchPlan[Candidate]
    source: SubjectSource[Candidate]
    results: Results[Candidate]
    payload: Mapping[str, Any] | None = None
    loss: MeasuredLoss | None = None
    actor_class: type | None = None
