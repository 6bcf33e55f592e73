"""Labelled polygons: read, brought to an image's grid, rasterised."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely.errors import GEOSException

from geodeform.errors import DatasetError
from geodeform.geo.affine import apply_to
from geodeform.geo.project import meeting, project_near
from geodeform.geo.vector import read_shapes
from geodeform.models.spec import nearest_names
from geodeform.training.datasets.folder.classes import ClassRow, Key, Legend, means_unknown
from geodeform.training.datasets.folder.grids import Grid


@dataclass(frozen=True)
class Polygons:
    """Labelled polygons of a file, in its order.

    Attributes:
        path: The file.
        shapes: (n,) valid polygons and multipolygons.
        keys: What the label column says of each.
        crs: Their CRS.
    """

    path: Path
    shapes: NDArray[Any]
    keys: tuple[Key, ...]
    crs: pyproj.CRS


def read_polygons(path: Path, column: str) -> Polygons:
    """Read labelled polygons; rows without a geometry are left out.

    Raises:
        DatasetError: If the file cannot be read, has several layers, no CRS, no such column, no
            polygon, other geometries, or a polygon without a label.
    """
    table = _read_table(path)
    if column not in table.columns:
        others = [str(name) for name in table.columns if name != table.geometry.name]
        raise DatasetError(
            f"{path} has no column '{column}'{nearest_names(column, others)} that could hold the "
            f"class; choose with data.label_column: it has {', '.join(others) or 'none at all'}."
        )
    if table.crs is None:
        raise DatasetError(f"{path} has no CRS, so its polygons lie nowhere; give it one.")
    present = np.flatnonzero(~(table.geometry.isna() | table.geometry.is_empty))
    shapes = np.asarray(table.geometry.to_numpy()[present], object)
    if shapes.size == 0:
        raise DatasetError(f"{path} holds no polygon; draw some.")
    areal = np.isin(shapely.get_type_id(shapes), (3, 6))  # Polygon, MultiPolygon
    if not areal.all():
        raise DatasetError(
            f"{path} holds a {shapes[~areal][0].geom_type} in row {present[~areal][0] + 1}; keep "
            "polygons only."
        )
    values = table[column].to_numpy()[present].tolist()
    keys = tuple(
        _key(value, f"{path}, row {row + 1}, column '{column}'")
        for row, value in zip(present, values, strict=True)
    )
    shapes = shapely.force_2d(shapes)
    bent = ~shapely.is_valid(shapes)
    # "structure" keeps areas only: lines would be burnt, too
    shapes[bent] = shapely.make_valid(shapes[bent], method="structure", keep_collapsed=False)
    return Polygons(path, shapes, keys, table.crs)


def _read_table(path: Path) -> Any:
    """Read a vector file's only layer with geometries as a GeoDataFrame."""
    try:
        return read_shapes(path)
    except (RuntimeError, OSError, ValueError) as error:  # pyogrio's errors are RuntimeErrors
        raise DatasetError(
            f"{path} cannot be read as polygons ({error}); save them as GeoPackage."
        ) from error


def _key(value: Any, where: str) -> Key:
    """A label as a whole number or text.

    Raises:
        DatasetError: If it is missing or empty.
    """
    text = str(value).strip()
    if value is None or text in ("", "nan", "<NA>"):
        raise DatasetError(f"{where} is empty; give the polygon a class, or delete it.")
    if isinstance(value, float) and value.is_integer():  # whole numbers with gaps are floats
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else text


def legend_of_polygons(files: Sequence[Polygons]) -> Legend:
    """Learn the classes from label columns: their distinct values, sorted."""
    keys = {key for polygons in files for key in polygons.keys}
    where = f"the label column of {files[0].path}"
    if all(isinstance(key, int) for key in keys):
        return Legend([ClassRow(f"class {key}", int(key)) for key in keys], where)
    names = sorted({str(key) for key in keys})
    return Legend([ClassRow(name, ignore=means_unknown(name)) for name in names], where)


def on_grid(polygons: Polygons, grid: Grid) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The polygons that touch a grid, in its pixel coordinates, and their numbers in the file.

    Raises:
        DatasetError: If they cannot be brought to its CRS.
    """
    own, theirs = pyproj.CRS(grid.wkt), polygons.crs
    bounds = grid.outline().bounds
    if own.equals(theirs, ignore_axis_order=True):
        numbers = meeting(shapely.bounds(polygons.shapes), bounds)
        shapes = polygons.shapes[numbers]
    else:
        try:
            shapes, numbers = project_near(polygons.shapes, theirs, bounds, own)
        except (ProjError, GEOSException) as error:
            raise DatasetError(
                f"{polygons.path} cannot be brought to the CRS of its images ({error}); save it in "
                "theirs."
            ) from error
        sound = (shapely.area(shapes) > 0) & np.isfinite(shapely.bounds(shapes)).all(axis=1)
        shapes, numbers = shapes[sound], numbers[sound]
    shapes = shapely.transform(shapes, functools.partial(apply_to, ~grid.transform))
    H, W = grid.shape
    inner = shapely.box(1e-6, 1e-6, W - 1e-6, H - 1e-6)  # a shared edge is no touch
    shapely.prepare(inner)
    touching = shapely.intersects(inner, shapes)
    return shapes[touching], numbers[touching]


class Burner:
    """Rasterises polygons onto windows of one image; later ones of the file win.

    Args:
        shapes: (n,) polygons in pixel coordinates.
        classes: (n,) class of each, 255 for unknown.
        background: Class of pixels without a polygon.
    """

    def __init__(self, shapes: NDArray[Any], classes: NDArray[np.uint8], background: int) -> None:
        self._shapes = shapes
        self._classes = classes
        self._background = background
        self._bounds = shapely.bounds(shapes)

    def labels(self, window: Window) -> NDArray[np.uint8]:
        """(h, w) classes: of the last polygon that a pixel's centre lies in."""
        left, top = window.col_off, window.row_off
        near = meeting(self._bounds, (left, top, left + window.width, top + window.height))
        shape = (window.height, window.width)
        if not near.size:
            return np.full(shape, self._background, np.uint8)
        pairs = zip(self._shapes[near], self._classes[near].tolist(), strict=True)
        labels: NDArray[np.uint8] = rasterize(
            pairs,
            out_shape=shape,
            transform=Affine.translation(left, top),
            fill=self._background,
            dtype="uint8",
        )
        return labels
