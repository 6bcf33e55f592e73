"""Class, confidence and density rasters: streamed in blocks, finished as Cloud Optimized GeoTIFFs.

A COG cannot be written in one go (its overviews come before its pixels), so blocks go to a sparse,
tiled GeoTIFF in a staging folder beside the output and the GDAL COG driver rewrites that at the
end. rasterio has no interface for category names and raster attribute tables: they are put beside
the temporary file as GDAL's own PAM sidecar (``.aux.xml``), from where the COG driver takes them
over. Reference: https://gdal.org/en/stable/drivers/raster/cog.html

Compression is DEFLATE: ZSTD at the same speed makes real class maps 7 % smaller, but unlike ZSTD
every reader has it (browsers, ArcGIS, older GDAL).
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; no public name
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import OutputError
from geodeform.geo.outputs import RASTER_SUFFIXES, OutputSet, final_path

NODATA_CONFIDENCE = 0
"""Stored confidence of pixels without data. It takes no value away: the largest of n ≤ 255 class
probabilities is at least 1/255, which is stored as 1."""

DENSITY_BANDS = ("sampling density", "samples per m²", "effective GSD")
"""Descriptions of the density raster's bands; only the first where the ground is unknown."""

Gcps = tuple[Sequence[GroundControlPoint], CRS | None]
"""Ground control points and their CRS, as rasterio's ``dataset.gcps`` gives them."""

_BLOCK = 512

GDAL_CACHE_BYTES = 256 << 20
"""For ``rasterio.Env(GDAL_CACHEMAX=…)``: GDAL's own default is a share of the machine's memory."""


class _CogWriter:
    """A COG, written block by block inside a ``with`` block.

    The base of the rasters below. The file appears at the end of the ``with`` block, or not
    at all.
    """

    _dtype: ClassVar[str]
    _nodata: ClassVar[float]
    _resampling: ClassVar[str]  # of the overviews
    _predictor: ClassVar[str]
    _bands: tuple[str, ...]  # their descriptions

    def __init__(
        self,
        path: str | Path,
        *,
        shape: tuple[int, int],
        transform: Affine | None,
        crs: CRS | None,
        gcps: Gcps | None = None,
        tags: Mapping[str, str],
        overwrite: bool = False,
    ) -> None:
        if min(shape) < 1:
            raise ValueError(f"A raster needs at least one pixel each way, not {shape}.")
        self.shape = shape
        self._georeference = _georeference(transform, crs, gcps)
        self._tags = tags  # as they are in the end: a run may have more to say then
        self._path = Path(path)
        self._outputs = OutputSet(overwrite=overwrite)
        self._dataset: Any = None
        self._written: list[tuple[Window, int]] = []

    def __enter__(self) -> Self:
        self._staged = self._outputs.add(self._path, suffixes=RASTER_SUFFIXES)
        self._blocks = self._staged.with_name("blocks.tmp")  # no output can be called so
        try:
            self._open()
        except BaseException as error:
            self._outputs.__exit__(type(error), error, None)
            raise
        return self

    def write(self, window: Window, data: NDArray[Any]) -> None:
        """Write one block; blocks may come in any order, fastest as full-width rows downwards.

        Blocks must not overlap. Pixels that are never written are nodata.

        Args:
            window: Where the block lies, within the raster.
            data: (window.height, window.width) values of the raster's type, and before them a
                dimension for the bands where there are several.

        Raises:
            ValueError: If the block's shape or type is not the window's or the raster's, or the
                window reaches beyond the raster.
            OutputError: If the disk is full or the file cannot be written.
        """
        if self._dataset is None:
            raise ValueError("Blocks can be written inside the writer's with block only.")
        n = len(self._bands)
        planes = (n, window.height, window.width)
        if data.shape != (planes if n > 1 else planes[1:]) or data.dtype != self._dtype:
            raise ValueError(
                f"A block of {data.dtype} {data.shape} does not fit a window of "
                f"{self._dtype} {planes if n > 1 else planes[1:]}."
            )
        if (
            min(window.row_off, window.col_off) < 0
            or window.row_off + window.height > self.shape[0]
            or window.col_off + window.width > self.shape[1]
        ):
            raise ValueError(f"{window} reaches beyond the raster of {self.shape}.")
        with self._errors():
            self._dataset.write(data.reshape(planes), window=window)
        self._written.append((window, _checksum(data)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            elif self._dataset is not None:
                self._dataset.close()
        except BaseException as failure:
            self._outputs.__exit__(type(failure), failure, None)
            raise
        finally:
            self._dataset = None
        self._outputs.__exit__(kind, error, trace)

    def _open(self) -> None:
        height, width = self.shape
        with self._errors(), _unreferenced_is_fine():
            self._dataset = rasterio.open(
                self._blocks,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=len(self._bands),
                dtype=self._dtype,
                nodata=self._nodata,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                compress="DEFLATE",
                zlevel=1,  # read once, then deleted
                sparse_ok=True,
                bigtiff="IF_SAFER",
                **self._georeference,
            )
            for band, description in enumerate(self._bands, 1):
                self._dataset.set_band_description(band, description)
            self._describe(self._dataset)

    def _describe(self, dataset: Any) -> None:
        """Set what the kind of raster has beyond its values."""

    def _sidecar(self) -> ElementTree.Element | None:
        """Return GDAL's PAM description of the band, where the kind of raster has one."""
        return None

    def _finish(self) -> None:
        with self._errors(), _unreferenced_is_fine(), rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
            self._dataset.update_tags(**self._tags)
            self._dataset.close()
            sidecar = self._sidecar()
            if sidecar is not None:
                ElementTree.ElementTree(sidecar).write(
                    self._blocks.with_name(self._blocks.name + ".aux.xml"), encoding="utf-8"
                )
            rasterio.shutil.copy(
                self._blocks,
                self._staged,
                driver="COG",
                strict=False,
                # rasterio, and so `rio cogeo validate`, sees a tile as wide as the image as a strip
                BLOCKSIZE=str(_BLOCK // 2 if self.shape[1] == _BLOCK else _BLOCK),
                COMPRESS="DEFLATE",
                PREDICTOR=self._predictor,
                OVERVIEW_RESAMPLING=self._resampling,
                BIGTIFF="IF_SAFER",
                NUM_THREADS="ALL_CPUS",
            )
            self._check()

    def _check(self) -> None:
        """Read the finished file back: GDAL reports some failures of a full disk to the log only.

        Raises:
            OutputError: If it does not hold what was written.
        """
        crs = self._georeference["crs"]
        with rasterio.open(self._staged) as written:
            for window, checksum in self._written:
                if _checksum(written.read(window=window)) != checksum:
                    raise OutputError(
                        f"Cannot write {final_path(self._path)} (it came out damaged); check the "
                        "free disk space."
                    )
            lost = crs is not None and crs not in (written.crs, written.gcps[1])
        if lost:
            _describe_crs(self._staged, crs)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what GDAL and the disk say into an error that names the output."""
        try:
            yield
        except (RasterioError, CPLE_BaseError, OSError) as error:
            reason = error.__cause__ or error  # GDAL's own words, where rasterio has them
            raise OutputError(
                f"Cannot write {final_path(self._path)} ({reason}); check the free disk space."
            ) from error


class ClassRasterWriter(_CogWriter):
    """The class raster: uint8 class ids, nodata 255, named and coloured.

    A COG of 512 px blocks with overviews by majority (MODE), a colour table in which nodata is
    transparent, and, in the ``.aux.xml`` beside it, category names and a raster attribute table
    (value, name, red, green, blue, alpha) that GDAL, QGIS and ArcGIS read. It has the scene's
    transform, CRS and ground control points, bit for bit.

    Args:
        path: Where the file shall appear: ``.tif`` or ``.tiff``.
        shape: (height, width) in pixels.
        transform: The scene's affine transform; ``None`` or the identity where it has none.
        crs: The scene's CRS, or ``None``.
        gcps: Ground control points and their CRS, used where there is no transform.
        scheme: Names and colours of the classes.
        tags: Metadata of the file, such as software, model, budget and source.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists, has another suffix, or cannot be written.
    """

    _dtype = "uint8"
    _nodata = NODATA_CLASS
    _resampling = "MODE"
    _predictor = "NO"
    _bands = ("class",)

    def __init__(
        self,
        path: str | Path,
        *,
        shape: tuple[int, int],
        transform: Affine | None,
        crs: CRS | None,
        gcps: Gcps | None = None,
        scheme: ClassScheme,
        tags: Mapping[str, str],
        overwrite: bool = False,
    ) -> None:
        super().__init__(
            path,
            shape=shape,
            transform=transform,
            crs=crs,
            gcps=gcps,
            tags=tags,
            overwrite=overwrite,
        )
        self._scheme = scheme

    def _describe(self, dataset: Any) -> None:
        colours = {k: (*colour, 255) for k, colour in enumerate(self._scheme.colours)}
        dataset.write_colormap(1, {**colours, NODATA_CLASS: (0, 0, 0, 0)})

    def _sidecar(self) -> ElementTree.Element:
        root = ElementTree.Element("PAMDataset")
        band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
        names = ElementTree.SubElement(band, "CategoryNames")
        for name in self._scheme.names:
            ElementTree.SubElement(names, "Category").text = name
        band.append(_attribute_table(self._scheme))
        return root


class ConfidenceRasterWriter(_CogWriter):
    """The confidence raster: the probability of each pixel's class.

    Stored as uint8 with scale 1/255, so that readers which know GDAL's scale see 0…1; 0 is nodata
    (see :data:`NODATA_CONFIDENCE`). Overviews are averages. The arguments are those of
    :class:`ClassRasterWriter`.
    """

    _dtype = "uint8"
    _nodata = NODATA_CONFIDENCE
    _resampling = "AVERAGE"
    _predictor = "STANDARD"
    _bands = ("confidence",)

    def _describe(self, dataset: Any) -> None:
        dataset.scales = (1 / 255,)
        dataset.offsets = (0.0,)


class TrustRasterWriter(ConfidenceRasterWriter):
    """The trust raster, stored as :class:`ConfidenceRasterWriter` stores confidence."""

    _bands = ("trust",)


class DensityRasterWriter(_CogWriter):
    """The density raster: how densely a scene was sampled, float32, NaN where there is no data.

    Band 1 has sampled pixels per source pixel. Where the ground is known, band 2 has samples per m²
    and band 3 the effective ground sampling distance in metres: the distance of samples on a square
    grid as dense. It varies slowly, so it comes on a coarser grid than the scene (see
    :func:`coarse_grid`), with its own exact transform. Overviews are averages.

    Args:
        path: Where the file shall appear: ``.tif`` or ``.tiff``.
        shape: (height, width) of the coarser grid.
        transform: Its affine transform, or ``None``.
        crs: The scene's CRS, or ``None``.
        gcps: Ground control points in the coarser grid and their CRS.
        tags: Metadata of the file.
        pixel_areas_m2: (height,) ground area of one SOURCE pixel in each row, where it is known.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists, has another suffix, or cannot be written.
    """

    _dtype = "float32"
    _nodata = math.nan
    _resampling = "AVERAGE"
    _predictor = "FLOATING_POINT"
    _bands: tuple[str, ...] = DENSITY_BANDS[:1]

    def __init__(
        self,
        path: str | Path,
        *,
        shape: tuple[int, int],
        transform: Affine | None,
        crs: CRS | None,
        gcps: Gcps | None = None,
        tags: Mapping[str, str],
        pixel_areas_m2: NDArray[np.float64] | None = None,
        overwrite: bool = False,
    ) -> None:
        self._areas = pixel_areas_m2
        if pixel_areas_m2 is not None:
            self._bands = DENSITY_BANDS
        super().__init__(
            path,
            shape=shape,
            transform=transform,
            crs=crs,
            gcps=gcps,
            tags=tags,
            overwrite=overwrite,
        )

    def write(self, window: Window, data: NDArray[Any]) -> None:
        """Write one block of sampled pixels per source pixel; the other bands follow from it."""
        if self._areas is None or data.ndim != 2:
            super().write(window, data)
            return
        top = int(window.row_off)
        on_ground = data / self._areas[top : top + len(data), None]
        with np.errstate(divide="ignore"):
            distance = np.where(on_ground > 0, 1 / np.sqrt(on_ground), np.nan)
        super().write(window, np.stack([data, on_ground, distance]).astype(self._dtype))

    def _describe(self, dataset: Any) -> None:
        for band, unit in enumerate(("samples per source pixel", "1/m²", "m")[: dataset.count], 1):
            dataset.set_band_unit(band, unit)
        dataset.update_tags(density_meaning="sampled pixels per source pixel")


def coarse_grid(
    shape: tuple[int, int], factor: int, transform: Affine | None, gcps: Gcps | None = None
) -> tuple[tuple[int, int], Affine | None, Gcps | None]:
    """Return the grid whose cells are ``factor`` × ``factor`` pixels of a scene.

    The cells of the last row and column may reach beyond the scene, so that every cell is exactly
    ``factor`` pixels and the upper left corner is the scene's.

    Args:
        shape: (height, width) of the scene.
        factor: Scene pixels per cell, each way.
        transform: The scene's transform, or ``None``.
        gcps: The scene's ground control points.

    Returns:
        Shape, transform and ground control points of the coarser grid.
    """
    rows, cols = (-(-size // factor) for size in shape)
    points = None
    if gcps is not None:
        points = (
            [
                GroundControlPoint(p.row / factor, p.col / factor, p.x, p.y, p.z, p.id, p.info)
                for p in gcps[0]
            ],
            gcps[1],
        )
    scaled = None
    if transform is not None:
        a, b, c, d, e, f = transform[:6]
        scaled = Affine(a * factor, b * factor, c, d * factor, e * factor, f)
    return (rows, cols), scaled, points


def _checksum(data: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(data).data)


def _georeference(transform: Affine | None, crs: CRS | None, gcps: Gcps | None) -> dict[str, Any]:
    """Return rasterio's keywords for a georeference.

    A scene with ground control points has no CRS of its own; the shift or scale that a part of it
    or a coarser grid gives its identity transform must not hide them.
    """
    if crs is None and gcps is not None and len(gcps[0]) > 0:
        return {"gcps": list(gcps[0]), "crs": gcps[1]}
    if transform is not None and transform != Affine.identity():
        return {"transform": transform, "crs": crs}
    return {"crs": crs}


def _describe_crs(path: Path, crs: CRS) -> None:
    """Put a CRS that GeoTIFF has no keys for, such as a rotated pole, into GDAL's PAM sidecar."""
    sidecar = path.with_name(path.name + ".aux.xml")
    root = (
        ElementTree.parse(sidecar).getroot()
        if sidecar.exists()
        else ElementTree.Element("PAMDataset")
    )
    ElementTree.SubElement(root, "SRS").text = crs.to_wkt(version="WKT2_2019")
    ElementTree.ElementTree(root).write(sidecar, encoding="utf-8")


@contextmanager
def _unreferenced_is_fine() -> Iterator[None]:
    """Silence rasterio's warning about missing transforms: the scene's reader has given it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _attribute_table(scheme: ClassScheme) -> ElementTree.Element:
    """Return GDAL's raster attribute table of the classes, as its XML."""
    # name, GDALRATFieldType (0 integer, 2 string), GDALRATFieldUsage
    fields = (
        ("Value", 0, 5),
        ("Class", 2, 2),
        ("Red", 0, 6),
        ("Green", 0, 7),
        ("Blue", 0, 8),
        ("Alpha", 0, 9),
    )
    table = ElementTree.Element("GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(fields):
        field = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        ElementTree.SubElement(field, "Name").text = name
        ElementTree.SubElement(field, "Type").text = str(kind)
        ElementTree.SubElement(field, "Usage").text = str(usage)
    for index, (name, colour) in enumerate(zip(scheme.names, scheme.colours, strict=True)):
        row = ElementTree.SubElement(table, "Row", index=str(index))
        for value in (index, name, *colour, 255):
            ElementTree.SubElement(row, "F").text = str(value)
    return table
