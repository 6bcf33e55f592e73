"""Lightning's Trainer as a recipe wants it: devices, precision, checkpoints, loggers."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from geodeform.config import TrainConfig
from geodeform.errors import ConfigError
from geodeform.training.callbacks import Panels, Progress, Report
from geodeform.training.data import SceneData
from geodeform.training.sync import BatchNormSync
from geodeform.training.task import GeodeformTask


def is_first_process() -> bool:
    """Whether this process is the one that writes: rank 0, by the launcher's variables."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def check_devices(config: TrainConfig, device: torch.device) -> None:
    """Check that the devices that a recipe asks for are there.

    Raises:
        ConfigError: If they are not.
    """
    if device.type == "cuda" and config.run.devices > torch.cuda.device_count():
        raise ConfigError(
            f"Setting 'run.devices' asks for {config.run.devices} GPUs, "
            f"{torch.cuda.device_count()} are there."
        )


_PRECISIONS: dict[str, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "32": "32-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
}


def _precision(setting: str, device: torch.device) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    if setting != "auto":
        return _PRECISIONS[setting]
    if device.type == "cpu":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _strategy(config: TrainConfig) -> str | DDPStrategy:
    if config.run.processes == 1 and config.run.strategy == "auto":
        return "auto"
    # A uniformly sampled step leaves the density net without a gradient, and of smp's networks
    # some leave a part of their encoder unused.
    some_unused = config.model.uniform_part > 0 or config.model.segmenter.startswith("smp:")
    # BatchNorm's statistics are those of all processes already; broadcasting them at every forward
    # pass would hang where processes validate different numbers of windows.
    # (torch 2.15 gave that switch a new name.)
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {"find_unused_parameters": some_unused, switch: False}
    return DDPStrategy(**options)


class LastState(ModelCheckpoint):
    """Saves the state to resume from, every few steps.

    At a step that is validated it does so after the validation: saved before, the state would not
    know its figure, and a resumed run would forget that step's weights as the best ones and stop
    early at another step than an uninterrupted one.

    Args:
        folder: Where ``last.ckpt`` goes.
        every: Steps between saves.
        val_every: Steps between validations.
    """

    def __init__(self, folder: Path, every: int, val_every: int) -> None:
        super().__init__(folder, "last", every_n_train_steps=every, enable_version_counter=False)
        self.val_every = val_every

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save, unless a validation follows."""
        if trainer.global_step % self.val_every:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was put off."""
        super().on_train_batch_end(trainer, pl_module, None, None, 0)


class Training(NamedTuple):
    """A trainer and those of its callbacks that are asked afterwards."""

    trainer: Trainer
    best: ModelCheckpoint
    early: EarlyStopping | None


def make_trainer(
    config: TrainConfig, device: torch.device, data: SceneData, report: Report | None
) -> Training:
    """Build the trainer of a run."""
    optim, run = config.optim, Path(config.run.out)
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
    val_every = min(config.run.val_every, optim.steps)
    last = LastState(folder, min(config.run.checkpoint_every, optim.steps), val_every)
    callbacks: list[Callback] = [best, last]
    early = None
    if optim.patience > 0:
        early = EarlyStopping(
            GeodeformTask.monitor, mode=GeodeformTask.mode, patience=optim.patience
        )
        callbacks.append(early)
    if config.run.panel_every > 0:
        every = max(1, round(config.run.panel_every * data.steps_per_epoch))
        callbacks.append(Panels(data, run / "panels", every))
    callbacks.append(Progress(optim.steps, optim.batch_size, report=report))
    devices: Any = config.run.devices
    if device.type == "cuda" and devices == 1:
        devices = [device.index or 0]
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=devices,
        num_nodes=config.run.nodes,
        strategy=_strategy(config),
        plugins=[BatchNormSync(device.type)] if config.run.processes > 1 else None,
        precision=_precision(optim.precision, device),
        max_steps=optim.steps,
        # One epoch is the whole training: steps, not passes over scenes, are what is counted.
        val_check_interval=val_every * optim.accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=optim.accumulate,
        gradient_clip_val=optim.clip or None,
        log_every_n_steps=min(10, optim.steps),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the windows know their process
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return Training(trainer, best, early)


def keep_freed_memory() -> None:
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
def lightning_calm() -> Iterator[None]:
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
