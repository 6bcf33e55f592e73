"""Polygons from a class raster, and vector files.

The polygons of a map are a coverage: they share their edges vertex by vertex, without gaps or
overlaps, whatever the size of the raster, and stay one when they are smoothed and simplified (each
by itself would tear gaps); see :mod:`geodeform.geo.coverage`. The raster is read in bands of rows;
see :mod:`geodeform.geo.components` for how polygons come out whole nevertheless.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, ClassScheme, from_hex, to_hex
from geodeform.errors import OutputError, SceneError
from geodeform.geo.affine import apply, frame_of
from geodeform.geo.components import (
    OUTSIDE,
    BorderCounter,
    ComponentLabeller,
    Components,
    Outlines,
    OutlineTracer,
    fill_enclosed,
    label_band,
    merge_small,
    total,
)
from geodeform.geo.coverage import THINNING, Coverage, to_polygons
from geodeform.geo.ground import Ground
from geodeform.geo.legend import distinct_values, read_legend
from geodeform.geo.outputs import VECTOR_SUFFIXES, OutputSet, final_path
from geodeform.geo.styling import add_styles, write_styles

_LOG = logging.getLogger(__name__)

_DRIVERS = dict(zip(VECTOR_SUFFIXES, ("GPKG", "Parquet", "FlatGeobuf", "GeoJSON"), strict=True))

_BAND_PIXELS = 1 << 23

_COARSE_AREA = 400  # px² of simplification that is rarely meant, such as metres given for degrees
_PLACE_TOLERANCE = 0.1  # pixels by which the grids of one scene's rasters may differ


def polygonize(
    classes: str | Path | NDArray[np.uint8],
    *,
    scheme: ClassScheme | None = None,
    transform: Affine | None = None,
    crs: CRS | None = None,
    confidence: str | Path | NDArray[Any] | None = None,
    density: str | Path | NDArray[Any] | None = None,
    min_area: float = 0.0,
    fill_holes: float = 0.0,
    simplify: float = 0.0,
    smooth: int = 0,
    block_rows: int | None = None,
) -> gpd.GeoDataFrame:
    """Turn a class raster into polygons: one for each 4-connected area of one class.

    The polygons are valid, cover every pixel that has a class exactly once, and are in the order of
    their first pixels. Memory is bounded by a few bands of rows and by the polygons themselves.

    Args:
        classes: Class raster: (H, W) uint8 with 255 for no data, or a file, of geodeform or of
            another tool: whole numbers of any size, up to 255 different ones. Of a file, nodata is
            what its nodata value or its mask says.
        scheme: What the class ids mean. A file without one is named and coloured as
            :func:`geodeform.geo.legend.read_legend` finds; an array needs it.
        transform: Of an array: pixel corner (col, row) → (x, y); pixel coordinates if None. A file
            has its own (fitted to its ground control points where it has only those).
        crs: Of an array; a file has its own.
        confidence: Confidence raster of the same shape: a file (its scale is applied), uint8
            (0…255 means 0…1) or float (0…1).
        density: Density raster, in sampled pixels per pixel: on the same grid, or on a coarser one
            of whole pixels (as geodeform writes it), of which each pixel takes its cell's value.
        min_area: Smallest polygon, in m² (pixels where there is no CRS). Smaller ones dissolve into
            the neighbour with the longest shared border, smallest first; they stay where nodata
            surrounds them.
        fill_holes: Limit for holes, in m² (pixels where there is no CRS): what lies wholly within
            one other polygon and is smaller, with all that lies within itself, becomes a part of
            that polygon, before small polygons dissolve and again after. Nodata is never filled,
            since nobody has seen what is there; neither is what encloses some or touches it, nor
            what touches the raster's frame.
        simplify: Tolerance in map units: the square root of the area of the triangles that are cut
            off the shared edges at most (Visvalingam–Whyatt). The scene's frame stays straight,
            edges towards nodata are simplified like all others.
        smooth: How often the corners of the pixels' staircases are cut; 3 to 5 make smooth
            outlines. No outline moves by half a pixel or more, points where three polygons meet
            and the scene's frame stay, and areas are kept, nearly. Outlines are smoothed before
            they are simplified.
        block_rows: Rows held in memory at a time, by default up to 512; the answer does not depend
            on it.

    Returns:
        Columns ``class_id`` (the raster's value), ``class_name``, ``area_m2`` (on the ellipsoid for
        geographic CRSs and for projections that stretch areas by over 2 % there, such as Web
        Mercator; in the plane otherwise; left out without a CRS), ``area_px`` (number of pixels,
        before smoothing and simplification), ``conf_mean`` (mean confidence of these pixels, 0…1;
        only with ``confidence``), ``gsd_mean`` (mean distance between samples in metres, which is
        1/√(samples per m²), or ``spacing_px`` in pixels without a CRS; only with ``density``),
        ``observed_frac`` (samples over its pixels, at most 1; only with ``density``), ``colour``
        (``#RRGGBB``) and ``geometry``. Means leave out pixels without a value; they are NaN where
        none has one.

    Raises:
        SceneError: If a raster cannot be read, does not fit, or holds classes without a name in the
            scheme, or more than 255.
        ValueError: If a limit is negative, or an array comes without a scheme.
    """
    if min(min_area, fill_holes, simplify, smooth) < 0:
        raise ValueError("min_area, fill_holes, simplify and smooth cannot be negative.")
    if scheme is None and not isinstance(classes, str | Path):
        raise ValueError("An array of classes needs a scheme that says what they are.")
    with ExitStack() as stack:
        source = stack.enter_context(_open(classes))
        if isinstance(classes, str | Path):
            transform, crs = source.transform, source.crs
        transform = Affine.identity() if transform is None else transform
        ground = None if crs is None else Ground(crs, transform, source.shape)
        planes = {
            kind: _Values(stack.enter_context(_open(raster)), source)
            for kind, raster in (("confidence", confidence), ("density", density))
            if raster is not None
        }
        if "confidence" in planes and planes["confidence"].cell != 1:
            raise SceneError(_misfit(planes["confidence"].plane, source))
        bands = _Bands(source, scheme, block_rows)
        components = _components(bands, ground, list(planes.values()))
        numbers, kinds = _dissolved(bands, components, ground, min_area, fill_holes)
        _LOG.debug(
            "%s: %d areas, %d after filling holes and dissolving small ones.",
            source.name,
            (components.kinds != NODATA_CLASS).sum(),
            (kinds != NODATA_CLASS).sum(),
        )
        if (kinds == NODATA_CLASS).all():
            _LOG.warning("%s has no pixel with a class, so there are no polygons.", source.name)
        changes = simplify > 0 or smooth > 0
        # then nodata is a member of the coverage: its edges are shared, the frame's are not
        kept = (kinds != NODATA_CLASS) | changes
        outlines = _outlines(bands, components, numbers, kept)
    if scheme is None:
        scheme = _scheme_of(classes, bands.values)
    points, rings = outlines.points.astype(np.float64), outlines.rings
    if changes:
        coverage, area = Coverage.of(outlines), simplify**2 / abs(transform.determinant)
        if area > _COARSE_AREA:
            _LOG.warning(
                "%s: a tolerance of %g in units of the CRS is %.3g pixels, so areas change much.",
                source.name,
                simplify,
                math.sqrt(area),
            )
        if smooth > 0:
            coverage, area = coverage.smoothed(smooth), max(area, THINNING)
        points, rings = coverage.simplified(area).outlines()
    _LOG.debug("%s: %d points in the outlines.", source.name, len(points))
    geometry = to_polygons(points, rings, outlines.polygons, transform[:6])
    geometry = geometry[kinds[kept] != NODATA_CLASS]
    return _frame(geometry, components, numbers, kinds, planes, ground, bands.values, scheme)


def polygonize_file(
    classes: str | Path,
    output: str | Path,
    *,
    confidence: str | Path | None = None,
    density: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> gpd.GeoDataFrame:
    """Turn a class raster into a vector file with its QGIS style, whole or not at all.

    Args:
        classes: Class raster, of geodeform or another tool.
        output: As for :func:`write_polygons`.
        confidence: As for :func:`polygonize`.
        density: As there.
        overwrite: Whether existing files may be replaced.
        **settings: Others of :func:`polygonize`.

    Returns:
        The polygons that were written.

    Raises:
        SceneError: As :func:`polygonize`.
        OutputError: As :func:`write_polygons`; also for GeoJSON of a raster without a CRS.
    """
    inputs = [path for path in (classes, confidence, density) if path is not None]
    with OutputSet(overwrite=overwrite, inputs=inputs) as outputs:
        staged = outputs.add(output, suffixes=VECTOR_SUFFIXES)
        add_styles(outputs, {"polygons": output})
        polygons = polygonize(classes, confidence=confidence, density=density, **settings)
        check_placeable(output, polygons.crs)
        write_polygons(polygons, staged)
        known = polygons.drop_duplicates("class_id").sort_values("class_id")
        if len(known) > 0:
            scheme = ClassScheme(tuple(known["class_name"]), tuple(map(from_hex, known["colour"])))
            write_styles({"polygons": staged}, scheme, known["class_id"].tolist())
        else:
            write_styles({"polygons": staged}, ClassScheme(("none",), ((128, 128, 128),)))
    return polygons


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


def read_shapes(path: str | Path) -> gpd.GeoDataFrame:
    """Read a vector file's only layer with geometries.

    Other tables, such as the styles of a GeoPackage, are no layers here.

    Args:
        path: GeoParquet, or whatever GDAL reads.

    Raises:
        ValueError: If it has no such layer, or several.
        OSError: If it cannot be read, like RuntimeError.
    """
    if Path(path).suffix.lower() == ".parquet":
        return gpd.read_parquet(path)
    layers = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry is not None]
    if len(layers) != 1:
        raise ValueError(
            f"it has {len(layers)} layers with geometries ({', '.join(layers) or 'none at all'}); "
            "keep the one that is meant"
        )
    return gpd.read_file(path, layer=layers[0], engine="pyogrio")


def check_placeable(path: str | Path | None, crs: object) -> None:
    """Refuse a vector output that would place pixel coordinates on the globe.

    Raises:
        OutputError: If it is GeoJSON and the scene has no CRS.
    """
    if path is not None and Path(path).suffix.lower() == ".geojson" and crs is None:
        raise OutputError(
            f"{path} would place pixel coordinates on the globe, as GeoJSON is WGS 84 and the "
            "scene has no CRS: write .gpkg instead."
        )


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
    dtype: str
    transform: Affine | None
    crs: CRS | None
    scale: float
    offset: float
    nodata: float | None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the stored values of the rows start…stop-1."""

    def missing(self, values: NDArray[Any], start: int) -> NDArray[np.bool_] | None:
        """Return which of the values, read from row start on, are nodata; None if none can be."""


class _ArrayPlane:
    """A raster in memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.name = "The array"
        self.shape = (values.shape[0], values.shape[1])
        self.transform = None
        self.crs = None
        self.scale = 1 / 255 if values.dtype == np.uint8 else 1.0
        self.offset = 0.0
        self.nodata: float | None = None
        self.dtype = str(values.dtype)
        self._values = values

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self._values[start:stop]

    def missing(self, values: NDArray[Any], start: int) -> None:
        return None


class _FilePlane:
    """The first band of a file."""

    def __init__(self, dataset: Any) -> None:
        self.name = str(final_path(dataset.name))  # in messages
        self.shape = (dataset.height, dataset.width)
        self.transform, self.crs = frame_of(dataset)
        self.scale = float(dataset.scales[0])
        self.offset = float(dataset.offsets[0])
        # where there is a mask band instead, the nodata value says nothing
        self._flags = dataset.mask_flag_enums[0]
        self.nodata = dataset.nodata if self._flags == [MaskFlags.nodata] else None
        self.dtype = str(dataset.dtypes[0])
        self._dataset = dataset

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self._read(self._dataset.read, start, stop)

    def missing(self, values: NDArray[Any], start: int) -> NDArray[np.bool_] | None:
        if MaskFlags.all_valid in self._flags:
            return None
        if self.nodata is not None:
            return np.asarray(values == self.nodata)  # NaN is no value anyhow
        mask = self._read(self._dataset.read_masks, start, start + len(values))
        return np.asarray(mask == 0)

    def _read(self, reader: Any, start: int, stop: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = reader(1, window=Window(0, start, self.shape[1], stop - start))
        except RasterioError as error:
            raise SceneError(f"{self.name} cannot be read ({error}).") from error
        return values


@contextmanager
def _open(source: str | Path | NDArray[Any]) -> Iterator[_Plane]:
    if not isinstance(source, str | Path):
        yield _ArrayPlane(source)
        return
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                plane = _FilePlane(stack.enter_context(rasterio.open(source)))
            except RasterioError as error:
                raise SceneError(f"{source} cannot be read ({error}).") from error
        yield plane


class _Values:
    """Values of a raster of the same scene, whose cells may be several pixels wide.

    Args:
        plane: The raster.
        classes: The class raster.

    Attributes:
        plane: The raster.
        cell: Pixels per cell, each way.

    Raises:
        SceneError: If it is not on the class raster's grid or a coarser one of whole pixels.
    """

    def __init__(self, plane: _Plane, classes: _Plane) -> None:
        self.plane = plane
        self.cell = _cell_size(plane, classes)
        self._cols = classes.shape[1]

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the (rows, cols) stored value of each pixel, NaN where there is none."""
        first, last = start // self.cell, (stop - 1) // self.cell
        stored = self.plane.read(first, last + 1)
        missing = self.plane.missing(stored, first)
        values = stored.astype(np.float32)
        if missing is not None:
            values[missing] = np.nan
        if self.cell > 1:
            values = values.repeat(self.cell, axis=0)[start - first * self.cell :][: stop - start]
            values = values.repeat(self.cell, axis=1)[:, : self._cols]
        return values


def _cell_size(plane: _Plane, classes: _Plane) -> int:
    """Return how many pixels of the class raster a cell of another raster spans, each way."""
    (height, width), (rows, cols) = classes.shape, plane.shape
    cell = max(-(-height // rows), -(-width // cols))
    if plane.transform is not None and classes.transform is not None:
        ratio = plane.transform.determinant / classes.transform.determinant
        cell = max(round(math.sqrt(abs(ratio))), 1)
        corners = np.array([(0, 0), (cols, 0), (0, rows)], float).T
        there = np.stack(apply(~classes.transform, *apply(plane.transform, *corners)))
        apart = plane.crs is not None and classes.crs is not None and plane.crs != classes.crs
        if apart or np.abs(there - corners * cell).max() > _PLACE_TOLERANCE:
            raise SceneError(_misfit(plane, classes))
    if (-(-height // cell), -(-width // cell)) != (rows, cols):
        raise SceneError(_misfit(plane, classes))
    return cell


def _misfit(plane: _Plane, classes: _Plane) -> str:
    """Say that two rasters are not of the same scene."""
    return (
        f"{plane.name} ({plane.shape[0]} x {plane.shape[1]} pixels) does not fit {classes.name} "
        f"({classes.shape[0]} x {classes.shape[1]}): they must be of the same scene."
    )


class _Bands:
    """A class raster cut into bands of rows.

    Its values are numbered from 0 as they appear, or are the ids of a scheme.

    Args:
        source: The raster.
        scheme: What the values mean, if that is known.
        rows: Rows of a band; by default up to 512.

    Attributes:
        values: The value that each number stands for.
    """

    def __init__(self, source: _Plane, scheme: ClassScheme | None, rows: int | None) -> None:
        if not np.issubdtype(source.dtype, np.integer):
            raise SceneError(
                f"{source.name} is {source.dtype}; a class raster holds whole numbers."
            )
        self.source = source
        self.values = [] if scheme is None else list(range(len(scheme)))
        self._known = scheme is not None
        self._seen = 0  # rows whose values are numbered
        self._rows = rows or max(1, min(512, _BAND_PIXELS // source.shape[1]))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.source.shape[0], self._rows):
            yield start, min(start + self._rows, self.source.shape[0])

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the (rows, cols) numbers of the rows' values, 255 where there is no data."""
        pixels = self.source.read(start, stop)
        missing = self.source.missing(pixels, start)
        if missing is None and self._known:
            missing = pixels == NODATA_CLASS
        if stop > self._seen:
            self._learn(distinct_values(pixels if missing is None else pixels[~missing]))
            self._seen = stop
        if self._known and pixels.dtype == np.uint8:
            numbers = pixels if self.source.nodata == NODATA_CLASS else pixels.copy()
        else:
            numbers = self._numbered(pixels)
        if missing is not None and numbers is not pixels:
            numbers[missing] = NODATA_CLASS
        return numbers

    def looked_up(
        self, components: Components, table: NDArray[np.int32]
    ) -> Iterator[NDArray[np.int32]]:
        """Yield each band's (rows, cols) entries of a table over the components."""
        for (start, stop), numbers in zip(self, components.bands, strict=True):
            ids, _ = label_band(self.read(start, stop))
            yield table[numbers][ids]

    def _learn(self, present: Sequence[int]) -> None:
        """Number the values that are new."""
        fresh = [value for value in present if value not in self.values]
        if self._known and fresh:
            raise SceneError(
                f"{self.source.name} holds class {fresh[0]}, but there are only "
                f"{len(self.values)} classes: it was made with another model."
            )
        self.values.extend(fresh)
        if len(self.values) > NODATA_CLASS:
            raise SceneError(
                f"{self.source.name} holds over {NODATA_CLASS} different values, so it is no class "
                "raster; reclassify it first."
            )

    def _numbered(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the number of each pixel's value; any for values that are not learnt."""
        if not self.values:
            return np.full(pixels.shape, NODATA_CLASS, np.uint8)
        order = np.argsort(self.values)
        ascending = np.array(self.values, np.int64)[order]
        low, high = int(ascending[0]), int(ascending[-1])
        if high - low >= 1 << 16:
            places = np.searchsorted(ascending, pixels)
            return order.astype(np.uint8)[np.minimum(places, len(order) - 1)]
        table = np.zeros(high - low + 1, np.uint8)  # many times faster than searching
        table[ascending - low] = order
        found: NDArray[np.uint8] = table[np.clip(pixels.astype(np.int64) - low, 0, high - low)]
        return found


def _components(bands: _Bands, ground: Ground | None, planes: list[_Values]) -> Components:
    labeller = ComponentLabeller()
    for start, stop in bands:
        weights = np.ones(stop - start, np.int64)
        if ground is not None:
            weights = ground.row_weights[start:stop]
        labeller.feed(
            bands.read(start, stop), weights, [plane.read(start, stop) for plane in planes]
        )
    return labeller.finish()


def _dissolved(
    bands: _Bands,
    components: Components,
    ground: Ground | None,
    min_area: float,
    fill_holes: float,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return each component's number in the map without small ones, and its classes by number."""
    numbers, kinds = np.arange(len(components)), components.kinds
    sizes = _sizes(components, numbers, len(kinds), ground)
    small = sizes < max(min_area, fill_holes)
    if not small.any():
        return numbers, kinds
    counter = BorderCounter(kinds, small)
    for band in bands.looked_up(components, numbers.astype(np.int32)):
        counter.feed(band)
    borders = counter.finish((1.0, 1.0) if ground is None else ground.pixel_size)
    # filling first, so that what is small only for its holes stays; what dissolves may leave new
    # holes, but nothing small
    for change, limit in (
        (fill_enclosed, fill_holes),
        (merge_small, min_area),
        (fill_enclosed, fill_holes),
    ):
        renumbered, kinds = change(kinds, sizes, borders, limit)
        borders = borders.merged(renumbered, len(kinds))
        numbers = renumbered[numbers]
        sizes = _sizes(components, numbers, len(kinds), ground)
    return numbers, kinds


def _sizes(
    components: Components, numbers: NDArray[np.int64], n: int, ground: Ground | None
) -> NDArray[np.float64]:
    """Return (n,) areas in m², or in pixels without a CRS, of what components have become."""
    unit = 1.0 if ground is None else ground.weight_unit
    return np.asarray(total(numbers, n, components.weights) * unit, np.float64)


def _outlines(
    bands: _Bands,
    components: Components,
    numbers: NDArray[np.int64],
    kept: NDArray[np.bool_],
) -> Outlines:
    """Return the outlines of the numbers that are kept."""
    ids = np.where(kept, np.cumsum(kept) - 1, OUTSIDE).astype(np.int32)
    tracer = OutlineTracer(bands.source.shape[1])
    for band in bands.looked_up(components, ids[numbers]):
        tracer.feed(band)
    return tracer.finish(int(kept.sum()))


def _scheme_of(path: Any, values: list[int]) -> ClassScheme | None:
    """Return names and colours of a file's values, in their order; None where there are none."""
    if not values:
        return None
    ascending = sorted(values)  # so that colours which are chosen do not depend on the pixels
    found = read_legend(path, values).scheme(ascending)
    places = [ascending.index(value) for value in values]
    return ClassScheme(
        tuple(found.names[k] for k in places), tuple(found.colours[k] for k in places)
    )


def _frame(
    geometry: NDArray[Any],
    components: Components,
    numbers: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    planes: dict[str, _Values],
    ground: Ground | None,
    values: list[int],
    scheme: ClassScheme | None,
) -> gpd.GeoDataFrame:
    """Return the polygons, which are those of all numbers but nodata, with their columns."""
    valued = kinds != NODATA_CLASS
    n, ids = len(kinds), kinds[valued]
    names = () if scheme is None else scheme.names
    colours = () if scheme is None else scheme.colours
    wide = any(abs(value) >= 1 << 31 for value in values)
    pixels = total(numbers, n, components.pixels)[valued]
    columns: dict[str, Any] = {
        "class_id": np.array(values, np.int64 if wide else np.int32)[ids],
        "class_name": np.array(names, object)[ids],
    }
    if ground is not None:
        columns["area_m2"] = ground.areas(geometry)
    columns["area_px"] = pixels
    means = {}
    for (kind, grid), sums, counts in zip(
        planes.items(), components.sums, components.counts, strict=True
    ):
        with np.errstate(invalid="ignore"):  # no pixel has a value
            mean = (total(numbers, n, sums) / total(numbers, n, counts))[valued]
        means[kind] = mean * grid.plane.scale + grid.plane.offset
    if "confidence" in means:
        columns["conf_mean"] = means["confidence"]
        if (means["confidence"] > 1).any() or (means["confidence"] < 0).any():
            raise SceneError(
                f"{planes['confidence'].plane.name} is no confidence raster: it has values outside "
                "0 to 1."
            )
    if "density" in means:
        pixel = _sizes(components, numbers, n, ground)[valued] / pixels
        samples = np.where(means["density"] > 0, means["density"], np.nan) / pixel
        columns["spacing_px" if ground is None else "gsd_mean"] = 1 / np.sqrt(samples)
        columns["observed_frac"] = np.minimum(means["density"], 1.0)
    columns["colour"] = np.array([to_hex(colour) for colour in colours], object)[ids]
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=None if ground is None else ground.crs)
