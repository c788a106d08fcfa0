"""`lts-ray vit`: image classifiers that nest."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from lts_ray.cli.options import SUBMODEL, DeviceName, Json, Output, Resume, TrainingDevice

app = typer.Typer(
    help="Image classifiers that nest (MatViT): train, evaluate, extract, retrieve.",
    no_args_is_help=True,
)

VitModel = Annotated[Path, typer.Option("--model", "-m", help="Checkpoint folder, of `vit train` or of transformers.")]
ImageSource = Annotated[
    str, typer.Option("--images", "-i", help="digits (of scikit-learn), or a folder of .npz files (images, labels).")
]


@app.command()
def train(
    output: Output,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML with images, model and training; default: the digits.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", "-i", help="digits, or a folder of .npz files (images, labels).")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Fine-tune this ViT, a folder of transformers' save_pretrained or of ours.")
    ] = None,
    alone: Annotated[
        str | None, typer.Option(help="Train only this granularity, as a plain model of its size: a baseline.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the configuration's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of what is drawn at random.")] = None,
    device: TrainingDevice = None,
    resume: Resume = False,
) -> None:
    """Train a ViT whose granularities nest, or make a trained one nest.

    The result is OUTPUT/model, its log OUTPUT/metrics.jsonl. A fifth of the images is held out, unless their folder has
    a test.npz.
    """
    from dataclasses import replace

    from lts_ray.errors import LtsRayError
    from lts_ray.training.run_settings import read_sections
    from lts_ray.vision.vision_run import train_vit
    from lts_ray.vision.vision_settings import VisionSettings

    settings = None
    if resume:
        if (config, images, init_from, alone, steps, seed, device) != (None,) * 7:
            raise LtsRayError("--resume goes on with the settings of the run: give only --output with it")
    else:
        settings = VisionSettings() if config is None else VisionSettings.from_json(read_sections(config))
        if images is not None:
            settings = replace(settings, images=replace(settings.images, source=images))
        if init_from is not None:
            settings = replace(settings, init_from=str(init_from))
        if steps is not None:
            settings = replace(settings, training=replace(settings.training, steps=steps))
        if seed is not None:
            settings = replace(settings, training=replace(settings.training, seed=seed))
        if device is not None:
            settings = replace(settings, training=replace(settings.training, device=device))
        if alone is not None:
            settings = settings.alone(alone)
    model = train_vit(settings, output)
    print(f"The checkpoint is in {os.path.relpath(model)}; its log is {output / 'metrics.jsonl'}")


@app.command()
def evaluate(
    model: VitModel,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", "-s", help=SUBMODEL)] = None,
    images: ImageSource = "digits",
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Say how good submodels are on the images that were held out.

    Accuracy, loss, and agreement with the universal model: the share of images for which both name the same class.
    """
    from lts_ray.console import print_rows, progress_bars
    from lts_ray.device import device_here
    from lts_ray.models.vit.vit_checkpoint import load_vit
    from lts_ray.vision.accuracy import image_quality
    from lts_ray.vision.images import check_images, read_images

    place = device_here(device, what="--device")
    vit, data = load_vit(model).model.to(place), read_images(images)
    check_images(data, vit.config)
    with progress_bars() as progress:
        names = submodel or list(vit.config.granularities)
        results = image_quality(vit, names, data.held_out.to(place), progress=partial(progress, "evaluating"))
    rows = [
        {
            "submodel": result.name,
            "widths": result.submodel.to_json(),
            "params": result.params,
            "accuracy": result.accuracy,
            "loss_nats": result.loss,
            "agreement": result.agreement,
            "images": result.images,
        }
        for result in results
    ]
    print_rows(rows, as_json=as_json)


@app.command()
def extract(
    submodel: Annotated[str, typer.Option("--submodel", "-s", help=SUBMODEL)],
    output: Output,
    model: VitModel,
) -> None:
    """Write a submodel as a checkpoint of its own, of its size."""
    from lts_ray.models.vit.vit_extract import extract_vit_checkpoint

    chosen = extract_vit_checkpoint(model, submodel, output)
    loads = (
        "plain transformers loads it" if len(set(chosen.widths)) == 1 else "its widths differ, so only lts-ray loads it"
    )
    print(f"The submodel {','.join(map(str, chosen.widths))} is in {output}; {loads}")


@app.command()
def retrieve(
    model: VitModel,
    query: Annotated[
        list[str] | None, typer.Option("--query", "-q", help=f"Encodes the queries: {SUBMODEL}; default: each in turn.")
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option("--index", help="Encodes the index, likewise; default: each in turn.")
    ] = None,
    index_model: Annotated[
        Path | None, typer.Option(help="Another checkpoint, whose submodels encode the index; default: --model.")
    ] = None,
    distance: Annotated[Literal["cosine", "l2"], typer.Option(help="How near is measured.")] = "cosine",
    images: ImageSource = "digits",
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Find the nearest image with one submodel, in an index of another.

    The index is the images to train on, the queries are those held out. The table says how often the nearest image is
    of the query's class: a row per submodel that encodes the queries, a column per one that encodes the index.
    """
    from dataclasses import asdict

    from lts_ray.console import print_rows, progress_bars
    from lts_ray.device import device_here
    from lts_ray.models.vit.vit_checkpoint import load_vit
    from lts_ray.vision.images import read_images
    from lts_ray.vision.retrieval import retrieve as run

    place = device_here(device, what="--device")
    vit, data = load_vit(model).model.to(place), read_images(images)
    storing = vit if index_model is None else load_vit(index_model).model.to(place)
    queries, indices = query or list(vit.config.granularities), index or list(storing.config.granularities)
    with progress_bars() as progress:
        retrievals = run(
            vit,
            data,
            queries=queries,
            indices=indices,
            index_model=storing,
            distance=distance,
            progress=partial(progress, "encoding"),
        )
    if as_json:
        print_rows([asdict(retrieval) for retrieval in retrievals], as_json=True)
        return
    rows = [
        {"query": name, **{f"index {cell.index}": cell.accuracy for cell in retrievals if cell.query == name}}
        for name in dict.fromkeys(queries)
    ]
    title = f"1-NN accuracy, {distance}: {len(data.held_out)} queries, an index of {len(data.train)}"
    print_rows(rows, as_json=False, title=title)
