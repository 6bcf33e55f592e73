"""What a training tells people while it runs: how far it is, and pictures of held-out windows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from geodeform.classes import NODATA_CLASS
from geodeform.deform.coords import grid_to_pixels
from geodeform.deform.density import edge_target
from geodeform.deform.sample import downsample_labels
from geodeform.training.data import SceneData
from geodeform.training.panels import Panel, draw_panels
from geodeform.training.task import GeodeformTask
from geodeform.training.windows import Windows

_LOG = logging.getLogger(__name__)

_PANEL_WINDOWS = 3
_REPORT_EVERY_S = 0.25


@dataclass(frozen=True)
class TrainStatus:
    """How far a training is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: The last step's segmentation loss.
        windows_per_s: Windows a second of late, of all devices together.
        data_share: Part of that time spent waiting for data, 0…1.
        miou: Full-resolution mIoU of the last validation, 0…1; None before the first.
    """

    step: int
    steps: int
    loss: float
    windows_per_s: float
    data_share: float
    miou: float | None


Report = Callable[[TrainStatus], None]


class Progress(Callback):
    """Tells how far the training is, its speed, and how long it waited for data.

    Args:
        steps: All steps.
        batch_size: Windows a step, of all processes together.
        report: Is told a few times a second; where it is None, lines of the log say it.
        every_s: Seconds between those.
    """

    def __init__(
        self, steps: int, batch_size: int, *, report: Report | None = None, every_s: float = 20.0
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.report = report
        self.every_s = every_s if report is None else _REPORT_EVERY_S
        self._start = self._said = self._ended = time.perf_counter()
        self._first_step = self._said_step = 0
        self._waited = self._worked = 0.0
        self._miou: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._start = self._said = self._ended = time.perf_counter()
        self._first_step = self._said_step = trainer.global_step

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
        if step == self._said_step or (now - self._said < self.every_s and step < self.steps):
            return
        status = TrainStatus(
            step=step,
            steps=self.steps,
            loss=float(trainer.callback_metrics["train_segmentation"]),
            windows_per_s=(step - self._said_step)
            * self.batch_size
            / (self._waited + self._worked),
            data_share=self._waited / (self._waited + self._worked),
            miou=self._miou,
        )
        left = (self.steps - step) * (now - self._start) / max(1, step - self._first_step)
        if self.report is not None:
            self.report(status)
        if self.report is None or step == self.steps:
            _LOG.info(
                "step %d/%d: segmentation loss %.3f, %.1f windows/s, %.0f %% of it data, %s left",
                step,
                self.steps,
                status.loss,
                status.windows_per_s,
                100 * status.data_share,
                f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s",
            )
        self._said, self._said_step = now, step
        self._waited = self._worked = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the figure, and do not count validation as waiting for data."""
        self._ended = time.perf_counter()
        if trainer.state.fn == TrainerFn.FITTING:
            self._miou = float(trainer.callback_metrics["val_miou"])
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


class Panels(Callback):
    """Draws held-out windows every now and then.

    Args:
        data: Gives the windows.
        folder: Where the pictures go.
        every: Steps between them.
    """

    def __init__(self, data: SceneData, folder: Path, every: int) -> None:
        self.data = data
        self.folder = folder
        self.every = every
        self._drawn = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the step that a resumed run begins after: it was drawn before."""
        self._drawn = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draw at every ``every``-th step, in the first process."""
        step = trainer.global_step
        if step % self.every or step == self._drawn or not trainer.is_global_zero:
            return
        self._drawn = step
        assert isinstance(pl_module, GeodeformTask)
        windows = self.data.val_windows(_PANEL_WINDOWS, repeated=True)
        was_training = pl_module.network.training
        with torch.no_grad():
            panels = [self._panel(pl_module, windows[i]) for i in range(len(windows))]
        pl_module.network.train(was_training)
        epoch = step / self.data.steps_per_epoch
        draw_panels(
            self.folder / f"step_{step:07d}.png",
            panels,
            pl_module.spec.classes,
            f"{self.data.config.data.dataset}, {self.data.config.model.sampler} sampling, step "
            f"{step:,} (epoch {epoch:.3g})",
        )

    def _panel(self, task: GeodeformTask, window: Windows) -> Panel:
        shown = window["image"][0].numpy()
        moved: Windows = task.transfer_batch_to_device(window, task.device, 0)
        view = task.predict_window(moved, task.samplers[0])
        labels = window["labels"]
        weights = task.loss.edge_class_weights
        target = edge_target(
            downsample_labels(labels, window["low_res"]),
            len(task.spec.classes),
            blur_sigma=self.data.config.loss.edge_blur,
            class_weights=None if weights is None else weights.cpu(),
        )
        full = labels[0].numpy()
        known = full != NODATA_CLASS
        grid = view.prediction.grid[0].float().cpu().numpy()
        return Panel(
            image=np.stack([shown[min(k, len(shown) - 1)] for k in range(3)], -1),
            points=grid_to_pixels(grid, (full.shape[0], full.shape[1])),
            density=view.prediction.density[0, 0].float().cpu().numpy(),
            target=target[0, 0].numpy(),
            predicted=view.full,
            labels=full,
            accuracy=float((view.full == full)[known].mean()) if known.any() else float("nan"),
        )
