"""Opening and reading the rasters of a folder."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from geodeform.errors import DatasetError, SceneError
from geodeform.geo.scene import Scene

OPENING = threading.Lock()
"""To hold while a raster is opened: catch_warnings is not safe in threads, and opening is quick."""

BLOCK_BYTES = 64 << 20
"""Of the float32 values of a block of rows."""


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """Open a raster with rasterio, with or without georeference.

    Raises:
        DatasetError: If it cannot be read, then or within the ``with`` block.
    """
    try:
        with ExitStack() as stack:
            with OPENING, warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                raster = stack.enter_context(rasterio.open(path))
            yield raster
    except RasterioError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.__cause__ or error}); fetch it again, or save it as "
            "GeoTIFF or PNG."
        ) from error


def raster_files(path: Path) -> list[Path]:
    """A raster and the files beside it that GDAL reads with it; the sources of a VRT, too."""
    with open_raster(path) as dataset:
        return [file for file in map(Path, dataset.files) if file.is_file()] or [path]


def row_blocks(shape: tuple[int, int], n_bands: int) -> Iterator[Window]:
    """Blocks of whole rows that cover a raster, of about BLOCK_BYTES of float32 values."""
    H, W = shape
    rows = max(BLOCK_BYTES // (4 * n_bands * W), 1)
    if rows > 256:  # of tiles' heights, so that none is decoded twice
        rows -= rows % 256
    for top in range(0, H, rows):
        yield Window(0, top, W, min(rows, H - top))


@contextmanager
def scene_errors() -> Iterator[None]:
    """Errors of images are errors of the dataset; they name the file already."""
    try:
        yield
    except SceneError as error:
        raise DatasetError(str(error)) from error


def is_paletted(path: Path) -> bool:
    """Whether an image is one band of indices into a colour table, which is read as colours."""
    try:
        with Scene.open(path, want=("red", "green", "blue")) as scene:
            return "colour table" in scene.band_note
    except SceneError:
        return False
