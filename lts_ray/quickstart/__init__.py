"""The main job in two minutes: search, serve, ask. Each stage is a command that a user could type."""

from lts_ray.quickstart.stages import run_quickstart

__all__ = ["run_quickstart"]
