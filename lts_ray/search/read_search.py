"""A search from its folder alone, to look at what it found: the log's header says what the search was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lts_ray.checkpoints.universal import read_universal, universal_fingerprint
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.record import read_record
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.backbone_search import BackboneResults, backbone_plan
from lts_ray.search.search_log import LOG
from lts_ray.search.search_results import Results
from lts_ray.search.search_session import SearchSession
from lts_ray.search.submodel_search import SubmodelResults, submodel_plan
from lts_ray.spaces.named_spaces import BACKBONE_SPACES
from lts_ray.target import read_target


def read_search(folder: Path, *, model_dir: Path) -> tuple[SearchSession[Any], Results[Any]]:
    """model_dir: looked at for a search of submodels only.

    Raises LtsRayError for a folder without a search, or with the search of another model.
    """
    records = read_json_lines(folder / LOG, what="search log")
    if not records:
        raise LtsRayError(f"{folder} holds no search: it has no {LOG}")
    header = records[0]
    try:
        space, subject = header["space"], header["subject"]
        settings = read_record(SearchSettings, header["settings"], what=f"{folder / LOG}: settings")
        targets = tuple(read_target(target) for target in header["targets"])
        if space in BACKBONE_SPACES:
            chosen = BACKBONE_SPACES[space]
            architectures = backbone_plan(space=chosen, subject=subject, targets=targets, settings=settings)
            return SearchSession(architectures, folder, resume=True), BackboneResults(space=chosen)
        config, _ = read_universal(model_dir)
        submodels = submodel_plan(
            config=config,
            model_fingerprint=universal_fingerprint(model_dir),
            validation_fingerprint=subject["validation_fingerprint"],
            rounding_fingerprint=subject.get("rounding_fingerprint"),
            space=space,
            targets=targets,
            settings=settings,
        )
    except (KeyError, TypeError) as error:
        raise LtsRayError(f"{folder / LOG} does not begin with a search's header: {error!r}") from None
    results = SubmodelResults(
        config=config,
        model_fingerprint=universal_fingerprint(model_dir),
        precisions=settings.precisions,
    )
    return SearchSession(submodels, folder, resume=True), results
