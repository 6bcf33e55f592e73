"""Raster masks: on the grid of their image, as classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from geodeform.errors import DatasetError
from geodeform.training.datasets.folder.classes import Legend
from geodeform.training.datasets.folder.grids import WARP_TOLERANCE, Grid
from geodeform.training.datasets.folder.rasters import open_raster


@contextmanager
def open_mask(path: Path, image: Grid) -> Iterator[Any]:
    """Open a mask on the image's grid, warped where it has another one of its own.

    Raises:
        DatasetError: If it cannot be read, or does not fit an image that it cannot be warped to.
    """
    with open_raster(path) as mask:
        own = Grid.of(mask)
        if own.crs is None and own.placed:  # a world file says where, but not in which CRS
            own = own._replace(crs=image.crs)
        movable = own.placed and image.placed and (own.crs is None) == (image.crs is None)
        if own.same_as(image) or (not movable and own.shape == image.shape):
            yield mask
        elif movable:
            with _warped(mask, own, image) as warped:
                yield warped
        else:
            raise DatasetError(
                f"{path} is {own.shape[1]} x {own.shape[0]} px but its image is {image.shape[1]} x "
                f"{image.shape[0]} px, and without the georeference of both it cannot be warped; "
                "give a mask of the image's size."
            )


def _warped(mask: Any, own: Grid, image: Grid) -> WarpedVRT:
    """A mask as seen on the image's grid: nearest pixels, nothing where it does not reach."""
    return WarpedVRT(
        mask,
        src_crs=own.crs,
        src_transform=own.transform,
        crs=image.crs,
        transform=image.transform,
        height=image.shape[0],
        width=image.shape[1],
        resampling=Resampling.nearest,
        tolerance=WARP_TOLERANCE,
        add_alpha=ColorInterp.alpha not in mask.colorinterp,
    )


def mask_labels(mask: Any, path: Path, legend: Legend, window: Window) -> NDArray[np.uint8]:
    """Read a window of an open mask.

    Args:
        mask: What :func:`open_mask` gives.
        path: Its file, for messages.
        legend: What its ids or colours mean.
        window: In pixels of the image.

    Returns:
        (h, w) classes, 255 unknown.

    Raises:
        DatasetError: If the mask cannot hold classes, or an id or colour is not listed.
    """
    bands = mask_bands(mask, path)
    if len(bands) == 3:
        colours = np.moveaxis(mask.read(bands, window=window), 0, -1)
        return legend.encode_colours(colours, mask.dataset_mask(window=window) > 0, str(path))
    ids, known = read_ids(mask, bands[0], window, path)
    if legend.rows[0].id is None and legend.rows[0].colour is not None and ids.dtype == np.uint8:
        return legend.encode_colours(_expanded(mask, ids, path), known, str(path))
    return legend.encode_ids(ids, known, str(path))


def mask_bands(mask: Any, path: Path) -> list[int]:
    """The one band of ids, or the three of colours; alpha aside.

    Raises:
        DatasetError: If there are others, or the values cannot be ids.
    """
    colours = zip(mask.indexes, mask.colorinterp, strict=True)
    bands = [n for n, colour in colours if colour != ColorInterp.alpha]
    if len(bands) not in (1, 3):
        raise DatasetError(
            f"{path} has {len(bands)} bands; a mask has one band of ids, or red, green and blue."
        )
    kind = mask.dtypes[bands[0] - 1]
    if "complex" in kind or (len(bands) == 3 and kind != "uint8"):
        raise DatasetError(
            f"{path} holds {kind} values in {len(bands)} bands; save ids as whole numbers and "
            "colours as 8-bit values."
        )
    return bands


def read_ids(
    mask: Any, band: int, window: Window, path: Path
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(h, w) ids of a mask, and which pixels hold one.

    Raises:
        DatasetError: If values are not whole numbers.
    """
    values: NDArray[Any] = mask.read(band, window=window)
    known: NDArray[np.bool_] = mask.dataset_mask(window=window) > 0
    if values.dtype.kind == "f":
        known &= ~np.isnan(values)
        broken = known & (values != np.round(values))
        if broken.any():
            raise DatasetError(
                f"{path} holds {values[broken][0]:g} where a whole number, the id of a class, is "
                "expected; give a mask of ids."
            )
    return values, known


def _expanded(mask: Any, indices: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """(h, w, 3) colours of a mask of one band with a colour table.

    Raises:
        DatasetError: If it has none.
    """
    try:
        table = mask.colormap(1)
    except ValueError as error:
        raise DatasetError(
            f"{path} holds one band of ids, but its classes have colours only; add a column id."
        ) from error
    colours = np.zeros((256, 3), np.uint8)
    for index, colour in table.items():
        colours[index] = colour[:3]
    expanded: NDArray[np.uint8] = colours[indices]
    return expanded
