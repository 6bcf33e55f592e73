"""Where the pixels of images and masks lie."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pyproj
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine

from geodeform.geo.affine import apply_to, compose, frame_of

SAME_GRID = 0.01
"""Pixels by which the corners of equal grids may differ."""

WARP_TOLERANCE = 1e-6
"""Pixels by which GDAL may err where it warps; its own 0.125 would move borders."""


class Grid(NamedTuple):
    """Where pixels lie.

    Attributes:
        shape: (H, W).
        transform: From (column, row) pixel corners to CRS units.
        crs: None where it is unknown.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None

    @classmethod
    def of(cls, raster: Any) -> Grid:
        """Grid of a Scene or a rasterio dataset; that fitted to its ground control points."""
        height, width = raster.shape
        return cls((height, width), *frame_of(raster))

    @property
    def placed(self) -> bool:
        """Whether the grid says where it lies at all."""
        return self.crs is not None or self.transform != Affine.identity()

    @property
    def wkt(self) -> str:
        """Its CRS as text; empty where it is unknown."""
        return "" if self.crs is None else str(self.crs.to_wkt())

    def same_as(self, other: Grid) -> bool:
        """Whether pixels coincide, to a hundredth of a pixel."""
        return self.shape == other.shape and self.whole_shift(other) == (0, 0)

    def whole_shift(self, other: Grid) -> tuple[int, int] | None:
        """(rows, columns) to the other's origin; None where pixels do not coincide."""
        if self.crs != other.crs:
            return None
        change = compose(~self.transform, other.transform)
        shift = Affine.translation(round(change.c), round(change.f))
        H, W = other.shape
        corners = np.array([(x, y) for x in (0.0, W) for y in (0.0, H)])
        drift = np.abs(apply_to(change, corners) - apply_to(shift, corners)).max()
        return (round(change.f), round(change.c)) if drift < SAME_GRID else None

    def outline(self, crs: Any = None) -> Any:
        """Its polygon, in its own CRS or another one."""
        H, W = self.shape
        ring = shapely.segmentize(shapely.box(0, 0, W, H), max(H, W) / 32)
        outline = shapely.transform(ring, functools.partial(apply_to, self.transform))
        if crs is None or pyproj.CRS(self.wkt) == pyproj.CRS(crs):
            return outline
        change = pyproj.Transformer.from_crs(self.wkt, crs, always_xy=True)
        return shapely.transform(outline, lambda p: np.stack(change.transform(*p.T), axis=1))
