"""How much an in-window warp could gain on this imagery: the oracle, which sees the labels.

Intrinsic mIoU (labels sampled, mapped back by interpolated scores, compared with themselves) of
uniform sampling and of the density that the true borders ask for, on training tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from geodeform.deform.density import edge_target, mix_uniform, normalise
from geodeform.deform.grid import GridKernel, density_to_grid, uniform_grid
from geodeform.deform.reverse import reverse_scores
from geodeform.deform.sample import sample_labels
from geodeform.evaluation.metrics import Confusion
from geodeform.training.datasets.dubai import DubaiScenes

pytestmark = pytest.mark.benchmark

N_CLASSES = len(DubaiScenes.classes)


def back(labels: torch.Tensor, grid: torch.Tensor) -> np.ndarray:
    """Sample (1, H, W) labels by the grid and map them back to every pixel."""
    sampled = sample_labels(labels, grid)[0].numpy()
    one_hot = np.stack([sampled == k for k in range(N_CLASSES)]).astype(np.float32)
    size = (int(labels.shape[1]), int(labels.shape[2]))
    return reverse_scores(grid[0].numpy(), one_hot, size)[0]


def test_oracle_gain(shared_data: Path, report: Callable[[str], None]) -> None:
    logging.getLogger("geodeform").setLevel(logging.ERROR)
    dataset = DubaiScenes(shared_data / "dubai")
    windows = []
    for tile in ("1", "5", "8"):
        scene = torch.from_numpy(dataset.load(tile).labels.astype(np.int64))
        height, width = scene.shape
        windows += [
            scene[None, y : y + 1024, x : x + 1024]
            for y in range(0, height - 1023, 1400)
            for x in range(0, width - 1023, 1400)
        ]
    report(f"\nintrinsic mIoU of {len(windows)} windows of 1024² (tiles 1, 5, 8)")
    edges = [edge_target(sample_labels(w, uniform_grid(1, (64, 64))), N_CLASSES) for w in windows]
    for side in (64, 128):
        plain = Confusion(N_CLASSES)
        for labels in windows:
            plain.add(labels[0].numpy(), back(labels, uniform_grid(1, (side, side))))
        report(f"  {side}² samples, uniform                       {100 * plain.miou():5.2f}")
        for sigma in (4.0, 6.0, 8.0):
            for share in (0.5, 0.75, 0.9):
                oracle = Confusion(N_CLASSES)
                for labels, edge in zip(windows, edges, strict=True):
                    density = mix_uniform(normalise(edge), 1 - share)
                    grid = density_to_grid(density, (side, side), GridKernel(sigma))
                    oracle.add(labels[0].numpy(), back(labels, grid))
                report(
                    f"  {side}² samples, oracle, sigma {sigma:g}, share {share:4.2f}   "
                    f"{100 * oracle.miou():5.2f}"
                )
        assert plain.miou() > 0.5
