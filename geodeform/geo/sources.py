"""Where a Scene's pixels come from: a file through rasterio, or an xarray DataArray."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from geodeform.errors import SceneError

if TYPE_CHECKING:
    import xarray
    from affine import Affine


@dataclass(frozen=True)
class Band:
    """What a source says about one of its bands."""

    description: str
    colour: str  # GDAL's colour interpretation, lower case; "" where it says nothing
    nodata: float | None

    @property
    def label(self) -> str:
        """What to call the band: its description, else its colour; "" where neither says much."""
        # GDAL calls the first band of any unlabelled file gray
        return self.description or (self.colour if self.colour != "gray" else "")


class Source(Protocol):
    """What Scene needs of a file or an array. Levels: 0 is full resolution, then overviews."""

    name: str
    shape: tuple[int, int]
    dtypes: tuple[str, ...]
    bands: tuple[Band, ...]
    transform: Affine
    crs: CRS | None
    gcps: tuple[list[Any], CRS | None]
    overviews: tuple[int, ...]

    def level_shape(self, level: int) -> tuple[int, int]:
        """(H, W) of a level."""
        ...

    def block_rows(self, level: int) -> int:
        """Rows of the level's blocks: strips of a multiple of it decode no block twice."""
        ...

    def read(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.generic]:
        """(n, h, w) raw values of 1-based bands."""
        ...

    def has_mask(self, bands: Sequence[int]) -> bool:
        """Whether a mask or an alpha band hides pixels of these bands."""
        ...

    def read_mask(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.bool_]:
        """(h, w) pixels that the mask or alpha band lets through."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class RasterSource:
    """A file, or whatever else rasterio opens."""

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        local = "://" not in self.name and not self.name.startswith("/vsi") and ":" not in self.name
        if local and not Path(path).exists():
            raise SceneError(f"{self.name} does not exist; check the path.")
        self._datasets: dict[int, Any] = {}
        try:
            main = self._open()
        except RasterioError as error:
            raise SceneError(
                f"{self.name} is not a raster that GDAL can read ({error}); give it a GeoTIFF or "
                "another raster."
            ) from error
        self._datasets[0] = main
        if main.count == 0:
            listed = ", ".join(main.subdatasets[:8])
            self.close()
            if listed:
                raise SceneError(f"{self.name} holds several rasters; name one of them: {listed}.")
            raise SceneError(f"{self.name} has no raster band; give it an image.")
        self.shape = (main.height, main.width)
        self.dtypes = tuple(main.dtypes)
        self.transform = main.transform
        self.crs = main.crs
        points, points_crs = main.gcps
        self.gcps = (list(points), points_crs)
        self.overviews = tuple(main.overviews(1))
        colours = [c.name.lower() if c != ColorInterp.undefined else "" for c in main.colorinterp]
        self.bands = tuple(
            Band(description or "", colour, nodata)
            for description, colour, nodata in zip(
                main.descriptions, colours, main.nodatavals, strict=True
            )
        )
        self._flags = main.mask_flag_enums

    def colour_table(self, band: int) -> NDArray[np.uint8] | None:
        """Return a palette band's (n, 4) red, green, blue and alpha by index, or None."""
        if self.bands[band - 1].colour != "palette" or "int" not in self.dtypes[band - 1]:
            return None
        try:
            table: dict[int, tuple[int, int, int, int]] = self._level(0).colormap(band)
        except ValueError:  # called a palette, but without a table
            return None
        colours = np.zeros((max(table) + 1, 4), np.uint8)
        for index, colour in table.items():
            colours[index] = colour
        return colours

    def _open(self, **options: Any) -> Any:
        with warnings.catch_warnings():
            # a scene without georeference is welcome; whoever needs one looks at .crs
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # not entered as a context manager, which would tie it to the thread that opens it
            return rasterio.open(self.name, **options)

    def _level(self, level: int) -> Any:
        if level not in self._datasets:
            self._datasets[level] = self._open(overview_level=level - 1)
        return self._datasets[level]

    def level_shape(self, level: int) -> tuple[int, int]:
        """Return (H, W) of a level."""
        if level == 0:
            return self.shape
        dataset = self._level(level)
        return dataset.height, dataset.width

    def block_rows(self, level: int) -> int:
        """Return the rows of the level's blocks."""
        rows: int = self._level(level).block_shapes[0][0]
        return rows

    def read(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.generic]:
        """Read (n, h, w) raw values of 1-based bands."""
        out: NDArray[np.generic] = self._level(level).read(list(bands), window=window)
        return out

    def _alpha(self, bands: Sequence[int]) -> int | None:
        """Return the number of an alpha band that is not chosen as data."""
        for number, band in enumerate(self.bands, start=1):
            if band.colour == "alpha" and number not in bands:
                return number
        return None

    def _per_dataset(self, bands: Sequence[int]) -> bool:
        """Whether an internal, .msk or VRT mask, or a nodata tuple, hides pixels of all bands."""
        flags = self._flags[bands[0] - 1]
        return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags

    def has_mask(self, bands: Sequence[int]) -> bool:
        """Whether a mask or an alpha band hides pixels of these bands."""
        return self._alpha(bands) is not None or self._per_dataset(bands)

    def read_mask(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.bool_]:
        """Read (h, w) the pixels that the mask or alpha band lets through."""
        dataset = self._level(level)
        alpha = self._alpha(bands)
        valid = np.ones((window.height, window.width), bool)
        if alpha is not None:
            valid &= dataset.read(alpha, window=window) > 0
        if self._per_dataset(bands):
            valid &= dataset.read_masks(bands[0], window=window) > 0
        return valid

    def close(self) -> None:
        """Close every level of the file."""
        for dataset in self._datasets.values():
            dataset.close()


class PaletteSource:
    """The colours of a file whose one band holds indices into a colour table: red, green, blue.

    Reads expand indices at full resolution, so that colours are averaged and indices never are; the
    file's overviews may have averaged them and are not used.

    Args:
        inner: The file.
        band: The palette band, 1-based.
        nodata: Index without data, in place of the file's nodata value; None to keep that.
    """

    overviews: tuple[int, ...] = ()

    def __init__(self, inner: RasterSource, band: int, nodata: float | None) -> None:
        table = inner.colour_table(band)
        if table is None:
            raise SceneError(
                f"{inner.name} has a palette band {band} without a colour table; convert it to red,"
                " green and blue."
            )
        self._inner = inner
        self._band = band
        self._table = table
        self._nodata = inner.bands[band - 1].nodata if nodata is None else nodata
        self.name = inner.name
        self.shape = inner.shape
        self.transform = inner.transform
        self.crs = inner.crs
        self.gcps = inner.gcps
        self.dtypes: tuple[str, ...] = ("uint8",) * 3
        self.bands = tuple(Band("", colour, None) for colour in ("red", "green", "blue"))

    def level_shape(self, level: int) -> tuple[int, int]:
        """Return (H, W) of the only level."""
        return self.shape

    def block_rows(self, level: int) -> int:
        """Return the rows of the file's blocks."""
        return self._inner.block_rows(0)

    def _indices(self, window: Window) -> NDArray[Any]:
        indices: NDArray[Any] = self._inner.read([self._band], window, 0)[0]
        return indices

    def _colours(self, indices: NDArray[Any]) -> NDArray[np.uint8]:
        """Return (h, w, 4); indices beyond the table are black and transparent."""
        known = (indices >= 0) & (indices < len(self._table))
        colours = self._table[np.where(known, indices, 0)]
        colours[~known] = 0
        return colours

    def read(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.generic]:
        """Read (n, h, w) colours."""
        colours = self._colours(self._indices(window))
        return np.moveaxis(colours[..., [n - 1 for n in bands]], -1, 0)

    def has_mask(self, bands: Sequence[int]) -> bool:
        """Whether an index, a mask or an alpha band can hide pixels."""
        kind = np.iinfo(self._inner.dtypes[self._band - 1])
        partial = len(self._table) <= kind.max or bool((self._table[:, 3] == 0).any())
        return partial or self._nodata is not None or self._inner.has_mask([self._band])

    def read_mask(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.bool_]:
        """Read (h, w) which indices have a visible colour and are not nodata."""
        indices = self._indices(window)
        valid: NDArray[np.bool_] = self._colours(indices)[..., 3] > 0
        if self._nodata is not None:
            valid &= indices != self._nodata
        if self._inner.has_mask([self._band]):
            valid &= self._inner.read_mask([self._band], window, 0)
        return valid

    def close(self) -> None:
        """Close the file."""
        self._inner.close()


class ArraySource:
    """An xarray DataArray, eager, lazy or dask-backed; only slices of it are ever computed."""

    overviews: tuple[int, ...] = ()

    def __init__(self, array: xarray.DataArray) -> None:
        import rioxarray  # noqa: F401  (registers .rio)
        from rioxarray.exceptions import RioXarrayError

        self.name = f"DataArray {array.name!r}" if array.name else "The DataArray"
        try:
            y_dim, x_dim = array.rio.y_dim, array.rio.x_dim
        except RioXarrayError as error:
            raise SceneError(
                f"{self.name} has dimensions {tuple(array.dims)} without x and y; name them with "
                "rio.set_spatial_dims."
            ) from error
        extra = [d for d in array.dims if d not in (y_dim, x_dim)]
        single = [d for d in extra if array.sizes[d] == 1]
        array = array.squeeze(single if len(single) < len(extra) else single[1:], drop=True)
        extra = [d for d in array.dims if d not in (y_dim, x_dim)]
        if len(extra) > 1:
            raise SceneError(
                f"{self.name} has dimensions {tuple(array.dims)}; select one image of (band, y, x)."
            )
        if 0 in array.shape:
            raise SceneError(f"{self.name} is empty, its shape is {array.shape}; give it pixels.")
        self._dims = (extra[0] if extra else None, y_dim, x_dim)
        self._array = array.transpose(*extra, y_dim, x_dim)
        self.shape = (array.sizes[y_dim], array.sizes[x_dim])
        count = array.sizes[extra[0]] if extra else 1
        self.dtypes = (str(array.dtype),) * count
        self.crs = array.rio.crs
        self.transform = _array_transform(array, y_dim, x_dim, self.name)
        points = array.rio.get_gcps()
        self.gcps = (list(points), array.rio.crs) if points else ([], None)
        if points:
            self.crs = None
        nodata = array.rio.nodata
        self.bands = tuple(
            Band(name, "", None if nodata is None else float(nodata))
            for name in _array_band_names(array, self._dims[0], count)
        )

    def level_shape(self, level: int) -> tuple[int, int]:
        """Return (H, W) of a level."""
        return self.shape

    def block_rows(self, level: int) -> int:
        """Return the rows of the level's blocks."""
        chunks = self._array.chunks
        return int(chunks[-2][0]) if chunks else 1

    def read(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.generic]:
        """Read (n, h, w) raw values of 1-based bands."""
        band_dim, y_dim, x_dim = self._dims
        part = self._array.isel(
            {
                y_dim: slice(window.row_off, window.row_off + window.height),
                x_dim: slice(window.col_off, window.col_off + window.width),
            }
        )
        if band_dim is None:
            return np.repeat(part.to_numpy()[None], len(bands), axis=0)
        return part.isel({band_dim: [n - 1 for n in bands]}).to_numpy()

    def has_mask(self, bands: Sequence[int]) -> bool:
        """Whether a mask or an alpha band hides pixels of these bands."""
        return False

    def read_mask(self, bands: Sequence[int], window: Window, level: int) -> NDArray[np.bool_]:
        """Read (h, w) the pixels that the mask or alpha band lets through."""
        return np.ones((window.height, window.width), bool)

    def close(self) -> None:
        """Leave the array open: it is the caller's."""


def _array_band_names(array: xarray.DataArray, dim: Any, count: int) -> list[str]:
    """Return band descriptions: the long_name tuple that rioxarray writes, or text coordinates."""
    long_name = array.attrs.get("long_name")
    if isinstance(long_name, tuple | list) and len(long_name) == count:
        return [str(name) for name in long_name]
    if dim is not None and dim in array.coords:
        values = array.coords[dim].to_numpy()
        if values.dtype.kind in "UO":
            return [str(v) for v in values]
    return [""] * count


def _array_transform(array: xarray.DataArray, y_dim: Any, x_dim: Any, name: str) -> Affine:
    """Return the transform; from the coordinates where they contradict the stored one.

    A slice or a flip of a DataArray keeps the attribute that holds the whole's transform.
    """
    stored: Affine = array.rio.transform()
    if y_dim not in array.coords or x_dim not in array.coords or stored.b or stored.d:
        return stored
    from affine import Affine

    axes = []
    for dim, step, start in ((x_dim, stored.a, stored.c), (y_dim, stored.e, stored.f)):
        centres = array.coords[dim].to_numpy().astype(np.float64)
        n = len(centres)
        if n > 1:
            fitted = (centres[-1] - centres[0]) / (n - 1)
            even = centres[0] + fitted * np.arange(n)
            if fitted == 0 or not np.allclose(centres, even, rtol=0, atol=abs(fitted) * 0.01):
                raise SceneError(
                    f"{name} has unevenly spaced {dim} coordinates; resample it to a regular grid."
                )
        else:
            fitted = step
        ends = start + step * np.array([0.5, n - 0.5])
        agree = np.abs(centres[[0, -1]] - ends).max() <= abs(step) * 0.01
        axes.append((step, start) if agree else (fitted, centres[0] - fitted / 2))
    (a, c), (e, f) = axes
    return Affine(a, 0.0, c, 0.0, e, f)
