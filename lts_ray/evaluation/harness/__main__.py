"""lm_eval's own command line, which then knows the model `lts-ray` and the groups that ship.

    python -m lts_ray.evaluation.harness --model lts-ray --model_args model=DIR,submodel=M --tasks matformer_rank

Releases up to 0.4.13 have no hook by which `lm-eval` itself would find a model of another package. All arguments go to
it as they are; the groups' folder goes before them, so that an --include_path among them takes its place.
"""

from __future__ import annotations

import sys
from importlib import import_module

from lts_ray.ending import ending_in_one_line
from lts_ray.evaluation.harness import TASKS, check_lm_eval

VERBS = ("run", "ls", "validate")
"""lm_eval's; without one it runs."""


def with_our_tasks(arguments: list[str]) -> list[str]:
    """A verb alone, or nothing, asks for help: that is left alone."""
    if len(arguments) < 2:
        return arguments
    place = 1 if arguments[0] in VERBS else 0
    return [*arguments[:place], "--include_path", str(TASKS), *arguments[place:]]


def main() -> None:
    with ending_in_one_line("lts-ray"):
        check_lm_eval()
        from lm_eval.__main__ import cli_evaluate

        import_module("lts_ray.evaluation.harness.harness_model")  # registers it
        sys.argv[1:] = with_our_tasks(sys.argv[1:])
        cli_evaluate()


if __name__ == "__main__":
    main()
