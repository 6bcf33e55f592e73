"""Views: parts of rasters as small arrays that know where they lie, and axes in map coordinates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyproj
import rasterio
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from geodeform.errors import GeodeformError, SceneError
from geodeform.geo.affine import apply, compose, frame_of
from geodeform.geo.resample import Resampling
from geodeform.geo.scene import Scaling, Scene
from geodeform.planning import plan_region
from geodeform.plot.layers import NODATA_GREY
from geodeform.result import SegmentationResult

if TYPE_CHECKING:
    from geodeform.sampling import DensityMap

Raster: TypeAlias = str | Path | xr.DataArray
"""A file, or a DataArray that rioxarray knows."""

Mapped: TypeAlias = Raster | SegmentationResult
"""A raster, or the result that holds it."""

SIDE = 2000
"""Pixels of the longer side of a view: what a picture of a page's width shows."""

_RGB = ("red", "green", "blue")
_UNITS = {"metre": "m", "foot": "ft", "US survey foot": "US survey ft", "degree": "°"}


@dataclass(frozen=True)
class View:
    """A part of a raster, decimated.

    Attributes:
        values: (n_bands, h, w) float32.
        valid: (h, w) bool, where there is data.
        frame: From cells of the view (x, y), corners at whole numbers, to map coordinates.
        crs: CRS of the map coordinates; None where they are pixels.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    frame: Affine
    crs: CRS | None

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""
        height, width = self.valid.shape
        return height, width

    def filled(self, value: float) -> NDArray[np.float32]:
        """(h, w) of the first band, ``value`` where there is no data."""
        return np.where(self.valid, self.values[0], np.float32(value))


def read_view(
    scene: Scene,
    *,
    bbox: Sequence[float] | None = None,
    side: int = SIDE,
    resampling: Resampling = "average",
) -> View:
    """Read a scene, or the part of it in ``bbox`` (its CRS), with at most ``side`` pixels a side.

    Raises:
        SceneError: If the bounding box lies outside the scene, or it cannot be read.
    """
    frame, crs = frame_of(scene)
    window = plan_region(Path(scene.name).name, scene.shape, frame, bbox, None)
    scale = min(1.0, side / max(window.height, window.width))
    shape = (max(1, round(window.height * scale)), max(1, round(window.width * scale)))
    values, valid = scene.read(window, shape, resampling)
    corner = compose(frame, Affine.translation(window.col_off, window.row_off))
    cell = Affine.scale(window.width / shape[1], window.height / shape[0])
    return View(values, valid, compose(corner, cell), crs)


def layer_of(source: Mapped | DensityMap, kind: str) -> Raster:
    """The raster of a result by its kind, its file where there is one: that has overviews.

    Raises:
        GeodeformError: If the result lacks it.
    """
    if isinstance(source, str | Path | xr.DataArray):
        return source
    layer: Raster | None = source.paths.get(kind, getattr(source, kind, None))
    if layer is None:
        raise GeodeformError(
            f"The run wrote files without its {kind}: give segment_scene {kind}=FILE too, or no "
            "output at all, to have it in memory."
        )
    return layer


def read_layer(
    source: Mapped | DensityMap,
    kind: str,
    *,
    bbox: Sequence[float] | None = None,
    side: int = SIDE,
) -> View:
    """Read a view of one of geodeform's rasters: ``labels``, ``confidence`` or ``density``.

    Class ids are never averaged. A file's scale is applied: confidences are 0…1.

    Raises:
        GeodeformError: If the result lacks the raster, or it cannot be read.
    """
    layer = layer_of(source, kind)
    with Scene.open(layer, bands=[1]) as opened:
        view = read_view(
            opened, bbox=bbox, side=side, resampling="nearest" if kind == "labels" else "average"
        )
    scale, offset = _stored_scale(layer)
    if (scale, offset) == (1.0, 0.0):
        return view
    return replace(view, values=view.values * np.float32(scale) + np.float32(offset))


def read_picture(
    source: Raster,
    *,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    stretch: str | tuple[float, float] = "auto",
    bbox: Sequence[float] | None = None,
    side: int = SIDE,
) -> tuple[NDArray[np.uint8], View]:
    """Read a scene as (h, w, 3) RGB for display, stretched as the model's input is.

    Raises:
        ConfigError: If ``stretch`` is none that :meth:`Scaling.for_scene` knows.
        SceneError: If the scene cannot be read.
    """
    with _open_colours(source, bands, nodata) as opened:
        view = read_view(opened, bbox=bbox, side=side)
        scaled = Scaling.for_scene(opened, 255.0, stretch).apply(view.values)
    return to_rgb(scaled, view.valid), view


def to_rgb(
    scaled: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Turn (n_bands, h, w) values of 0…1 into (h, w, 3) RGB of the first three bands.

    Fewer bands are repeated; no data is grey.
    """
    picture = np.stack([scaled[min(k, len(scaled) - 1)] for k in range(3)], -1) * 255
    if valid is not None:
        picture[~valid] = NODATA_GREY
    return picture.round().astype(np.uint8)


def draw(
    ax: Axes,
    picture: NDArray[Any],
    frame: Affine,
    crs: CRS | None,
    **style: Any,
) -> AxesImage:
    """Draw cells at their place on the map; the first picture on the axes sets limits and labels.

    Args:
        ax: Where to draw.
        picture: (h, w) or (h, w, 3 or 4).
        frame: From cells to map coordinates; rotated ones are drawn rotated.
        crs: Of the map coordinates.
        **style: For ``Axes.imshow``.
    """
    height, width = picture.shape[:2]
    first = not ax.has_data()
    limits = ax.get_xlim(), ax.get_ylim()
    a, b, c, d, e, f = frame[:6]
    place = Affine2D(np.array([[a, b, c], [d, e, f], [0, 0, 1]]))
    image = ax.imshow(
        picture,
        extent=(0, width, height, 0),
        transform=place + ax.transData,
        aspect="auto" if first else ax.get_aspect(),
        **style,
    )
    if first:
        corners = [apply(frame, *p) for p in ((0, 0), (width, 0), (width, height), (0, height))]
        xs, ys = zip(*corners, strict=True)
        limits = (min(xs), max(xs)), (min(ys), max(ys))
        if crs is None and e > 0:  # rows of pixels run down
            limits = limits[0], limits[1][::-1]
        label_axes(ax, crs, mean_y=(min(ys) + max(ys)) / 2)
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    return image


def label_axes(ax: Axes, crs: CRS | pyproj.CRS | None, *, mean_y: float) -> None:
    """Name the axes and their unit, a few plain numbers each, and make distances equal."""
    names, aspect = ("Column (px)", "Row (px)"), 1.0
    if crs is not None:
        known = pyproj.CRS.from_wkt(crs.to_wkt())
        unit = known.axis_info[0].unit_name if known.axis_info else "unit"
        unit = _UNITS.get(unit, unit)
        names = (f"Easting ({unit})", f"Northing ({unit})")
        if known.is_geographic:
            names = (f"Longitude ({unit})", f"Latitude ({unit})")
            aspect = 1 / max(math.cos(math.radians(mean_y)), 0.01)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.set_aspect(aspect)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))
        # whole coordinates: "+3.167e5" in a corner is no easting
        plain = ScalarFormatter(useOffset=False)
        plain.set_scientific(False)
        axis.set_major_formatter(plain)
    for text in ax.get_yticklabels():
        text.set_verticalalignment("center")
    ax.tick_params(axis="y", labelrotation=90)  # northings have seven digits


def _open_colours(source: Raster, bands: Sequence[int] | None, nodata: float | None) -> Scene:
    """Open a scene's red, green and blue, or its first band where it has fewer than three."""
    try:
        return Scene.open(source, bands=bands, want=_RGB, nodata=nodata)
    except SceneError:
        if bands is not None:
            raise
        # a file that cannot be read at all says so here again
        return Scene.open(source, bands=[1], nodata=nodata)


def _stored_scale(layer: Raster) -> tuple[float, float]:
    """Scale and offset of a file's first band; values in memory have theirs applied."""
    if not isinstance(layer, str | Path):
        return 1.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(layer) as dataset:
            return float(dataset.scales[0]), float(dataset.offsets[0])
