"""One picture that says it all: scene, sampling density with points, map and legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geodeform.classes import ClassScheme
from geodeform.plot.layers import (
    DENSITY_COLOURS,
    class_handles,
    class_picture,
    density_norm,
    label_density_bar,
)
from geodeform.plot.layers import NODATA_GREY as NODATA_GREY
from geodeform.result import ClassArea, RunFacts

_PANEL = 6.5  # inches of a panel's longer side
_LEGEND = 2.2  # inches


def draw_quicklook(
    path: Path,
    *,
    title: str,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    density: NDArray[np.float32],
    density_reach: tuple[int, int],
    points: NDArray[np.float32],
    shape: tuple[int, int],
    scheme: ClassScheme,
    class_areas: tuple[ClassArea, ...],
    facts: RunFacts,
) -> None:
    """Write a PNG with scene, density with sampling points, map and legend side by side.

    Args:
        path: The PNG to write.
        title: First line of the picture.
        image: (h, w, 3) view of the scene for display.
        labels: (h, w) class ids of the same view, 255 for no data.
        density: (hd, wd) sampled pixels per scene pixel, NaN for no data.
        density_reach: (x, y) pixels of the region that its cells cover, from the same corner.
        points: (n, 2) sampled positions (x, y) in pixels of the full region.
        shape: (H, W) of the full region, the common frame of all panels.
        scheme: Names and colours of the classes.
        class_areas: Areas for the legend.
        facts: Cost for the caption.
    """
    H, W = shape
    extent = (0, W, H, 0)
    aspect = min(max(H / W, 0.3), 2.5)
    # a strip of a few rows is drawn taller than it is, or nothing of it would be seen
    shape_of = "equal" if 0.2 <= H / W <= 5 else "auto"
    width = _PANEL / max(aspect, 1)
    figure = Figure(
        figsize=(3 * width + _LEGEND, width * aspect + 1.7), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4, gridspec_kw={"width_ratios": [width, width, width, _LEGEND]})
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(image, extent=extent, aspect=shape_of, interpolation="antialiased")
    axes[0].set_title("Scene")

    axes[1].imshow(image, extent=extent, aspect=shape_of, alpha=0.4)
    shown = axes[1].imshow(
        density,
        extent=(0, density_reach[0], density_reach[1], 0),
        aspect=shape_of,
        cmap=DENSITY_COLOURS,
        alpha=0.65,
        norm=density_norm(density),
    )
    axes[1].scatter(points[:, 0], points[:, 1], s=0.5, c="white", linewidths=0, alpha=0.8)
    axes[1].set_xlim(0, W)
    axes[1].set_ylim(H, 0)
    axes[1].set_title("Sampling density and sampled points (thinned)")
    bar = figure.colorbar(
        shown, ax=list(axes[:3]), location="bottom", shrink=0.32, aspect=35, pad=0.01
    )
    label_density_bar(bar)

    axes[2].imshow(
        class_picture(labels, scheme), extent=extent, aspect=shape_of, interpolation="nearest"
    )
    axes[2].set_title("Land cover")

    handles = class_handles(scheme, class_areas)
    axes[3].legend(handles=handles, loc="center left", frameon=False, fontsize=11)
    cost = (
        f"{facts.sampled_pixels:,} of {H * W:,} pixels sampled ({facts.sampled_share:.2%}) · "
        f"{facts.windows} windows · {facts.seconds:.1f} s · {facts.device}"
    )
    figure.suptitle(f"{title}\n{cost}", fontsize=12)
    figure.savefig(path, format="png")
