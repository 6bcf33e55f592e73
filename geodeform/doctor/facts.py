"""What the checks of rasters share: facts, opening, strips."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.doctor.legends import Sidecar

_STRIP_PIXELS = 1 << 22


@dataclass
class RasterFacts:
    """What is known of a raster; the counts once every pixel of it was read.

    Attributes:
        role: ``class``, ``confidence``, ``trust``, ``density`` or ``image``.
        shape: (height, width) in pixels.
        transform: Pixel corner (col, row) → (x, y); fitted where there are ground control points.
        crs: Its CRS, or None.
        tags: Its metadata.
        dtype: Of the first band.
        nodata: Of the first band, or None.
        scale: Value = stored · scale + offset.
        offset: See ``scale``.
        description: Of the first band.
        unit: Of the first band.
        counts: Pixels by stored value, of the first band where it holds whole numbers of at most
            65,536 different values; else None.
        minimum: Smallest finite stored value without nodata, or None.
        maximum: Largest one.
        missing: Pixels of nodata or NaN.
        infinite: Pixels of ±infinity.
        sidecar: What the ``.aux.xml`` says, or None.
        names: Class names by value, of a class raster.
    """

    role: str
    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None
    tags: dict[str, str]
    dtype: str
    nodata: float | None
    scale: float
    offset: float
    description: str
    unit: str
    counts: dict[int, int] | None = None
    minimum: float | None = None
    maximum: float | None = None
    missing: int = 0
    infinite: int = 0
    sidecar: Sidecar | None = None
    names: dict[int, str] = field(default_factory=dict)


def open_raster(path: Path, **options: Any) -> Any:
    """Open a raster; without a georeference too, which is a finding and no warning.

    Raises:
        RasterioError: If GDAL cannot open it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, **options)


def strips(shape: tuple[int, int], block_rows: int) -> Iterator[Window]:
    """Full-width windows of a few megabytes, of whole rows of blocks where these are no larger."""
    height, width = shape
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    rows = rows // block_rows * block_rows or min(rows, block_rows)
    for top in range(0, height, rows):
        yield Window(0, top, width, min(rows, height - top))
