"""Affine transforms from pixels to map coordinates: the same for affine 2 and 3.

The versions of the affine package differ in their operators (``*`` and ``@``), so neither is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine, from_gcps
from rasterio.windows import Window


def apply(transform: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """Move a point, or arrays of them.

    >>> apply(Affine(2, 0, 10, 0, -2, 50), 3, 4)
    (16.0, 42.0)
    """
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def apply_to(transform: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move (n, 2) points."""
    return np.stack(apply(transform, points[:, 0], points[:, 1]), axis=1)


def compose(first: Affine, second: Affine) -> Affine:
    """The transform that does ``second``, then ``first``.

    >>> tuple(compose(Affine(2, 0, 10, 0, -2, 50), Affine.translation(3, 4))[:6])
    (2.0, 0.0, 16.0, 0.0, -2.0, 42.0)
    """
    a, b, c, d, e, f = second[:6]
    c, f = apply(first, c, f)
    return Affine(
        first.a * a + first.b * d,
        first.a * b + first.b * e,
        c,
        first.d * a + first.e * d,
        first.d * b + first.e * e,
        f,
    )


def cells_transform(frame: Affine, window: Window, cells: tuple[int, int]) -> Affine:
    """The transform of the (h, w) cells that a window of a frame's pixels is divided in."""
    corner = Affine.translation(window.col_off, window.row_off)
    cell = Affine.scale(window.width / cells[1], window.height / cells[0])
    return compose(compose(frame, corner), cell)


def frame_of(raster: Any) -> tuple[Affine, CRS | None]:
    """Affine from pixels to map coordinates, and their CRS, of a Scene or a rasterio dataset.

    Where a raster has ground control points only, those of the transform that is fitted to them.
    """
    points, crs = raster.gcps
    if raster.crs is None and crs is not None and len(points) >= 3:
        return from_gcps(points), crs
    return raster.transform, raster.crs
