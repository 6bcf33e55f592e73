"""``geodeform train``: parse, one call of :func:`geodeform.training.train.train`, print."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click

from geodeform.cli.console import Reporter, shown_log
from geodeform.cli.options import (
    SizeType,
    device_option,
    overwrite_option,
    settings_option,
    verbosity_options,
)
from geodeform.errors import GeodeformError

_SAMPLERS = {"learned": "joint", "edge-learned": "edge_learned"}
_CHOICES = (
    "learned",
    "joint",
    "single",
    "uniform",
    "edge",
    "edge-learned",
    "interpolation",
    "fixed",
)


@click.command(
    "train",
    short_help="Train a model on labelled scenes or images.",
    epilog="Example: geodeform train --dataset dubai --root ../shared/data/dubai",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="Dataset, see geodeform datasets; its own recipe where no --config is given. "
    "[default: dubai]",
)
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's folder.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML recipe, such as configs/deepglobe/joint_100.yaml; what is given below overrides it.",
)
@settings_option("Any setting of the recipe, such as optim.lr=3e-4; may be repeated.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The run's folder. [default: runs/DATASET]"
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
    help="lite0, hrnet_w18, hrnet_w48, pspnet_resnet50 or smp:ARCH:ENCODER.",
)
@click.option(
    "--pretrained",
    metavar="auto|none|PATH",
    help="Encoder weights; auto takes those of an installed package.",
)
@click.option(
    "--sampler",
    type=click.Choice(_CHOICES),
    help="learned (= joint: with the edge loss), single (without it), uniform, edge (simulated "
    "from labels, an oracle), edge-learned, interpolation (a learned resizer), or fixed (one "
    "density for every window, measured on the training labels).",
)
@click.option("--gamma", type=float, help="Weight of the edge loss.")
@click.option(
    "--window",
    type=SizeType(optional=True),
    metavar="SIZE",
    help="Window in scene pixels: 1024, 512x1024, or whole images: null.",
)
@click.option(
    "--sizes",
    type=SizeType(several=True),
    metavar="SIZES",
    help="Sizes of the sampled image, drawn for each step: 64,96,128 or 40x400.",
)
@click.option("--low-res", type=SizeType(), metavar="SIZE", help="Size of the low-resolution view.")
@click.option("--sigma", type=float, help="Width of the grid's kernel in density pixels.")
@click.option("--val-items", metavar="NAMES", help="Items held out, such as Dubai's tiles: 7,8.")
@click.option("--steps", type=int, help="Optimiser steps; 0 for --epochs.")
@click.option("--epochs", type=float, help="Passes over the data, instead of --steps.")
@click.option("--batch-size", type=int, help="Windows a step, over all devices.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--seed", type=int, help="Of weights and windows.")
@click.option("--workers", type=int, help="Processes that prepare batches.")
@click.option("--devices", type=int, help="GPUs (or processes on a CPU) of each node: DDP.")
@click.option("--nodes", type=int, help="Machines that train together, started by torchrun.")
@click.option("--strategy", type=click.Choice(["auto", "ddp"]), help="How devices work together.")
@device_option
@overwrite_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config_path: Path | None,
    settings: tuple[tuple[str, Any], ...],
    resume: Path | None,
    overwrite: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a model on labelled scenes or images and write its file.

    The run's folder gets the resolved recipe, the split, checkpoints, logs and model.safetensors,
    which ``geodeform segment --model`` uses at once. Without --config, --dataset takes its own
    recipe: the packaged model's for Dubai (about half an hour on a CPU), the paper's for DeepGlobe,
    Cityscapes and PCa-Histo.
    """
    if resume is not None and (config_path is not None or overwrite):
        raise click.UsageError("--resume takes the run's own recipe: no --config, no --overwrite.")
    if ctx.get_parameter_source("device") is click.core.ParameterSource.DEFAULT:
        del options["device"]  # only what was given overrides a recipe
    reporter = Reporter(quiet=quiet, verbose=verbose)
    from geodeform.config import TrainConfig

    overrides = _with_epochs({**_overrides(options), **dict(settings)})
    if resume is None:
        if config_path is None:
            base = TrainConfig.for_dataset(overrides.get("data.dataset", "dubai"))
        else:
            base = TrainConfig.from_yaml(config_path)
        config = base.merged(overrides)
        if config.data.root is None:
            raise click.UsageError("Give the dataset's folder with --root.")
    # DDP advises against an option that some recipes need, in every process; what is shown of
    # torch's C++ is decided when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        from geodeform.training.train import load_run, train
        from geodeform.training.trainer import is_first_process
    except ModuleNotFoundError as error:
        raise GeodeformError(
            f"Training needs '{error.name}': pip install 'geodeform[train]'."
        ) from error
    quiet = quiet or not is_first_process()  # of several processes one speaks
    with shown_log(quiet=quiet, verbose=verbose, usual=logging.INFO), reporter.training() as report:
        if resume is not None:
            config = load_run(resume, overrides)
        result = train(config, resume=resume is not None, overwrite=overwrite, report=report)
    if not result.first:
        return
    if not quiet:
        click.echo(f"Trained in {result.seconds / 60:.1f} min: {result.model}")
    sampler = "" if result.sampler == result.default_sampler else f" --sampler {result.sampler}"
    click.echo(f"geodeform segment --model {result.model}{sampler} SCENE")


_KEYS = {
    "dataset": "data.dataset",
    "root": "data.root",
    "window": "data.window",
    "val_items": "data.val_items",
    "workers": "data.workers",
    "segmenter": "model.segmenter",
    "pretrained": "model.pretrained",
    "sampler": "model.sampler",
    "sizes": "model.sizes",
    "low_res": "model.low_res",
    "sigma": "model.sigma",
    "gamma": "loss.gamma",
    "steps": "optim.steps",
    "epochs": "optim.epochs",
    "batch_size": "optim.batch_size",
    "lr": "optim.lr",
    "out": "run.out",
    "seed": "run.seed",
    "device": "run.device",
    "devices": "run.devices",
    "nodes": "run.nodes",
    "strategy": "run.strategy",
}


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """What was given, by the recipe's names and in its forms."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, Path):
            value = str(value)
        elif name == "sampler":
            value = _SAMPLERS.get(value, value)
        elif name == "val_items":
            value = [word.strip() for word in value.split(",")]
        elif value == "null":
            value = None
        given[_KEYS[name]] = value
    return given


def _with_epochs(overrides: dict[str, Any]) -> dict[str, Any]:
    """Epochs that were asked for are not outvoted by a recipe's steps."""
    return {"optim.steps": 0, **overrides} if "optim.epochs" in overrides else overrides
