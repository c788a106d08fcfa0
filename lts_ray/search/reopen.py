"""A search's session from its folder alone, to look at what it found: the log's header says what the search was."""

from __future__ import annotations

from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.measurement.target import Target
from lts_ray.models.checkpoint import fingerprint, read_config
from lts_ray.search.log import LOG
from lts_ray.search.plan import SearchPlan
from lts_ray.search.session import SearchSession
from lts_ray.search.settings import EvolutionSettings, SearchSettings
from lts_ray.spaces.registry import space_named


def read_session(folder: Path, *, model_dir: Path) -> SearchSession:
    """Raises LtsRayError for a folder without a search, or with the search of another model."""
    records = read_json_lines(folder / LOG, what="search log")
    if not records:
        raise LtsRayError(f"{folder} holds no search: it has no {LOG}")
    header = records[0]
    config, _ = read_config(model_dir)
    try:
        settings = dict(header["settings"])
        evolution = EvolutionSettings(**settings.pop("evolution"))
        plan = SearchPlan(
            model_fingerprint=fingerprint(model_dir),
            config=config,
            space=space_named(header["space"], config),
            targets=tuple(Target.from_json(each) for each in header["targets"]),
            settings=SearchSettings(**settings, evolution=evolution),
            validation_fingerprint=header["validation_fingerprint"],
        )
    except (KeyError, TypeError) as error:
        raise LtsRayError(f"{folder / LOG} does not begin with a search's header: {error!r}") from None
    return SearchSession(plan, folder, resume=True)
