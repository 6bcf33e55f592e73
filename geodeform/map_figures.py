"""Figures of a finished map: areas, confidence and sampling density of each class, in one pass.

The rasters are read block by block and only counts are kept, so memory does not grow with the map.
Confidence is counted by its 256 stored values, density in bins of 1/128 of an octave (0.5 %).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import SceneError
from geodeform.geo.affine import compose, frame_of
from geodeform.geo.ground import Ground
from geodeform.geo.outputs import final_path
from geodeform.geo.raster import GDAL_CACHE_BYTES
from geodeform.geo.style import wide_enough
from geodeform.result import ClassArea

_BLOCK_ROWS = 512  # the rasters' own blocks
_BLOCK_COLS = 4096
_LOW_OCTAVE, _HIGH_OCTAVE = -24, 8  # of sampled pixels per scene pixel
_BINS_PER_OCTAVE = 128
_N_BINS = (_HIGH_OCTAVE - _LOW_OCTAVE) * _BINS_PER_OCTAVE
_RUN_TAGS = ("source", "model", "budget", "sampler")
_HALF = 128  # the first stored confidence that is not under 50 %


@dataclass(frozen=True)
class CellGrid:
    """Where the cells of a density raster lie in the pixels of the class raster.

    Attributes:
        left: Where the first column of cells begins, in pixels.
        top: Where the first row of cells begins, in pixels.
        width: Pixels per cell in x.
        height: Pixels per cell in y.
    """

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class MapFigures:
    """What a map says about its classes. n is the number of classes, in the scheme's order.

    Attributes:
        areas: Pixels, share and area of each class.
        nodata_pixels: Pixels without a class.
        confidence: (n, 256) pixels by stored confidence, of 1/255; None without that raster.
        density: (n, bins) pixels by density, see :attr:`densities`; None without that raster.
        samples: (n,) samples that fell on each class: the sum of the density over its pixels.
    """

    areas: tuple[ClassArea, ...]
    nodata_pixels: int
    confidence: NDArray[np.int64] | None
    density: NDArray[np.int64] | None
    samples: NDArray[np.float64] | None

    @property
    def pixels(self) -> int:
        """Pixels that have a class."""
        return sum(area.pixels for area in self.areas)

    @property
    def area_m2(self) -> float | None:
        """Area of the pixels that have a class, or None without a CRS."""
        known = [area.area_m2 for area in self.areas if area.area_m2 is not None]
        return math.fsum(known) if known else None

    @property
    def densities(self) -> NDArray[np.float64]:
        """(bins,) sampled pixels per scene pixel at the middle of each bin of the density."""
        octaves = (np.arange(_N_BINS) + 0.5) / _BINS_PER_OCTAVE + _LOW_OCTAVE
        middles: NDArray[np.float64] = 2.0**octaves
        return middles

    def confidence_counts(self, class_id: int | None = None) -> NDArray[np.int64] | None:
        """(256,) pixels by stored confidence, of a class or of all; None where none is known."""
        if self.confidence is None:
            return None
        counts = self.confidence.sum(0) if class_id is None else self.confidence[class_id]
        return counts if counts.sum() > 0 else None

    def mean_confidence(self, class_id: int | None = None) -> float | None:
        """Mean confidence of a class or of the map, 0…1; None where none is known."""
        counts = self.confidence_counts(class_id)
        return None if counts is None else float(np.average(np.arange(256), weights=counts) / 255)

    def confidence_quantile(self, q: float, class_id: int | None = None) -> float | None:
        """The confidence that a share ``q`` of the pixels does not exceed, 0…1."""
        counts = self.confidence_counts(class_id)
        return None if counts is None else _quantile_bin(counts, q) / 255

    def doubtful_share(self, class_id: int | None = None) -> float | None:
        """Share of the pixels whose confidence is under 50 %, 0…1; None where none is known."""
        counts = self.confidence_counts(class_id)
        return None if counts is None else float(counts[:_HALF].sum() / counts.sum())

    def density_quantile(self, q: float, class_id: int | None = None) -> float | None:
        """Sampled pixels per scene pixel that a share ``q`` of the pixels does not exceed."""
        if self.density is None:
            return None
        counts = self.density.sum(0) if class_id is None else self.density[class_id]
        if counts.sum() == 0:
            return None
        return float(self.densities[_quantile_bin(counts, q)])

    def density_range(self) -> tuple[float, float]:
        """Densities between which the colours of a picture go: percentiles 1 and 99."""
        low, high = self.density_quantile(0.01), self.density_quantile(0.99)
        if low is None or high is None:
            return 0.5, 1.0
        return wide_enough(low, high)

    def sample_shares(self) -> NDArray[np.float64] | None:
        """(n,) share of the samples that fell on each class; None where the density is unknown."""
        if self.samples is None or not self.samples.sum() > 0:
            return None
        shares: NDArray[np.float64] = self.samples / self.samples.sum()
        return shares


def measure_map(
    labels: str | Path,
    *,
    scheme: ClassScheme,
    confidence: str | Path | None = None,
    density: str | Path | None = None,
) -> MapFigures:
    """Count a map's pixels by class, confidence and density.

    Args:
        labels: Class raster: uint8 ids, 255 (and the file's own nodata value) for no data.
        scheme: What the ids mean.
        confidence: Confidence raster of the same shape: uint8 (0…255 means 0…1, 0 is unknown) or
            float 0…1.
        density: Density raster: sampled pixels per scene pixel, on cells of any size.

    Raises:
        SceneError: If a raster cannot be read, does not fit the class raster, or holds classes
            without a name.
    """
    n = len(scheme)
    counts, areas = np.zeros(256, np.int64), np.zeros(256)
    by_confidence = np.zeros((256, 256), np.int64)
    by_density = np.zeros((256, _N_BINS), np.int64)
    samples = np.zeros(256)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES))
        source = stack.enter_context(open_classes(labels))
        plane = None if confidence is None else stack.enter_context(open_raster(confidence))
        field = None if density is None else stack.enter_context(open_raster(density))
        if plane is not None and plane.shape != source.shape:
            raise SceneError(
                f"{confidence} has {plane.width}x{plane.height} pixels, {labels} "
                f"{source.width}x{source.height}: they must be of the same run."
            )
        if plane is not None and cell_grid(source, plane) != CellGrid(0, 0, 1, 1):
            raise SceneError(_misfit(source, plane))
        cells = None if field is None else cell_grid(source, field)
        frame, crs = frame_of(source)
        row_areas = None if crs is None else Ground(crs, frame, source.shape).row_areas_m2
        for window in _blocks(source.shape):
            ids = read_classes(source, window)
            rows = len(ids)
            of_row = np.arange(rows)[:, None] * 256 + ids
            table = np.bincount(of_row.ravel(), minlength=rows * 256).reshape(rows, 256)
            counts += table.sum(0)
            if row_areas is not None:
                areas += row_areas[window.row_off : window.row_off + rows] @ table
            if plane is not None:
                stored = stored_confidence(plane, read_band(plane, window=window))
                pairs = ids.astype(np.int64) * 256 + stored
                by_confidence += np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
            if field is not None and cells is not None:
                values = _density_of(field, cells, window)
                known = np.isfinite(values) & (values > 0)
                here = ids[known]
                values = values[known]
                samples += np.bincount(here, weights=values, minlength=256)
                octaves = (np.log2(values) - _LOW_OCTAVE) * _BINS_PER_OCTAVE
                bins = octaves.astype(np.int64).clip(0, _N_BINS - 1)
                by_density += np.bincount(
                    here.astype(np.int64) * _N_BINS + bins, minlength=256 * _N_BINS
                ).reshape(256, _N_BINS)
    strange = np.flatnonzero(counts[n:NODATA_CLASS])
    if len(strange) > 0:
        raise SceneError(
            f"{labels} holds class {n + strange[0]}, but names only {n} classes: name it in the "
            "file, or make it nodata."
        )
    mapped = int(counts[:n].sum())
    # confidence 0 is the raster's nodata value
    by_confidence[:, 0] = 0
    return MapFigures(
        areas=tuple(
            ClassArea(
                id=k,
                name=name,
                pixels=int(counts[k]),
                share=float(counts[k] / mapped) if mapped else 0.0,
                area_m2=None if row_areas is None else float(areas[k]),
            )
            for k, name in enumerate(scheme.names)
        ),
        nodata_pixels=int(counts[NODATA_CLASS]),
        confidence=None if confidence is None else by_confidence[:n],
        density=None if density is None else by_density[:n],
        samples=None if density is None else samples[:n],
    )


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a raster for reading; one without a georeference is fine.

    Raises:
        SceneError: If it cannot be opened.
    """
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                dataset = stack.enter_context(rasterio.open(path))
            except (RasterioError, OSError) as error:
                raise SceneError(f"{path} cannot be read ({error}).") from error
        yield dataset


@contextmanager
def open_classes(path: str | Path) -> Iterator[Any]:
    """Open a class raster.

    Raises:
        SceneError: If it cannot be opened, or is not one band of uint8.
    """
    with open_raster(path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            raise SceneError(
                f"{path} has {dataset.count} band{'s' * (dataset.count != 1)} of "
                f"{dataset.dtypes[0]}; a class raster has one of uint8."
            )
        yield dataset


def read_classes(dataset: Any, window: Window | None = None, **how: Any) -> NDArray[np.uint8]:
    """Read class ids with 255 for no data, also where the file's nodata value is another.

    Args:
        dataset: What :func:`open_classes` gives.
        window: The part to read; all of it if None.
        **how: rasterio's ``out_shape`` and ``resampling``.

    Raises:
        SceneError: If the file cannot be read there.
    """
    ids: NDArray[np.uint8] = read_band(dataset, window=window, **how)
    if dataset.nodata not in (None, NODATA_CLASS):
        ids[ids == dataset.nodata] = NODATA_CLASS
    return ids


def read_band(dataset: Any, **how: Any) -> NDArray[Any]:
    """Read the first band, with rasterio's keywords.

    Raises:
        SceneError: If the file cannot be read there.
    """
    try:
        values: NDArray[Any] = dataset.read(1, **how)
    except RasterioError as error:
        raise SceneError(f"{dataset.name} cannot be read ({error.__cause__ or error}).") from error
    return values


def cell_grid(labels: Any, density: Any) -> CellGrid:
    """Return where the cells of an open density raster lie in an open class raster.

    Raises:
        SceneError: If its cells are turned against the pixels, in another CRS, or elsewhere, or
            its tags say that it is of another run.
    """
    (frame, crs), (cell_frame, cell_crs) = frame_of(labels), frame_of(density)
    grid = relative(frame, crs, cell_frame, cell_crs)
    H, W = labels.shape
    if grid is not None and grid == CellGrid(0, 0, 1, 1) and density.shape != labels.shape:
        # neither has a georeference that could say it: cells are whole pixels
        factor = math.ceil(max(H / density.height, W / density.width))
        grid = CellGrid(0, 0, factor, factor)
    slack = 1e-3 if grid is None else 1e-3 * max(1.0, grid.width, grid.height)
    if grid is None or _other_run(labels, density):
        raise SceneError(_misfit(labels, density))
    # the last cells may reach beyond the scene
    beyond = (
        grid.left + density.width * grid.width - W,
        grid.top + density.height * grid.height - H,
    )
    if max(abs(grid.left), abs(grid.top), -min(beyond)) > slack or (
        beyond[0] > grid.width + slack or beyond[1] > grid.height + slack
    ):
        raise SceneError(_misfit(labels, density))
    near = CellGrid(0, 0, 1, 1)
    same = np.allclose((grid.width, grid.height), 1, atol=1e-6)
    return near if same and density.shape == labels.shape else grid


def _other_run(labels: Any, other: Any) -> bool:
    """Whether the tags of two rasters contradict each other."""
    one, two = labels.tags(), other.tags()
    return any(one[tag] != two[tag] for tag in _RUN_TAGS if tag in one and tag in two)


def _misfit(labels: Any, other: Any) -> str:
    names = [str(final_path(dataset.name)) for dataset in (other, labels)]
    return f"{names[0]} does not lie on {names[1]}, or is of another run: make both in one run."


def relative(
    frame: Affine, crs: CRS | None, other: Affine, other_crs: CRS | None
) -> CellGrid | None:
    """Return where another raster's pixels lie in a raster's pixels, or None if that is no grid.

    Args:
        frame: Pixels to map coordinates of the raster.
        crs: Its CRS, or None.
        other: The same of the other raster.
        other_crs: Its CRS, or None.
    """
    if crs != other_crs or frame.determinant == 0:
        return None
    a, b, c, d, e, f = compose(~frame, other)[:6]
    if a <= 0 or e <= 0 or abs(b) > 1e-6 * a or abs(d) > 1e-6 * e:
        return None
    return CellGrid(c, f, a, e)


def _blocks(shape: tuple[int, int]) -> Iterator[Window]:
    for top in range(0, shape[0], _BLOCK_ROWS):
        for left in range(0, shape[1], _BLOCK_COLS):
            yield Window(
                left, top, min(_BLOCK_COLS, shape[1] - left), min(_BLOCK_ROWS, shape[0] - top)
            )


def stored_confidence(plane: Any, values: NDArray[Any]) -> NDArray[np.int64]:
    """Turn values of an open confidence raster into 0…255, 0 where it is unknown.

    Raises:
        SceneError: If they are neither uint8 nor float.
    """
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise SceneError(
            f"{plane.name} is {values.dtype}; a confidence raster is uint8, or float of 0 to 1."
        )
    unknown = ~np.isfinite(values)
    if plane.nodata is not None:
        unknown |= values == plane.nodata
    if values.dtype == np.uint8:
        return np.where(unknown, np.uint8(0), values).astype(np.int64)
    known = np.where(unknown, 0, values * plane.scales[0] + plane.offsets[0])
    stored: NDArray[np.int64] = np.rint(255 * known).clip(0, 255).astype(np.int64)
    return stored


def _density_of(field: Any, cells: CellGrid, window: Window) -> NDArray[np.float64]:
    """Density at each pixel of a window, NaN where it is unknown."""
    rows = np.arange(window.row_off, window.row_off + window.height) + 0.5
    cols = np.arange(window.col_off, window.col_off + window.width) + 0.5
    row = ((rows - cells.top) / cells.height).astype(np.int64).clip(0, field.height - 1)
    col = ((cols - cells.left) / cells.width).astype(np.int64).clip(0, field.width - 1)
    part = Window(col[0], row[0], col[-1] - col[0] + 1, row[-1] - row[0] + 1)
    values = read_band(field, window=part).astype(np.float64)
    if field.nodata is not None:
        values[values == field.nodata] = np.nan
    return values[np.ix_(row - row[0], col - col[0])]


def _quantile_bin(counts: NDArray[np.int64], q: float) -> int:
    """Index of the bin in which a share ``q`` of the counts is reached."""
    reached = np.cumsum(counts)
    return int(np.searchsorted(reached, max(q * reached[-1], 1)))
