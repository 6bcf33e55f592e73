"""One picture that says it all: scene, sampling density with points, map and legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from geodeform.classes import NODATA_CLASS, ClassScheme, to_hex
from geodeform.result import ClassArea, RunFacts, format_area

NODATA_GREY = (230, 230, 230)
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
    known = density[np.isfinite(density) & (density > 0)]
    low, high = np.percentile(known, (1, 99)) if known.size else (0.5, 1.0)
    # mere noise does not get the full range of colours
    low, high = float(min(low, high / 1.2)), float(max(high, low * 1.2))
    shown = axes[1].imshow(
        density,
        extent=(0, density_reach[0], density_reach[1], 0),
        aspect=shape_of,
        cmap="viridis",
        alpha=0.65,
        norm=LogNorm(low, high),
    )
    axes[1].scatter(points[:, 0], points[:, 1], s=0.5, c="white", linewidths=0, alpha=0.8)
    axes[1].set_xlim(0, W)
    axes[1].set_ylim(H, 0)
    axes[1].set_title("Sampling density and sampled points (thinned)")
    bar = figure.colorbar(
        shown, ax=list(axes[:3]), location="bottom", shrink=0.32, aspect=35, pad=0.01
    )
    bar.ax.xaxis.set_major_locator(FixedLocator(list(np.geomspace(low, high, 4))))
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.minorticks_off()
    bar.set_label("sampled pixels per scene pixel")

    colours = scheme.palette()
    colours[NODATA_CLASS] = NODATA_GREY
    axes[2].imshow(colours[labels], extent=extent, aspect=shape_of, interpolation="nearest")
    axes[2].set_title("Land cover")

    handles = [
        Patch(color=to_hex(scheme.colours[a.id]), label=_legend_line(a)) for a in class_areas
    ]
    handles.append(Patch(color=to_hex(NODATA_GREY), label="No data"))
    axes[3].legend(handles=handles, loc="center left", frameon=False, fontsize=11)
    cost = (
        f"{facts.sampled_pixels:,} of {H * W:,} pixels sampled ({facts.sampled_share:.2%}) · "
        f"{facts.windows} windows · {facts.seconds:.1f} s · {facts.device}"
    )
    figure.suptitle(f"{title}\n{cost}", fontsize=12)
    figure.savefig(path, format="png")


def _legend_line(area: ClassArea) -> str:
    size = "" if area.area_m2 is None else f"\n{format_area(area.area_m2)}"
    return f"{area.name} {area.share:.1%}{size}"
