"""``geodeform train``: parse, one call of :func:`geodeform.training.train.train`, print."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from geodeform.cli.options import (
    NumbersType,
    device_option,
    overwrite_option,
    verbosity_options,
)
from geodeform.cli.report import shown_log
from geodeform.errors import GeodeformError

_SAMPLERS = {"learned": "joint", "joint": "joint", "single": "single", "uniform": "uniform"}


@click.command(
    "train",
    short_help="Train a model on labelled scenes.",
    epilog="Example: geodeform train --dataset dubai --root ../shared/data/dubai",
)
@click.option("--dataset", type=click.Choice(["dubai"]), help="Dataset. [default: dubai]")
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's folder.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML recipe, such as configs/dubai.yaml; the options below override it.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run's folder. [default: runs/dubai]"
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue the run in this folder, as if it had never stopped.",
)
@click.option(
    "--segmenter",
    metavar="NAME",
    help="lite0, hrnet_w18, hrnet_w48, pspnet_resnet50 or smp:ARCH:ENCODER. [default: lite0]",
)
@click.option(
    "--pretrained",
    metavar="auto|none|PATH",
    help="Encoder weights; auto takes those of an installed package. [default: auto]",
)
@click.option(
    "--sampler",
    type=click.Choice(list(_SAMPLERS)),
    help="learned (= joint: with the edge loss), single (without it) or uniform. [default: joint]",
)
@click.option("--gamma", type=float, help="Weight of the edge loss. [default: 10]")
@click.option("--window", type=int, help="Side of a window in scene pixels. [default: 1024]")
@click.option(
    "--sizes",
    type=NumbersType(int),
    help="Sides of the sampled image, drawn for each batch. [default: 64,96,128]",
)
@click.option("--low-res", type=int, help="Side of the low-resolution view. [default: 64]")
@click.option(
    "--sigma", type=float, help="Width of the grid's kernel in density pixels. [default: 4]"
)
@click.option("--val-tiles", type=NumbersType(int), help="Tiles held out. [default: 7]")
@click.option("--steps", type=int, help="Optimiser steps. [default: 3500]")
@click.option("--batch-size", type=int, help="Windows a step. [default: 16]")
@click.option("--lr", type=float, help="Highest learning rate. [default: 0.001]")
@click.option("--seed", type=int, help="Of weights and windows. [default: 0]")
@click.option("--workers", type=int, help="Processes that prepare batches. [default: 0]")
@device_option
@overwrite_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config_path: Path | None,
    resume: Path | None,
    overwrite: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a model on labelled scenes and write its file.

    The run's folder gets the resolved recipe, checkpoints, logs and model.safetensors, which
    ``geodeform segment --model`` uses at once. The defaults are the packaged model's recipe
    (configs/dubai.yaml): about half an hour on a CPU.
    """
    if resume is not None and (config_path is not None or overwrite):
        raise click.UsageError("--resume takes the run's own recipe: no --config, no --overwrite.")
    if ctx.get_parameter_source("device") is click.core.ParameterSource.DEFAULT:
        del options["device"]  # only what was given overrides a recipe
    overrides = {_KEYS[name]: value for name, value in options.items() if value is not None}
    with shown_log(quiet=quiet, verbose=verbose, usual=logging.INFO):
        from geodeform.config import TrainConfig

        if resume is None:
            base = TrainConfig() if config_path is None else TrainConfig.from_yaml(config_path)
            config = base.merged(_plain(overrides))
            if config.data.root is None:
                raise click.UsageError("Give the dataset's folder with --root.")
        try:
            from geodeform.training.train import load_run, train
        except ModuleNotFoundError as error:
            raise GeodeformError(
                f"Training needs '{error.name}': pip install 'geodeform[train]'."
            ) from error
        if resume is not None:
            config = load_run(resume, _plain(overrides))
        result = train(config, resume=resume is not None, overwrite=overwrite)
    if not quiet:
        click.echo(f"Trained in {result.seconds / 60:.1f} min: {result.model}")
    click.echo(f"geodeform segment --model {result.model} SCENE")


_KEYS = {
    "dataset": "data.dataset",
    "root": "data.root",
    "window": "data.window",
    "val_tiles": "data.val_tiles",
    "workers": "data.workers",
    "segmenter": "model.segmenter",
    "pretrained": "model.pretrained",
    "sampler": "model.sampler",
    "sizes": "model.sizes",
    "low_res": "model.low_res",
    "sigma": "model.sigma",
    "gamma": "loss.gamma",
    "steps": "optim.steps",
    "batch_size": "optim.batch_size",
    "lr": "optim.lr",
    "out": "run.out",
    "seed": "run.seed",
    "device": "run.device",
}


def _plain(overrides: dict[str, Any]) -> dict[str, Any]:
    """Paths as text and the sampler by its own name, as a recipe has them."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}
    if "model.sampler" in values:
        values["model.sampler"] = _SAMPLERS[values["model.sampler"]]
    return values
