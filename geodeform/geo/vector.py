"""Polygons from a class raster, and vector files.

The polygons of a map are a coverage: they share their edges vertex by vertex, without gaps or
overlaps, whatever the size of the raster, and stay one when they are simplified
(``shapely.coverage_simplify``; simplifying each by itself would tear gaps). The raster is read in
bands of rows; see :mod:`geodeform.geo.components` for how polygons come out whole nevertheless.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine, from_gcps
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, ClassScheme, to_hex
from geodeform.errors import OutputError, SceneError
from geodeform.geo.components import (
    OUTSIDE,
    BorderCounter,
    ComponentLabeller,
    Components,
    OutlineTracer,
    label_band,
    merge_small,
    total,
)
from geodeform.geo.ground import Ground
from geodeform.geo.outputs import VECTOR_SUFFIXES, OutputSet, final_path

_DRIVERS = dict(zip(VECTOR_SUFFIXES, ("GPKG", "Parquet", "FlatGeobuf", "GeoJSON"), strict=True))

_BAND_PIXELS = 1 << 23


def polygonize(
    classes: str | Path | NDArray[np.uint8],
    *,
    scheme: ClassScheme,
    transform: Affine | None = None,
    crs: CRS | None = None,
    confidence: str | Path | NDArray[Any] | None = None,
    min_area: float = 0.0,
    simplify: float = 0.0,
    block_rows: int | None = None,
) -> gpd.GeoDataFrame:
    """Turn a class raster into polygons: one for each 4-connected area of one class.

    The polygons are valid, cover every pixel that has a class exactly once, and are in the order of
    their first pixels. Memory is bounded by a few bands of rows and by the polygons themselves.

    Args:
        classes: Class raster: a file, or (H, W) uint8 with 255 for no data.
        scheme: What the class ids mean.
        transform: Of an array: pixel corner (col, row) → (x, y); pixel coordinates if None. A file
            has its own (fitted to its ground control points where it has only those).
        crs: Of an array; a file has its own.
        confidence: Confidence raster of the same shape: a file (its scale is applied), uint8
            (0…255 means 0…1) or float (0…1).
        min_area: Smallest polygon, in m² (pixels where there is no CRS). Smaller ones dissolve into
            the neighbour with the longest shared border, smallest first; they stay where nodata
            surrounds them.
        simplify: Tolerance in map units: about the square root of the area of the triangles that
            are cut off the shared edges (Visvalingam–Whyatt). The scene's frame stays straight,
            edges towards nodata are simplified like all others.
        block_rows: Rows held in memory at a time, by default up to 512; the answer does not depend
            on it.

    Returns:
        Columns ``class_id``, ``class_name``, ``area_m2`` (on the ellipsoid for geographic CRSs and
        for projections that stretch areas by over 2 % there, such as Web Mercator; in the plane
        otherwise; left out without a CRS), ``area_px`` (number of pixels, before simplification),
        ``conf_mean`` (mean confidence of these pixels, 0…1; only with ``confidence``), ``colour``
        (``#RRGGBB``) and ``geometry``.

    Raises:
        SceneError: If a raster cannot be read, does not fit, or holds classes without a name.
        ValueError: If ``min_area`` or ``simplify`` is negative.
    """
    if min_area < 0 or simplify < 0:
        raise ValueError("min_area and simplify cannot be negative.")
    with ExitStack() as stack:
        source = stack.enter_context(_open(classes, "uint8"))
        planes = [] if confidence is None else [stack.enter_context(_open(confidence, None))]
        for plane in planes:
            if plane.shape != source.shape:
                raise SceneError(
                    f"{plane.name} has {plane.shape} pixels, {source.name} {source.shape}: "
                    "they must be of the same scene."
                )
        if isinstance(classes, str | Path):
            transform, crs = source.transform, source.crs
        transform = Affine.identity() if transform is None else transform
        ground = None if crs is None else Ground(crs, transform, source.shape)
        bands = _Bands(source, block_rows or max(1, min(512, _BAND_PIXELS // source.shape[1])))
        components = _components(bands, ground, planes, scheme)
        numbers, kinds = _dissolved(bands, components, ground, min_area)
        # for simplification nodata is a member of the coverage: its edges are shared, the frame's
        # are not
        kept = (kinds != NODATA_CLASS) | (simplify > 0)
        geometry = _outlines(bands, components, numbers, kept, transform)
    if simplify > 0:
        geometry = shapely.coverage_simplify(geometry, simplify, simplify_boundary=False)
    valued = kinds[kept] != NODATA_CLASS
    return _frame(geometry[valued], components, numbers, kinds, planes, scheme, ground)


def write_polygons(
    polygons: gpd.GeoDataFrame, path: str | Path, *, overwrite: bool = False
) -> None:
    """Write polygons as GeoPackage, GeoParquet, FlatGeobuf or GeoJSON, whole or not at all.

    GeoPackage and FlatGeobuf have a spatial index, GeoParquet (1.1) a bounding-box covering.
    All keep the polygons' CRS, except GeoJSON, which is longitude and latitude on WGS 84 by its
    standard (RFC 7946); without a CRS it keeps pixel coordinates. The layer is ``polygons``.

    Args:
        polygons: As from :func:`polygonize`.
        path: Where the file shall appear; the suffix chooses the format.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists, has another suffix, or cannot be written.
    """
    _write(polygons, path, layer="polygons", kind="Polygon", overwrite=overwrite)


def write_points(points: gpd.GeoDataFrame, path: str | Path, *, overwrite: bool = False) -> None:
    """Write points, such as where the scene was sampled; see :func:`write_polygons`.

    The layer is ``samples``.

    Args:
        points: Point geometries with any columns.
        path: Where the file shall appear; the suffix chooses the format.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists, has another suffix, or cannot be written.
    """
    _write(points, path, layer="samples", kind="Point", overwrite=overwrite)


def _write(
    frame: gpd.GeoDataFrame, path: str | Path, *, layer: str, kind: str, overwrite: bool
) -> None:
    with OutputSet(overwrite=overwrite) as outputs:
        staged = outputs.add(path, suffixes=VECTOR_SUFFIXES)
        driver = _DRIVERS[staged.suffix.lower()]
        options: dict[str, Any] = {}
        if driver == "GeoJSON" and frame.crs is not None:
            frame = frame.to_crs(4326)
            # its default of 7 decimals, a centimetre, would bend the outlines of drone images
            options.update(RFC7946="YES", COORDINATE_PRECISION="9")
        try:
            if driver == "Parquet":
                frame.to_parquet(
                    staged, index=False, schema_version="1.1.0", write_covering_bbox=True
                )
                return
            with warnings.catch_warnings():
                # without a CRS there is none to provide
                warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
                pyogrio.write_dataframe(
                    frame,
                    staged,
                    driver=driver,
                    layer=layer,
                    geometry_type=kind if frame.empty else None,
                    layer_options=options,
                )
        except (RuntimeError, OSError) as error:  # pyogrio's errors are RuntimeErrors
            raise OutputError(f"Cannot write {final_path(path)} ({error}).") from error


class _Plane(Protocol):
    """A single-band raster that is read in bands of rows; value = stored · scale + offset."""

    name: str
    shape: tuple[int, int]
    transform: Affine | None
    crs: CRS | None
    scale: float
    offset: float

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored values of the rows start…stop-1."""


class _ArrayPlane:
    """A raster in memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.name = "The array"
        self.shape = (values.shape[0], values.shape[1])
        self.transform = None
        self.crs = None
        self.scale = 1 / 255 if values.dtype == np.uint8 else 1.0
        self.offset = 0.0
        self.dtype = str(values.dtype)
        self._values = values

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self._values[start:stop]


class _FilePlane:
    """The first band of a file."""

    def __init__(self, dataset: Any) -> None:
        self.name = str(dataset.name)
        self.shape = (dataset.height, dataset.width)
        points, points_crs = dataset.gcps
        fitted = len(points) >= 3  # an affine transform has three times two unknowns
        self.transform = from_gcps(points) if fitted else dataset.transform
        self.crs = points_crs if fitted else dataset.crs
        self.scale = float(dataset.scales[0])
        self.offset = float(dataset.offsets[0])
        self.dtype = str(dataset.dtypes[0])
        self._dataset = dataset

    def read(self, start: int, stop: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = self._dataset.read(
                1, window=Window(0, start, self.shape[1], stop - start)
            )
        except RasterioError as error:
            raise SceneError(f"{self.name} cannot be read ({error}).") from error
        return values


@contextmanager
def _open(source: str | Path | NDArray[Any], dtype: str | None) -> Iterator[_Plane]:
    """Open a raster, and check its type."""
    with ExitStack() as stack:
        plane: _ArrayPlane | _FilePlane
        if isinstance(source, str | Path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                try:
                    plane = _FilePlane(stack.enter_context(rasterio.open(source)))
                except RasterioError as error:
                    raise SceneError(f"{source} cannot be read ({error}).") from error
        else:
            plane = _ArrayPlane(source)
        if dtype is not None and plane.dtype != dtype:
            raise SceneError(f"{plane.name} is {plane.dtype}; a class raster is {dtype}.")
        yield plane


@dataclass(frozen=True)
class _Bands:
    """A class raster cut into bands of rows."""

    source: _Plane
    rows: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.source.shape[0], self.rows):
            yield start, min(start + self.rows, self.source.shape[0])

    def looked_up(
        self, components: Components, table: NDArray[np.int32]
    ) -> Iterator[NDArray[np.int32]]:
        """Yield each band's (rows, cols) entries of a table over the components."""
        for (start, stop), numbers in zip(self, components.bands, strict=True):
            ids, _ = label_band(self.source.read(start, stop))
            yield table[numbers][ids]


def _components(
    bands: _Bands, ground: Ground | None, planes: list[_Plane], scheme: ClassScheme
) -> Components:
    labeller = ComponentLabeller()
    for start, stop in bands:
        weights = np.ones(stop - start, np.int64)
        if ground is not None:
            weights = ground.row_weights[start:stop]
        labeller.feed(
            bands.source.read(start, stop),
            weights,
            [plane.read(start, stop).astype(np.float32) for plane in planes],
        )
    components = labeller.finish()
    strange = components.kinds[
        (components.kinds >= len(scheme)) & (components.kinds != NODATA_CLASS)
    ]
    if len(strange) > 0:
        raise SceneError(
            f"{bands.source.name} holds class {strange[0]}, but there are only {len(scheme)} "
            "classes: it was made with another model."
        )
    return components


def _dissolved(
    bands: _Bands, components: Components, ground: Ground | None, min_area: float
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return each component's number after dissolving small ones, and the classes by number."""
    unit = 1.0 if ground is None else ground.weight_unit
    sizes = np.asarray(components.weights * unit, np.float64)
    small = sizes < min_area
    if not small.any():
        return np.arange(len(components)), components.kinds
    counter = BorderCounter(components.kinds, small)
    for numbers in bands.looked_up(components, np.arange(len(components), dtype=np.int32)):
        counter.feed(numbers)
    edges = (1.0, 1.0) if ground is None else ground.pixel_size
    return merge_small(components.kinds, sizes, counter.finish(edges), min_area)


def _outlines(
    bands: _Bands,
    components: Components,
    numbers: NDArray[np.int64],
    kept: NDArray[np.bool_],
    transform: Affine,
) -> NDArray[Any]:
    """Return the polygons of the numbers that are kept."""
    ids = np.where(kept, np.cumsum(kept) - 1, OUTSIDE).astype(np.int32)
    tracer = OutlineTracer(bands.source.shape[1])
    for band in bands.looked_up(components, ids[numbers]):
        tracer.feed(band)
    coordinates, rings, polygons = tracer.finish(int(kept.sum()), transform)
    result: NDArray[Any] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coordinates, (rings, polygons)
    )
    return result


def _frame(
    geometry: NDArray[Any],
    components: Components,
    numbers: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    planes: list[_Plane],
    scheme: ClassScheme,
    ground: Ground | None,
) -> gpd.GeoDataFrame:
    """Return the polygons, which are those of all numbers but nodata, with their columns."""
    valued = kinds != NODATA_CLASS
    ids = kinds[valued]
    pixels = total(numbers, len(kinds), components.pixels)[valued]
    columns: dict[str, Any] = {
        "class_id": ids.astype(np.int32),
        "class_name": np.array(scheme.names, object)[ids],
    }
    if ground is not None:
        columns["area_m2"] = ground.areas(geometry)
    columns["area_px"] = pixels
    for plane, values in zip(planes, components.sums, strict=True):
        mean = total(numbers, len(kinds), values)[valued] / pixels
        columns["conf_mean"] = mean * plane.scale + plane.offset
    colours = [to_hex(colour) for colour in scheme.colours]
    columns["colour"] = np.array(colours, object)[ids]
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=None if ground is None else ground.crs)
