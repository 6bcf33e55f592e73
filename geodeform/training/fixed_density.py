"""One density for a whole dataset: the baseline that learned sampling has to beat.

The mean, over training windows drawn as training draws them, of the density that the edge loss asks
of each. It knows where in a window borders tend to lie in this dataset, and nothing of the window.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from geodeform.config import LossConfig
from geodeform.deform.coords import Size
from geodeform.deform.density import edge_target, normalise, resize_density
from geodeform.deform.sample import downsample_labels
from geodeform.training.losses import wanted_density
from geodeform.training.windows import TrainWindows, Windows

_LOG = logging.getLogger(__name__)

MEASURED_WINDOWS = 1024
"""Training windows that are looked at, at most; of whole images, each once at most."""


def measure_density(
    windows: TrainWindows,
    size: Size,
    n_classes: int,
    loss: LossConfig,
    *,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean of the densities that the edge loss asks of the first training windows.

    These are the windows that training will see, turned as it will see them, of all processes: the
    seed alone decides, and every process finds the same.

    Args:
        windows: The training windows; their labels are all that is used.
        size: (hd, wd) of the density. Windows whose view has another size are fitted to it.
        n_classes: Number of classes.
        loss: Says what the edge loss asks for: ``edge_blur`` and ``edge_share``. Where the share is
            0, which leaves the contrast open, the target itself, scaled to sum 1.
        class_weights: (C,) of the edge target; None for equal ones.

    Returns:
        (1, 1, hd, wd) float32 density, positive, sums to 1.
    """
    mean = torch.zeros(1, 1, *size, dtype=torch.float64)
    count = 0
    for labels, low_res in _labels(windows):
        target = edge_target(
            downsample_labels(labels, low_res),
            n_classes,
            blur_sigma=loss.edge_blur,
            class_weights=class_weights,
        )
        wanted = resize_density(wanted_density(target, loss.edge_share or 1.0), size)
        mean += wanted.double().sum(0, keepdim=True)
        count += len(wanted)
    _LOG.info("Fixed density: the mean of what %d training windows ask for.", count)
    return normalise(mean).float()


def _labels(windows: TrainWindows) -> Iterator[tuple[Tensor, Size]]:
    """Labels (B, H, W) of the windows to look at, and the size of their views."""
    all_of_a_step = copy.copy(windows)
    all_of_a_step.share(0, 1)
    settings = windows.settings
    left = MEASURED_WINDOWS
    if settings.window is None:
        left = min(left, len(windows.scenes))
    for item in range(math.ceil(left / settings.batch_size) * settings.accumulate):
        group: Windows
        for group in all_of_a_step[item]["groups"]:
            labels = group["labels"][:left]
            left -= len(labels)
            if len(labels):
                yield labels, group["low_res"]
