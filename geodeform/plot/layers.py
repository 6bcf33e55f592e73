"""What every picture of geodeform shares: colours, legends, and the scale of densities.

Plain arrays in, matplotlib's pieces out; nothing here knows a file or a CRS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from geodeform.classes import NODATA_CLASS, RGB, ClassScheme, to_hex
from geodeform.geo.style import density_range
from geodeform.result import ClassArea, format_area

NODATA_GREY: RGB = (230, 230, 230)
"""Colour of pixels without data."""

DENSITY_COLOURS = "viridis"
"""matplotlib's colour map of densities: even to all eyes, and in grey."""

CONFIDENCE_COLOURS = "cividis"
"""The one of confidences: made for the colour-blind, and not to be taken for a density."""

_OUTLINE = "#808080"  # of the legend's patches: a class may be white


def class_picture(labels: NDArray[np.uint8], scheme: ClassScheme) -> NDArray[np.uint8]:
    """Return (h, w, 3) RGB for (h, w) class ids; no data (255) is grey."""
    colours = scheme.palette()
    colours[NODATA_CLASS] = NODATA_GREY
    picture: NDArray[np.uint8] = colours[labels]
    return picture


def class_handles(
    scheme: ClassScheme,
    areas: Sequence[ClassArea] | None = None,
    *,
    nodata: str | None = "No data",
) -> list[Patch]:
    """Return a legend's patches.

    Args:
        scheme: Names and colours of the classes.
        areas: Share and area of each class, in the scheme's order, for the names' side.
        nodata: What pixels without a class are called; None leaves them out.
    """
    names = scheme.names if areas is None else [_with_area(area) for area in areas]
    rows = [*zip(names, scheme.colours, strict=True)]
    if nodata is not None:
        rows.append((nodata, NODATA_GREY))
    return [
        Patch(facecolor=to_hex(colour), edgecolor=_OUTLINE, linewidth=0.5, label=name)
        for name, colour in rows
    ]


def density_norm(density: NDArray[np.floating]) -> LogNorm:
    """Return the logarithmic scale that fits densities: percentiles 1 to 99, as they have tails.

    Args:
        density: Positive values of any shape; NaN is no data.
    """
    return LogNorm(*density_range(np.asarray(density, np.float32)))


def density_ticks(norm: Normalize, count: int) -> list[float]:
    """Return ``count`` numbers for the scale, even on it, from end to end."""
    ticks = norm.inverse(np.linspace(0, 1, count))
    return [float(tick) for tick in np.asarray(ticks)]


def label_density_bar(bar: Colorbar) -> None:
    """Give the colour bar of a :func:`density_norm` four plain numbers and its unit."""
    axis = bar.ax.xaxis if bar.orientation == "horizontal" else bar.ax.yaxis
    axis.set_major_locator(FixedLocator(density_ticks(bar.norm, 4)))
    axis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.minorticks_off()
    bar.set_label("sampled pixels per scene pixel")


def _with_area(area: ClassArea) -> str:
    size = "" if area.area_m2 is None else f"\n{format_area(area.area_m2)}"
    return f"{area.name} {area.share:.1%}{size}"
