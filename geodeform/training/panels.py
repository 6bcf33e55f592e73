"""Pictures of held-out windows: what the model sees, where it looks, and what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geodeform.classes import ClassScheme
from geodeform.plot.layers import DENSITY_COLOURS, class_handles, class_picture

_SIDE = 3.2  # inches of a picture
_PIXELS = 640  # of a picture's longer side
_POINTS = 4000  # sampling points drawn, about: every second or third row and column of many


@dataclass(frozen=True)
class Panel:
    """One held-out window.

    Attributes:
        image: (H, W, 3) for display, uint8.
        points: (h, w, 2) where it is sampled, pixels (x, y).
        density: (hd, wd) sampling density.
        target: (hd, wd) what the edge loss pulls the density to.
        predicted: (H, W) class ids.
        labels: (H, W) class ids, 255 unknown.
        accuracy: Share of the known pixels that are right.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    density: NDArray[np.float32]
    target: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    accuracy: float


def draw_panels(path: Path, panels: Sequence[Panel], scheme: ClassScheme, title: str) -> None:
    """Write a PNG with a row of five pictures for each window; it appears once it is whole.

    Args:
        path: The PNG.
        panels: Windows, one or more.
        scheme: Names and colours of the classes.
        title: First line.
    """
    H, W = panels[0].labels.shape
    aspect = min(max(H / W, 0.25), 2.0)
    width = _SIDE if aspect <= 1 else _SIDE / aspect
    figure = Figure(
        figsize=(5 * width + 0.4, len(panels) * (width * aspect + 0.35) + 1.0),
        dpi=110,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 5, squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        H, W = panel.labels.shape
        extent = (0, W, H, 0)
        step = max(1, math.ceil(max(H, W) / _PIXELS))
        pictures = (
            (panel.image[::step, ::step], None),
            (panel.density, DENSITY_COLOURS),
            (panel.target, "magma"),
            (class_picture(panel.predicted[::step, ::step], scheme), None),
            (class_picture(panel.labels[::step, ::step], scheme), None),
        )
        for axis, (picture, cmap) in zip(row, pictures, strict=True):
            axis.imshow(picture, extent=extent, cmap=cmap, interpolation="nearest", aspect="auto")
            axis.set_xticks([])
            axis.set_yticks([])
        shown = thinned(panel.points).reshape(-1, 2)
        row[0].scatter(
            shown[:, 0], shown[:, 1], s=min(8.0, 6000 / len(shown)), c="#FF3030", linewidths=0
        )
        row[0].set_xlim(0, W)
        row[0].set_ylim(H, 0)
        low, high = float(panel.density.min()), float(panel.density.max())
        row[1].set_xlabel(
            f"densest place {high / max(low, 1e-12):.3g} times the sparsest", fontsize=8
        )
        row[3].set_xlabel(f"accuracy {panel.accuracy:.1%}", fontsize=8)
    names = ("Image and samples", "Density", "Edge target", "Prediction", "Labels")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=10)
    handles = class_handles(scheme, nodata="Unknown")
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(8, len(handles)), fontsize=8
    )
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png")
    partial.replace(path)


def thinned(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 2) points → those of every k-th row and column, few enough to tell apart.

    Whole rows and columns: every k-th of the points in a row would look like another grid.
    """
    step = max(1, math.ceil(math.sqrt(points.shape[0] * points.shape[1] / _POINTS)))
    return points[step // 2 :: step, step // 2 :: step]
