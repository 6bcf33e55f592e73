"""Scene: any raster that GDAL reads, or an xarray DataArray, read window by window."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.transform import from_gcps
from rasterio.windows import Window

from geodeform.errors import ConfigError, SceneError
from geodeform.geo.ground import ground_size
from geodeform.geo.resample import (
    Resampling,
    axis_weights,
    fill_invalid,
    resample,
    source_range,
)
from geodeform.geo.sources import ArraySource, PaletteSource, RasterSource, Source

if TYPE_CHECKING:
    import xarray
    from odc.geo.geobox import GeoBox

_LEVEL_PIXELS = 2.997
"""Pixels that an overview needs, each way, for each pixel that is read from it: three, less a
rounding. Area averages over a barely finer overview are blurred, and overviews are rarely exact
averages themselves (cubic or nearest resampling, JPEG). On the packaged scene one pixel cost
uniform sampling 4 to 8 points of mIoU against reading at full resolution, two 1 to 3, three 0.5 to
1.6; tests/benchmarks/test_bench_overviews.py."""

_STRIP_BYTES = 64 << 20  # raw bytes of a decimated read that are in memory at once
_SAMPLE_SIDE = 1024  # percentiles look at about this many pixels squared
_FEW = 4096  # valid pixels below which percentiles are looked for more densely
_PIECE_BYTES = 16 << 20  # raw bytes in memory at once when data are only looked for


class NoValidPixelError(SceneError):
    """A scene, or the part of it that matters, has no data at all."""


_Box = tuple[int, int, int, int]  # top, left, height, width


class BandChoice(NamedTuple):
    """1-based band numbers in reading order, how they were chosen, and whether that is a guess."""

    bands: tuple[int, ...]
    note: str
    guessed: bool = False


class Scene:
    """A georeferenced raster of any size, read by windows at any resolution; a context manager.

    Nothing here ever allocates an array of the scene's size. Reads may come from several threads:
    GDAL's handles are not thread-safe, so a lock lets one read in at a time.

    Which pixels have data: a pixel is valid where the file's mask or alpha band (above 0) says so
    and no chosen band says otherwise. A band says otherwise by NaN or infinity, or by its nodata
    value; but a nodata value that may well be a measurement, which is 0 or the largest value of an
    unsigned type, hides a pixel only where all chosen bands have it, so that a black pixel of one
    band is not a hole. An alpha band that is chosen as data hides nothing.

    A file of one band with a colour table is read as red, green and blue where these are wanted;
    its nodata value is then an index, and an index whose colour is transparent has no data.

    Attributes:
        name: Path, or the DataArray's name; for messages.
        shape: (H, W) in pixels.
        transform: Affine from (column, row) pixel corners to CRS units; identity if there is none.
        crs: rasterio CRS, or None.
        gcps: (ground control points, their CRS); ([], None) where there are none.
        dtype: NumPy type of the chosen bands' raw values.
        bands: The chosen bands, 1-based, in reading order.
        band_names: A name for each chosen band.
        band_note: One phrase that says how the bands were chosen, for the user.
        bands_guessed: Whether they were taken in file order for want of a better clue.
        overview_factors: Decimation of each overview, for example (2, 4, 8).
    """

    def __init__(self, source: Source, choice: BandChoice, nodata: float | None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._sampled: tuple[_Box, NDArray[np.float32]] | None = None
        self.name = source.name
        self.shape = source.shape
        self.transform = source.transform
        self.crs = source.crs
        self.gcps = source.gcps
        self.bands = choice.bands
        self.band_note = choice.note
        self.bands_guessed = choice.guessed
        self.band_names = tuple(source.bands[n - 1].label or f"band {n}" for n in self.bands)
        self.overview_factors = source.overviews
        types = [np.dtype(source.dtypes[n - 1]) for n in self.bands]
        self.dtype = np.result_type(*types)
        overridden = nodata is not None
        self._nodata = tuple(
            _as_dtype(nodata if overridden else source.bands[n - 1].nodata, self.dtype)
            for n in self.bands
        )
        self._masked = source.has_mask(self.bands)
        # overviews of a file that does not know its nodata value have mixed it into their pixels
        tagged = all(
            _as_dtype(source.bands[n - 1].nodata, self.dtype) == value
            for n, value in zip(self.bands, self._nodata, strict=True)
            if value is not None and not math.isnan(value)
        )
        self._levels = 1 + (len(source.overviews) if tagged else 0)
        # average overviews lose every cell that holds a NaN, unless NaN is the tagged nodata value
        self._nan_spreads = self.dtype.kind == "f" and not all(
            value is not None and math.isnan(value)
            for value in (source.bands[n - 1].nodata for n in self.bands)
        )
        self._known_shapes: list[tuple[int, int]] = []

    @classmethod
    def open(
        cls,
        source: str | Path | xarray.DataArray,
        *,
        bands: Sequence[int] | None = None,
        want: Sequence[str] | None = None,
        nodata: float | None = None,
    ) -> Scene:
        """Open a file, or anything else that GDAL reads, or wrap an xarray DataArray.

        Args:
            source: Path, URL or GDAL name; or a DataArray with dimensions (band, y, x) or (y, x) in
                any order, also dask-backed, whose georeference rioxarray understands. Arrays do
                not say which band is alpha: mask their pixels beforehand.
            bands: Bands to read, 1-based, in this order; a band may be repeated.
            want: Names of the bands that the caller needs where ``bands`` is not given, such as
                ``("red", "green", "blue")``: found by colour interpretation, else by band
                description, else the first bands are taken in file order; ``band_note`` says which.
                With neither ``bands`` nor ``want`` every band except alpha is read.
            nodata: Nodata value to use in place of the file's.

        Raises:
            SceneError: If the source is missing, is no raster, holds only subdatasets, has complex
                values, or lacks the bands; if it is neither a path nor a DataArray; if a band of
                indices into a colour table would be read as a colour.
        """
        opened = _open_source(source)
        try:
            if isinstance(opened, RasterSource) and want is not None:
                palette = _palette_band(opened, bands, want)
                if palette is not None:
                    opened, nodata = PaletteSource(opened, palette, nodata), None
            choice = _choose_bands(opened, bands, want)
            if isinstance(opened, PaletteSource):
                how = choice.note.replace("colour interpretation", "the colour table")
                choice = choice._replace(note=how)
            for kind in (opened.dtypes[n - 1] for n in choice.bands):
                if "complex" in kind or np.dtype(kind).kind not in "iuf":
                    raise SceneError(
                        f"{opened.name} holds {kind} values; convert them to integers or floats."
                    )
            return cls(opened, choice, nodata)
        except SceneError:
            opened.close()
            raise

    def close(self) -> None:
        """Close the file; the scene cannot be read afterwards."""
        self._source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_bands(self) -> int:
        """Number of chosen bands."""
        return len(self.bands)

    @property
    def has_nodata(self) -> bool:
        """Whether any pixel can be invalid: by nodata, NaN, mask or alpha."""
        floating = np.issubdtype(self.dtype, np.floating)
        return floating or self._masked or any(v is not None for v in self._nodata)

    @property
    def geobox(self) -> GeoBox | None:
        """odc-geo's shape + affine + CRS, or None for a scene without a CRS."""
        if self.crs is None:
            return None
        from odc.geo.geobox import GeoBox

        return GeoBox(self.shape, self.transform, self.crs.to_wkt())

    @property
    def pixel_size_m(self) -> tuple[float, float] | None:
        """Ground size of a pixel at the scene's centre: (y, x) metres, or None if it is unknown.

        From the transform and the CRS's unit for projected scenes, geodesic for geographic ones and
        for projections that stretch areas by more than 2 % there (Web Mercator), from the fitted
        affine for scenes that only have three or more ground control points.
        """
        ground = self._ground
        return None if ground is None else ground[:2]

    @property
    def pixel_area_m2(self) -> float | None:
        """Ground area of a pixel at the scene's centre in m², or None if it is unknown."""
        ground = self._ground
        return None if ground is None else ground[2]

    @property
    def _ground(self) -> tuple[float, float, float] | None:
        """(y size in m, x size in m, area in m²) of a pixel at the centre."""
        if self.crs is not None:
            return ground_size(self.transform, self.crs, self.shape)
        points, crs = self.gcps
        if crs is None or len(points) < 3:
            return None
        return ground_size(from_gcps(points), crs, self.shape)

    def read(
        self,
        window: Window,
        out_shape: tuple[int, int] | None = None,
        resampling: Resampling = "average",
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the chosen bands of a window, resampled where ``out_shape`` differs from it.

        Decimated reads start from the coarsest overview that has three pixels or more each way for
        one that is read, else from full resolution; so too where overviews have nodata mixed in,
        because the file does not tag the value that ``nodata`` gives, or NaN. They read strip by
        strip and weigh pixels by the area that they share with each output pixel.

        Args:
            window: Whole pixels, inside the scene.
            out_shape: (h, w) of the result; the window's own shape if None.
            resampling: ``average`` (area mean, the right one to decimate), ``nearest``, or
                ``bilinear`` (the right one to enlarge).

        Returns:
            (n_bands, h, w) float32 raw values, without any scale or offset, and (h, w) bool: where
            they are valid. Invalid pixels never take part in an average; an output pixel is valid
            where any part of it is. Invalid pixels hold values continued from the valid ones
            nearby (:func:`~geodeform.geo.resample.fill_invalid`), and 0 in a window without any.

        Raises:
            SceneError: If the file cannot be read there.
            ValueError: If the window is not of whole pixels inside the scene.
        """
        top, left, height, width = self._check(window)
        n_rows, n_cols = (height, width) if out_shape is None else map(int, out_shape)
        if n_rows < 1 or n_cols < 1:
            raise ValueError(f"out_shape must be at least (1, 1), got {out_shape}.")
        if (n_rows, n_cols) == (height, width):
            raw, valid = self._read_level(Window(left, top, width, height), 0)
            values = raw.astype(np.float32)
            if valid is None:
                return values, np.ones((height, width), bool)
        else:
            box = (top, left, height, width)
            level = self._level_for(box, (n_rows, n_cols))
            values, valid = self._read_resampled(box, (n_rows, n_cols), resampling, level)
        fill_invalid(values, valid)
        return values, valid

    def valid_mask(self, window: Window) -> NDArray[np.bool_]:
        """Return (h, w) which pixels of a window have data, at full resolution.

        Raises:
            SceneError: If the file cannot be read there.
            ValueError: If the window is not of whole pixels inside the scene.
        """
        top, left, height, width = self._check(window)
        if not self.has_nodata:
            return np.ones((height, width), bool)
        _, valid = self._read_level(Window(left, top, width, height), 0)
        return np.ones((height, width), bool) if valid is None else valid

    def any_valid(self, window: Window) -> bool:
        """Return whether any pixel of a window has data, at full resolution.

        Reads pieces of bounded size, the middle of the window first, up to the first valid pixel;
        where nothing can be invalid, none.

        Raises:
            SceneError: If the file cannot be read there.
            ValueError: If the window is not of whole pixels inside the scene.
        """
        top, left, height, width = self._check(window)
        if not self.has_nodata:
            return True
        side = 64
        inner = Window(
            left + max(width - side, 0) // 2,
            top + max(height - side, 0) // 2,
            min(side, width),
            min(side, height),
        )
        for piece in itertools.chain([inner], self._pieces((top, left, height, width), 0)):
            _, valid = self._read_level(piece, 0)
            if valid is None or valid.any():
                return True
        return False

    def percentiles(
        self, low: float, high: float, region: Window | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Estimate two percentiles of each band from about a million valid pixels.

        Looks at a decimated view; where even the coarsest usable level is too large to be read
        whole, at 256 small patches spread evenly. Where these hold hardly any valid pixel, at 4096
        patches, and at last at every pixel.

        Args:
            low: Lower percentile, 0…100.
            high: Upper percentile, above ``low``.
            region: The part of the scene that counts; all of it if None.

        Returns:
            (n_bands,) values at ``low`` and (n_bands,) at ``high``, raw units.

        Raises:
            ConfigError: If the percentiles are out of range or order.
            SceneError: If the region has no valid pixel (``NoValidPixelError``), or cannot be read.
            ValueError: If the region is not of whole pixels inside the scene.
        """
        if not 0 <= low < high <= 100:
            raise ConfigError(
                f"Percentiles must be 0 ≤ low < high ≤ 100, got {low:g} and {high:g}."
            )
        box = self._region(region)
        sample = self._sample(box)
        if self.has_nodata and sample.shape[1] < _FEW:
            sample = self._search(box)
        if sample.shape[1] == 0:
            part = "" if region is None else " in the part to be mapped"
            raise NoValidPixelError(
                f"{self.name} has no valid pixel{part} to take percentiles from; check its nodata "
                "value."
            )
        lower, upper = np.percentile(sample, [low, high], axis=1)
        return lower.astype(np.float32), upper.astype(np.float32)

    def zero_share(self, region: Window | None = None) -> float:
        """Estimate the share of pixels that are valid although every chosen band is 0 there.

        A large share suggests that the file lacks a nodata value of 0.

        Args:
            region: The part of the scene that counts; all of it if None.

        Raises:
            SceneError: If the scene cannot be read.
            ValueError: If the region is not of whole pixels inside the scene.
        """
        sample = self._sample(self._region(region))
        return float((sample == 0).all(axis=0).mean()) if sample.shape[1] else 0.0

    def _region(self, region: Window | None) -> _Box:
        return (0, 0, *self.shape) if region is None else self._check(region)

    def _sample_level(self, box: _Box) -> tuple[int, _Box]:
        """Return the coarsest level fine enough for a sample of a box, and the box there."""
        boxes = [self._level_box(box, level) for level in range(len(self._level_shapes()))]
        level = max((k for k, b in enumerate(boxes) if max(b[2:]) >= _SAMPLE_SIDE), default=0)
        return level, boxes[level]

    def _level_box(self, box: _Box, level: int) -> _Box:
        """Return the smallest box of a level's whole pixels around a box of full resolution."""
        height, width = self._level_shapes()[level]
        rows_per, cols_per = height / self.shape[0], width / self.shape[1]
        top, bottom = _clip(
            (math.floor(box[0] * rows_per), math.ceil((box[0] + box[2]) * rows_per)), height
        )
        left, right = _clip(
            (math.floor(box[1] * cols_per), math.ceil((box[1] + box[3]) * cols_per)), width
        )
        return top, left, bottom - top, right - left

    def _sample(self, box: _Box) -> NDArray[np.float32]:
        """Return (n_bands, n) valid values, spread over a box; the last box's are kept.

        A plan asks twice: for the share of zeros and for percentiles.
        """
        if self._sampled is None or self._sampled[0] != box:
            self._sampled = (box, self._read_sample(box))
        return self._sampled[1]

    def _read_sample(self, box: _Box) -> NDArray[np.float32]:
        level, there = self._sample_level(box)
        if there[2] * there[3] > 16 * _SAMPLE_SIDE**2:
            return self._gather(_patches(there, 64, 16), level)
        top, left, height, width = box
        side = (min(there[2], _SAMPLE_SIDE), min(there[3], _SAMPLE_SIDE))
        data, valid = self.read(Window(left, top, width, height), side, "nearest")
        return data[:, valid]

    def _search(self, box: _Box) -> NDArray[np.float32]:
        """Return (n_bands, n) valid values of a box with few of them; at last from every pixel."""
        level, there = self._sample_level(box)
        tries = [(0, self._pieces(box, 0))]
        if level:
            tries.insert(0, (level, self._pieces(there, level)))
        if there[2] * there[3] > 16 * _SAMPLE_SIDE**2:
            tries.insert(0, (level, _patches(there, 64, 64)))
        for number, windows in tries:
            found = self._gather(windows, number)
            if found.shape[1] >= _FEW:
                break
        return found

    def _gather(self, windows: Iterator[Window], level: int) -> NDArray[np.float32]:
        """Return (n_bands, n) valid values of the windows, thinned evenly to one or two million."""
        found = [np.empty((self.n_bands, 0), np.float32)]
        seen, kept, step = 0, 0, 1
        for window in windows:
            raw, known = self._read_level(window, level)
            flat = raw.reshape(len(raw), -1)
            if known is not None:
                flat = flat[:, known.ravel()]
            # of all valid pixels in reading order, those whose number is a multiple of the step
            found.append(flat[:, -seen % step :: step].astype(np.float32))
            seen += flat.shape[1]
            kept += found[-1].shape[1]
            while kept > 2 * _SAMPLE_SIDE**2:
                found = [np.concatenate(found, axis=1)[:, ::2]]
                kept, step = found[0].shape[1], 2 * step
        return np.concatenate(found, axis=1)

    def _pieces(self, box: _Box, level: int) -> Iterator[Window]:
        """Cut a box of a level into windows of at most _PIECE_BYTES, along rows of blocks."""
        top, left, height, width = box
        pixels = max(_PIECE_BYTES // (self.n_bands * max(self.dtype.itemsize, 4)), 1)
        block = self._source.block_rows(level)
        cols = min(left + width, pixels)
        rows = pixels // cols
        if rows >= block:
            rows -= rows % block
        elif block * block <= pixels:  # tiles are about square
            rows, cols = block, pixels // block // block * block
        for first, last in _cuts(top, top + height, rows):
            for start, stop in _cuts(left, left + width, cols):
                yield Window(start, first, stop - start, last - first)

    def _check(self, window: Window) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) of a window of whole pixels inside the scene."""
        box = (window.row_off, window.col_off, window.height, window.width)
        top, left, height, width = (round(v) for v in box)
        inside = (
            0 <= top <= top + height <= self.shape[0]
            and 0 <= left <= left + width <= (self.shape[1])
        )
        if (top, left, height, width) != box or not inside or height < 1 or width < 1:
            raise ValueError(
                f"{window} is not a window of whole pixels inside the {self.shape[0]} x "
                f"{self.shape[1]} pixels of {self.name}."
            )
        return top, left, height, width

    def _read_level(
        self, window: Window, level: int
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_] | None]:
        """Read raw values of one level and where they are valid (None: everywhere)."""
        try:
            with self._lock:
                data = self._source.read(self.bands, window, level)
                valid = self._source.read_mask(self.bands, window, level) if self._masked else None
        except (RasterioError, OSError) as error:
            rows = f"{window.row_off}…{window.row_off + window.height - 1}"
            cols = f"{window.col_off}…{window.col_off + window.width - 1}"
            where = f" of its overview {self.overview_factors[level - 1]}" if level else ""
            raise SceneError(
                f"{self.name} cannot be read at rows {rows}, columns {cols}{where} "
                f"({error.__cause__ or error}); the file may be truncated: fetch it again."
            ) from error
        return data, _combine(valid, self._valid_values(data))

    def _valid_values(self, data: NDArray[np.generic]) -> NDArray[np.bool_] | None:
        """Return where the values themselves say that there is data (None: everywhere)."""
        valid: NDArray[np.bool_] | None = None
        if np.issubdtype(data.dtype, np.floating):
            valid = np.isfinite(data).all(axis=0)
        top = int(np.iinfo(self.dtype).max) if self.dtype.kind == "u" else None
        sentinel: list[NDArray[np.bool_]] = []
        for plane, value in zip(data, self._nodata, strict=True):
            if value is None or math.isnan(value):
                continue
            hit = _equals(plane, value)
            if value == 0 or value == top:
                sentinel.append(hit)
            else:
                valid = _combine(valid, ~hit)
        if len(sentinel) == len(data):
            valid = _combine(valid, ~np.logical_and.reduce(sentinel))
        return valid

    def _read_resampled(
        self,
        box: tuple[int, int, int, int],
        out_shape: tuple[int, int],
        resampling: Resampling,
        level: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read (top, left, height, width) as (n, h, w) values, not yet filled, and their mask."""
        n_rows, n_cols = out_shape
        height, width = self._level_shapes()[level]
        rows_per, cols_per = height / self.shape[0], width / self.shape[1]
        top, bottom = box[0] * rows_per, (box[0] + box[2]) * rows_per
        left, right = box[1] * cols_per, (box[1] + box[3]) * cols_per
        # nothing outside the window is read where the window's edge is a pixel edge of the level
        row_lo, row_hi = _clip((math.floor(top), math.ceil(bottom)), height)
        col_lo, col_hi = _clip((math.floor(left), math.ceil(right)), width)

        cols = axis_weights(n_cols, left - col_lo, right - col_lo, col_hi - col_lo, resampling)
        values = np.empty((self.n_bands, n_rows, n_cols), np.float32)
        valid = np.empty((n_rows, n_cols), bool)
        cell = (bottom - top) / n_rows
        for first, last in self._strips(level, n_rows, cell, col_hi - col_lo):
            lo, hi = source_range(first, last, n_rows, top, bottom, resampling)
            lo = min(max(lo, row_lo), row_hi - 1)
            hi = max(min(hi, row_hi), lo + 1)
            rows = axis_weights(
                last - first, top + cell * first - lo, top + cell * last - lo, hi - lo, resampling
            )
            data, known = self._read_level(Window(col_lo, lo, col_hi - col_lo, hi - lo), level)
            if level and self._nan_spreads and not np.isfinite(data).all():
                return self._read_resampled(box, out_shape, resampling, 0)
            values[:, first:last], valid[first:last] = resample(data, known, rows, cols)
        return values, valid

    def _level_shapes(self) -> list[tuple[int, int]]:
        """Return (H, W) of full resolution and of each overview that may be read."""
        with self._lock:
            if not self._known_shapes:
                try:
                    shapes = [self._source.level_shape(level) for level in range(self._levels)]
                except (RasterioError, OSError) as error:
                    raise SceneError(
                        f"{self.name} has overviews that cannot be opened ({error}); the file may "
                        "be truncated: fetch it again, or build its overviews anew."
                    ) from error
                self._known_shapes = shapes
            return self._known_shapes

    def _level_for(self, box: tuple[int, int, int, int], out_shape: tuple[int, int]) -> int:
        """Return the coarsest level with enough pixels in the box, see _LEVEL_PIXELS."""
        best = 0
        shapes = self._level_shapes()
        for level, (height, width) in enumerate(shapes):
            enough = (
                box[2] * height / self.shape[0] >= out_shape[0] * _LEVEL_PIXELS
                and box[3] * width / self.shape[1] >= out_shape[1] * _LEVEL_PIXELS
            )
            if enough and height * width < shapes[best][0] * shapes[best][1]:
                best = level
        return best

    def _strips(self, level: int, n_rows: int, cell: float, width: int) -> list[tuple[int, int]]:
        """Split output rows, ``cell`` source rows each, so that a strip fits into _STRIP_BYTES."""
        row_bytes = width * self.n_bands * max(self.dtype.itemsize, 4)
        source_rows = max(_STRIP_BYTES // row_bytes, self._source.block_rows(level))
        per_strip = max(1, int(source_rows / cell))
        return [(a, min(a + per_strip, n_rows)) for a in range(0, n_rows, per_strip)]


@dataclass(frozen=True)
class Scaling:
    """How raw values become 0…1: ``(value − offset) · scale``, clipped.

    Attributes:
        offset: One raw value a band that becomes 0; or a single one for all bands.
        scale: One factor a band; or a single one for all bands.
        description: What was done, for output tags and messages.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    description: str

    @classmethod
    def stored(cls, maximum: float) -> Scaling:
        """Divide by a stored maximum, such as 255 for 8-bit imagery.

        Raises:
            ConfigError: If the maximum is not positive.
        """
        if not maximum > 0:
            raise ConfigError(f"The maximum value must be positive, got {maximum:g}.")
        return cls((0.0,), (1.0 / maximum,), f"divided by {maximum:g}")

    @classmethod
    def stretch(
        cls, scene: Scene, low: float = 2.0, high: float = 98.0, region: Window | None = None
    ) -> Scaling:
        """Stretch each band between two percentiles of its valid pixels, of a region's if given.

        A constant band has no range to stretch: all of its values become 0.

        Raises:
            ConfigError: If the percentiles are out of range or order.
            SceneError: If there is no valid pixel (``NoValidPixelError``), or the scene cannot be
                read.
            ValueError: If the region is not of whole pixels inside the scene.
        """
        lower, upper = scene.percentiles(low, high, region)
        span = upper.astype(np.float64) - lower
        scale = tuple(float(1 / s) if s > 0 else 0.0 for s in span)
        ranges = ", ".join(f"{a:g}…{b:g}" for a, b in zip(lower, upper, strict=True))
        return cls(
            tuple(float(a) for a in lower),
            scale,
            f"stretched between percentiles {low:g} and {high:g} ({ranges})",
        )

    @classmethod
    def for_scene(
        cls,
        scene: Scene,
        model_max: float,
        stretch: str | tuple[float, float] = "auto",
        region: Window | None = None,
    ) -> Scaling:
        """Choose the scaling of a scene for a model.

        A scene without a valid pixel has nothing to scale: it gets the model's range, and the
        description says so.

        Args:
            scene: The scene.
            model_max: The raw value that is 1 for the model, such as 255.
            stretch: ``auto``: as stored for 8-bit scenes and models, else percentiles 2 and 98;
                ``none``: as stored, whatever the type; (low, high): these percentiles.
            region: The part of the scene that percentiles look at; all of it if None.

        Raises:
            ConfigError: If ``stretch`` is none of these.
            SceneError: If the scene cannot be read.
            ValueError: If the region is not of whole pixels inside the scene.
        """
        if stretch == "none":
            return cls.stored(model_max)
        if stretch == "auto":
            eight_bit = scene.dtype == np.uint8 and model_max <= 255
            if eight_bit:
                return cls.stored(model_max)
            stretch = (2.0, 98.0)
        if isinstance(stretch, str) or len(stretch) != 2:
            raise ConfigError(f"stretch must be 'auto', 'none' or (low, high), got {stretch!r}.")
        try:
            return cls.stretch(scene, *stretch, region)
        except NoValidPixelError:
            scaling = cls.stored(model_max)
            note = f"{scaling.description}, for want of a valid pixel to take percentiles from"
            return replace(scaling, description=note)

    def apply(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n_bands, h, w) values of 0…1 for (n_bands, h, w) raw values."""
        offset = np.asarray(self.offset, np.float32)[:, None, None]
        scale = np.asarray(self.scale, np.float32)[:, None, None]
        out: NDArray[np.float32] = data - offset
        out *= scale
        return np.clip(out, 0, 1, out=out)

    def describe(self) -> str:
        """Return what was done, for output tags and messages."""
        return self.description


# ---- opening --------------------------------------------------------------------------------


def _open_source(source: object) -> Source:
    """Open a path or wrap a DataArray; anything else is an error that says what to give."""
    if isinstance(source, str | Path):
        return RasterSource(source)
    import xarray

    if isinstance(source, xarray.DataArray):
        return ArraySource(source)
    if isinstance(source, xarray.Dataset):
        raise SceneError(
            "A scene is a path or an xarray.DataArray, not an xarray.Dataset: choose one of its "
            "variables, as in dataset['red'], or stack them with dataset.to_dataarray('band')."
        )
    kind = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    raise SceneError(
        f"A scene is a path or an xarray.DataArray, not {kind}: give the file's path, or wrap "
        "pixels as xarray.DataArray(pixels, dims=('band', 'y', 'x'))."
    )


def _palette_band(
    source: RasterSource, bands: Sequence[int] | None, want: Sequence[str]
) -> int | None:
    """Return the one band whose colour table gives the wanted colours; None for other files.

    Raises:
        SceneError: If indices into a colour table would be taken for colours.
    """
    palettes = [n for n, b in enumerate(source.bands, start=1) if b.colour == "palette"]
    data_bands = [n for n, b in enumerate(source.bands, start=1) if b.colour != "alpha"]
    if bands is None:
        wanted = {name.lower() for name in want}
        if palettes and len(data_bands) == 1 and wanted <= {"red", "green", "blue"}:
            return palettes[0]
        bands = _choose_bands(source, None, want).bands if palettes else ()
    mistaken = sorted(set(palettes) & set(bands))
    if mistaken:
        alone = len(data_bands) == 1
        advice = "leave --bands out to read its colours, or " * alone
        raise SceneError(
            f"Band {mistaken[0]} of {source.name} holds indices into a colour table, not "
            f"{', '.join(want)}: {advice}expand it with gdal_translate -expand rgb."
        )
    return None


# ---- choosing bands -------------------------------------------------------------------------

# Sentinel-2's zero-padded names; "B4" without the zero is red for Landsat 8 but infrared for 7
_SENTINEL2 = {"blue": "b02", "green": "b03", "red": "b04", "nir": "b08"}


def _choose_bands(
    source: Source, bands: Sequence[int] | None, want: Sequence[str] | None
) -> BandChoice:
    """Choose bands by number, by name, or all of them."""
    count = len(source.bands)
    data_bands = [n for n, b in enumerate(source.bands, start=1) if b.colour != "alpha"]
    if bands is not None:
        chosen = [int(n) for n in bands]
        absent = [n for n in chosen if not 1 <= n <= count]
        if absent or not chosen:
            what = f"no band {', '.join(map(str, absent))}" if absent else "no bands chosen"
            raise SceneError(f"{source.name} has {_inventory(source)}: {what}; correct --bands.")
        return BandChoice(tuple(chosen), f"bands {_listed(chosen)} as given")
    if want is None:
        chosen = data_bands or [1]
        return BandChoice(tuple(chosen), f"all bands ({_listed(chosen)})")
    names = [name.lower() for name in want]
    colours = [b.colour for b in source.bands]
    meanings = [_meaning(b.description) for b in source.bands]
    by_colour = {n: colours.index(n) + 1 for n in names if n in colours}
    found = {n: meanings.index(n) + 1 for n in names if n in meanings} | by_colour
    if found.keys() >= set(names):
        chosen = [found[name] for name in names]
        rules = ["colour interpretation"] * bool(by_colour)
        rules += ["band descriptions"] * (len(by_colour) < len(set(names)))
        how = f"{', '.join(names)} = bands {_listed(chosen)} by {' and '.join(rules)}"
        return BandChoice(tuple(chosen), how)
    if len(data_bands) < len(names):
        raise SceneError(
            f"{source.name} has {_inventory(source)} but {len(names)} are needed "
            f"({', '.join(names)}); choose them with --bands, where a band may be repeated."
        )
    chosen = data_bands[: len(names)]
    how = (
        f"{', '.join(names)} = bands {_listed(chosen)} by file order, for want of colour "
        "interpretation; if the order differs, set --bands"
    )
    return BandChoice(tuple(chosen), how, guessed=True)


def _meaning(description: str) -> str:
    """Return the colour that a band description names, or ''."""
    words = "".join(c if c.isalnum() else " " for c in description.lower()).split()
    found = {name for name, code in _SENTINEL2.items() if name in words or code in words}
    return found.pop() if len(found) == 1 else ""


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _inventory(source: Source) -> str:
    """Return "3 bands (1 red, 2 green, 3 alpha)" for an error message."""
    count = len(source.bands)
    parts = [f"{n} {b.label}".strip() for n, b in enumerate(source.bands, 1)]
    more = ", …" if count > 8 else ""
    return f"{count} band{'s' * (count != 1)} ({', '.join(parts[:8])}{more})"


# ---- small helpers --------------------------------------------------------------------------


def _as_dtype(nodata: float | None, dtype: np.dtype[Any]) -> float | int | None:
    """Return a nodata value as the dtype can hold it, or None where no pixel can have it."""
    if nodata is None:
        return None
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            return float(dtype.type(nodata))
    if math.isnan(nodata) or nodata != int(nodata):
        return None
    info = np.iinfo(dtype)
    return int(nodata) if info.min <= nodata <= info.max else None


def _equals(plane: NDArray[np.generic], value: float) -> NDArray[np.bool_]:
    """Compare with a nodata value, for floats within the rounding of its text in a tag."""
    values: NDArray[Any] = plane
    if isinstance(value, int) or math.isinf(value):
        same: NDArray[np.bool_] = values == value
        return same
    info = np.finfo(values.dtype)
    slack = 4 * float(info.eps) * abs(value)
    lowest, highest = max(value - slack, float(info.min)), min(value + slack, float(info.max))
    near: NDArray[np.bool_] = (values >= lowest) & (values <= highest)
    return near


def _combine(
    one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Intersect two masks, where None is everywhere."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _clip(bounds: tuple[int, int], size: int) -> tuple[int, int]:
    """Clip [lo, hi) to 0…size, keeping at least one pixel."""
    lo = min(max(bounds[0], 0), size - 1)
    return lo, min(max(bounds[1], lo + 1), size)


def _cuts(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) at the multiples of a step."""
    for lo in range(start - start % step, stop, step):
        yield max(lo, start), min(lo + step, stop)


def _patches(box: _Box, patch: int, count: int) -> Iterator[Window]:
    """Spread ``count`` x ``count`` square patches evenly over a box."""
    top, left, height, width = box
    for row in _spread(height, patch, count):
        for col in _spread(width, patch, count):
            size = (min(patch, width - col), min(patch, height - row))
            yield Window(left + col, top + row, *size)


def _spread(size: int, patch: int, count: int) -> list[int]:
    """Return starts of ``count`` evenly spread patches; fewer where they would meet."""
    room = max(size - patch, 0)
    count = min(count, max(1, math.ceil(size / patch)))
    return sorted({round(i * room / max(count - 1, 1)) for i in range(count)})
