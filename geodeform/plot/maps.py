"""Maps for print: the scene, its land cover, the confidence, and where it was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import geopandas as gpd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import ConfigError
from geodeform.geo.legend import read_scheme
from geodeform.plot.layers import (
    CONFIDENCE_COLOURS,
    DENSITY_COLOURS,
    class_handles,
    class_picture,
    density_norm,
    label_density_bar,
)
from geodeform.plot.views import (
    Mapped,
    Raster,
    draw,
    label_axes,
    read_layer,
    read_picture,
)
from geodeform.result import SegmentationResult

if TYPE_CHECKING:
    from geodeform.sampling import DensityMap

_MOST_POINTS = 40_000  # more cannot be told apart on a page
_POINT_COLOUR = "#D55E00"  # Okabe and Ito's vermilion: on grey ground all can tell it


def new_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 6.4)) -> Axes:
    """The given axes, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # chooses a backend, which drawing on given axes need not

    _, made = plt.subplots(figsize=size, layout="constrained")
    return made


def scene(
    source: Raster,
    *,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    stretch: str | tuple[float, float] = "auto",
    bbox: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a scene in red, green and blue, with the values that the model sees.

    Args:
        source: Raster that GDAL reads, or a DataArray (band, y, x) or (y, x).
        bands: 1-based bands to show as red, green and blue; by colour interpretation if None. A
            scene of one or two bands is drawn grey.
        nodata: Value without data, where the file does not say it.
        stretch: ``"auto"``, ``"none"`` or two percentiles, see
            :meth:`geodeform.geo.scene.Scaling.for_scene`.
        bbox: (xmin, ymin, xmax, ymax) in the scene's CRS: draw only this part.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, in map coordinates (pixels where there is no CRS).

    Raises:
        GeodeformError: If the scene cannot be read, or the bounding box lies outside it.
    """
    picture, view = read_picture(source, bands=bands, nodata=nodata, stretch=stretch, bbox=bbox)
    ax = new_axes(ax)
    draw(ax, picture, view.frame, view.crs)
    ax.set_title("Scene")
    return ax


def land_cover(
    source: Mapped,
    *,
    classes: ClassScheme | None = None,
    bbox: Sequence[float] | None = None,
    legend: bool = True,
    alpha: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw a class raster in its classes' colours.

    Args:
        source: A result, a class raster's file (of geodeform or another tool), or a DataArray
            (y, x) of class ids.
        classes: Names and colours; a result and a file have their own, a DataArray needs them.
        bbox: (xmin, ymin, xmax, ymax) in the map's CRS: draw only this part. The legend's areas are
            those of the whole map all the same.
        legend: Whether a legend stands beside the map: names, and the shares and areas of a result.
        alpha: Opacity, 0…1, for drawing over a scene.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, in map coordinates (pixels where there is no CRS).

    Raises:
        ConfigError: If a DataArray comes without classes.
        GeodeformError: If the map cannot be read, or the bounding box lies outside it.
    """
    scheme = classes_of(source, classes)
    view = read_layer(source, "labels", bbox=bbox)
    ax = new_axes(ax, (8.0, 6.4))
    picture = class_picture(view.filled(NODATA_CLASS).astype(np.uint8), scheme)
    # colours are averaged where several pixels meet on one dot of the print, never class ids
    draw(ax, picture, view.frame, view.crs, alpha=alpha, interpolation_stage="rgba")
    ax.set_title("Land cover")
    if legend:
        areas = source.class_areas if isinstance(source, SegmentationResult) else None
        ax.legend(
            handles=class_handles(scheme, areas, nodata=None if view.valid.all() else "No data"),
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
        )
    return ax


def confidence(
    source: Mapped,
    *,
    bbox: Sequence[float] | None = None,
    colorbar: bool = True,
    alpha: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw how probable each pixel's class is.

    Args:
        source: A result, a confidence raster's file, or a DataArray (y, x) of 0…1.
        bbox: (xmin, ymin, xmax, ymax) in the map's CRS: draw only this part.
        colorbar: Whether a colour bar stands beside the map.
        alpha: Opacity, 0…1.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, in map coordinates (pixels where there is no CRS).

    Raises:
        GeodeformError: If the result lacks a confidence or the raster cannot be read.
    """
    view = read_layer(source, "confidence", bbox=bbox)
    ax = new_axes(ax, (7.4, 6.4))
    image = draw(
        ax,
        view.filled(np.nan),
        view.frame,
        view.crs,
        cmap=CONFIDENCE_COLOURS,
        norm=Normalize(0, 1),
        alpha=alpha,
    )
    ax.set_title("Confidence")
    if colorbar:
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
        bar.set_label("probability of the mapped class")
    return ax


def density(
    source: Mapped | DensityMap,
    *,
    bbox: Sequence[float] | None = None,
    colorbar: bool = True,
    alpha: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw how densely the scene was sampled, on a logarithmic scale.

    Args:
        source: A result, a :class:`geodeform.density_map.DensityMap`, a density raster's file, or a
            DataArray (y, x) of sampled pixels per scene pixel.
        bbox: (xmin, ymin, xmax, ymax) in the map's CRS: draw only this part.
        colorbar: Whether a colour bar stands beside the map.
        alpha: Opacity, 0…1, for drawing over a scene.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, in map coordinates (pixels where there is no CRS). Colours run from percentile 1
        to 99 of what is drawn, over a factor of at least 1.2.

    Raises:
        GeodeformError: If the result lacks a density or the raster cannot be read.
    """
    view = read_layer(source, "density", bbox=bbox)
    values = view.filled(np.nan)
    ax = new_axes(ax, (7.4, 6.4))
    image = draw(
        ax,
        values,
        view.frame,
        view.crs,
        cmap=DENSITY_COLOURS,
        norm=density_norm(values),
        alpha=alpha,
    )
    ax.set_title("Sampling density")
    if colorbar:
        label_density_bar(ax.figure.colorbar(image, ax=ax, shrink=0.8))
    return ax


def samples(
    points: gpd.GeoDataFrame | SegmentationResult | DensityMap,
    *,
    scene: Raster | None = None,
    colour: Literal["plain", "magnification"] = "plain",
    size: float | None = None,
    bbox: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the sampled points, over the scene where it is given.

    Of more than 40,000 points an even random choice is drawn, the same one each time: it shows the
    density as it is. Give ``bbox`` to see all the points of a part. Where windows overlap,
    the points of both are drawn.

    Args:
        points: Sampled points of a run (``samples=True``), or the run.
        scene: The scene, drawn pale beneath them.
        colour: ``plain``, or by ``magnification`` (sampled pixels per scene pixel, logarithmic).
        size: Points' area in square points of print, as ``Axes.scatter`` counts; by their number
            if None.
        bbox: (xmin, ymin, xmax, ymax) in the points' CRS: draw only this part.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, in map coordinates (pixels where there is no CRS).

    Raises:
        ConfigError: If ``colour`` is neither, or there is no point to draw.
        GeodeformError: If the scene cannot be read, or the run kept no points.
    """
    if colour not in ("plain", "magnification"):
        raise ConfigError(f"colour must be 'plain' or 'magnification', got '{colour}'.")
    frame = points_of(points)
    if bbox is not None:
        frame = frame.cx[bbox[0] : bbox[2], bbox[1] : bbox[3]]
    if frame.empty:
        raise ConfigError("There is no sampled point to draw: check the bounding box.")
    if len(frame) > _MOST_POINTS:
        frame = frame.sample(_MOST_POINTS, random_state=0)
    ax = new_axes(ax, (7.4, 6.4))
    if scene is not None:
        picture, view = read_picture(scene, bbox=bbox)
        pale = (255 - 0.55 * (255.0 - picture)).astype(np.uint8)
        draw(ax, pale, view.frame, view.crs)
    elif not ax.has_data():
        left, bottom, right, top = frame.total_bounds if bbox is None else bbox
        ax.set_xlim(left, right)
        # rows of pixels run down
        ax.set_ylim(*((bottom, top) if frame.crs is not None else (top, bottom)))
        label_axes(ax, frame.crs, mean_y=(bottom + top) / 2)
    limits = ax.get_xlim(), ax.get_ylim()
    area = size if size is not None else float(np.clip(25_000 / len(frame), 0.4, 12))
    values = frame["magnification"].to_numpy()
    drawn = ax.scatter(
        frame.geometry.x,
        frame.geometry.y,
        s=area,
        linewidths=0,
        rasterized=True,  # or a PDF holds every one of them
        **(
            {"c": _POINT_COLOUR}
            if colour == "plain"
            else {"c": values, "cmap": DENSITY_COLOURS, "norm": density_norm(values)}
        ),
    )
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    ax.set_title("Sampled points")
    if colour == "magnification":
        label_density_bar(ax.figure.colorbar(drawn, ax=ax, shrink=0.8))
    return ax


def points_of(source: gpd.GeoDataFrame | SegmentationResult | DensityMap) -> gpd.GeoDataFrame:
    """The sampled points of a run.

    Raises:
        ConfigError: If it kept none.
    """
    if isinstance(source, gpd.GeoDataFrame):
        return source
    if source.samples is None:
        raise ConfigError("The run kept no sampled points: run it again with samples=True.")
    return source.samples


def classes_of(source: Mapped | DensityMap, classes: ClassScheme | None) -> ClassScheme:
    """The given classes, or those that a result or a class raster's file has.

    Raises:
        ConfigError: If a DataArray comes without classes.
        SceneError: If the file cannot be read.
    """
    if classes is not None:
        return classes
    if isinstance(source, SegmentationResult):
        return source.classes
    if isinstance(source, str | Path):
        return read_scheme(source)
    raise ConfigError(
        "A DataArray does not say what its ids mean: give classes=, such as result.classes."
    )
