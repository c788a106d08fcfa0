"""`lts-ray`: its verbs, and how a problem is told."""

from __future__ import annotations

from inspect import cleandoc
from typing import Annotated

import typer

from lts_ray.cli import (
    doctor,
    elasticize,
    evaluate,
    extract,
    generate,
    measure,
    params,
    proxies,
    quantise,
    quickstart,
    replay,
    search,
    serve,
    train,
    vit,
)
from lts_ray.ending import ending_in_one_line
from lts_ray.interrupt import interruptible

app = typer.Typer(
    name="lts-ray",
    help="Train one nested Transformer, search its submodels on real hardware, and serve the right one per request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
VERBS = (  # the way in, then the order of the data's way
    quickstart.quickstart,
    train.train,
    elasticize.elasticize,
    quantise.quantise,
    search.search,
    search.report,
    serve.serve,
    serve.simulate,
    evaluate.evaluate,
    measure.measure,
    extract.extract,
    generate.generate,
    replay.replay,
    params.params,
    proxies.proxies,
    doctor.doctor,
)
for verb in VERBS:
    app.command(context_settings=serve.HANDED_OVER if verb is serve.simulate else None)(verb)
for command in (*app.registered_commands, *vit.app.registered_commands):
    assert command.callback is not None, "a verb is a function"
    paragraphs = cleandoc(command.callback.__doc__ or "").split("\n\n")
    command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)  # Typer would keep a line's end
    command.callback = interruptible(command.callback)
app.add_typer(vit.app, name="vit")


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=doctor.print_version, help="Print it; `doctor` says more."),
    ] = False,
) -> None:
    """Options without a verb."""


def main() -> None:
    """Run a verb. A problem the user can mend is one line on stderr and exit code 2."""
    with ending_in_one_line("lts-ray"):
        app()


if __name__ == "__main__":
    main()
