"""How large pixels and polygons are on the ground, from transform and CRS."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from geodeform.geo.affine import apply

if TYPE_CHECKING:
    from affine import Affine

_AREA_STEPS = 1 << 20  # row areas are summed as whole numbers, so that the sums are exact
_STRETCH = 0.02  # projections that change areas by more are not measured in the plane


def ground_size(
    transform: Affine, crs: CRS, shape: tuple[int, int]
) -> tuple[float, float, float] | None:
    """Return (y size, x size, area) of the centre pixel in metres and m², or None if unknown."""
    flat: tuple[float, float, float] | None = None
    if crs.is_projected:
        _, metres = crs.linear_units_factor
        flat = (
            math.hypot(transform.b, transform.e) * metres,
            math.hypot(transform.a, transform.d) * metres,
            abs(transform.determinant) * metres**2,
        )
    round_earth = _geodesic_size(transform, crs, shape)
    if flat is None or round_earth is None:
        return flat or round_earth
    return flat if abs(round_earth[2] / flat[2] - 1) <= _STRETCH else round_earth


def _geodesic_size(
    transform: Affine, crs: CRS, shape: tuple[int, int]
) -> tuple[float, float, float] | None:
    """Measure the centre pixel on the CRS's ellipsoid, or None where that is impossible."""
    y, x = shape[0] / 2, shape[1] / 2
    ends = [(x, y - 0.5), (x, y + 0.5), (x - 0.5, y), (x + 0.5, y)]
    points = np.array([apply(transform, *p) for p in ends])
    try:
        source = pyproj.CRS.from_user_input(crs.to_wkt())
        geographic = source.geodetic_crs
        if geographic is None:
            return None
        change = pyproj.Transformer.from_crs(source, geographic, always_xy=True)
    except (pyproj.exceptions.ProjError, CRSError):
        return None
    lon, lat = change.transform(points[:, 0], points[:, 1])
    geod = geographic.get_geod()
    if geod is None or not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    azimuth, _, length = geod.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    angle = math.radians(azimuth[1] - azimuth[0])
    tall, wide = float(length[0]), float(length[1])
    area = tall * wide * abs(math.sin(angle))
    return (tall, wide, area) if area > 0 else None  # at a pole azimuths say nothing


class Ground:
    """How large things are on the ground, for a raster with a CRS.

    Areas are measured in the plane of the CRS, or, where it is geographic or distorts areas, in
    that of the ellipsoid's cylindrical equal-area projection, in which pixels of geographic rasters
    keep straight edges (unlike with geodesics between their corners).

    Attributes:
        crs: The CRS.
        row_weights: (H,) areas of the rows' pixels in units of ``weight_unit``.
        weight_unit: In m².
        pixel_size: (y, x) lengths of a pixel's vertical and horizontal edges; only their ratio is
            meant.
    """

    def __init__(self, crs: CRS, transform: Affine, shape: tuple[int, int]) -> None:
        self.crs = pyproj.CRS.from_user_input(crs)
        self._metres = float(self.crs.axis_info[0].unit_conversion_factor)
        self._base = self.crs.geodetic_crs or self.crs
        self._ellipsoid: Any = self.crs.ellipsoid
        self._curved = self.crs.is_geographic
        areas = np.full(shape[0], abs(transform.determinant) * self._metres**2)
        if self._ellipsoid is not None:
            measured = self._row_areas(transform, shape)
            off = np.abs(areas / measured - 1)[shape[0] // 2]
            if self._curved or (off > _STRETCH and np.isfinite(measured).all()):
                areas, self._curved = measured, True
        self.weight_unit = float(areas.max()) / _AREA_STEPS
        self.row_weights = np.round(areas / self.weight_unit).astype(np.int64)
        # degrees of longitude are shorter than those of latitude
        shrink = 1.0
        if self.crs.is_geographic:
            _, latitude = apply(transform, shape[1] / 2, shape[0] / 2)
            shrink = float(np.cos(latitude * self._metres))
        self.pixel_size = (
            math.hypot(transform.b * shrink, transform.e),
            math.hypot(transform.a * shrink, transform.d),
        )

    @property
    def row_areas_m2(self) -> NDArray[np.float64]:
        """(H,) m² that a pixel of each row covers."""
        areas: NDArray[np.float64] = self.row_weights.astype(np.float64) * self.weight_unit
        return areas

    def areas(self, polygons: NDArray[Any]) -> NDArray[np.float64]:
        """Return the areas of polygons in the CRS, in m²."""
        areas: NDArray[np.float64]
        if self._curved:
            areas = shapely.area(shapely.transform(polygons, self._flatten))
        else:
            areas = shapely.area(polygons) * self._metres**2
        return areas

    def _row_areas(self, transform: Affine, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return (H,) the ground area in m² of the middle pixel of each row."""
        rows = np.arange(shape[0])
        cols = np.full(shape[0], shape[1] // 2)
        p, q, r, s = (
            self._flatten(np.stack(apply(transform, cols + right, rows + down), axis=1))
            for down, right in ((0, 0), (0, 1), (1, 1), (1, 0))
        )
        first, second = r - p, s - q  # the diagonals: half their cross product is the area
        return np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2

    def _flatten(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project (n, 2) points of the CRS to the equal-area plane, in metres.

        J. P. Snyder, Map Projections: A Working Manual (USGS PP 1395, 1987), eq. 3-12 and 10-15.
        """
        x, y = points[:, 0], points[:, 1]
        if not self.crs.is_geographic:
            x, y = pyproj.Transformer.from_crs(self.crs, self._base, always_xy=True).transform(x, y)
        radians = self._base.axis_info[0].unit_conversion_factor
        a, b = self._ellipsoid.semi_major_metre, self._ellipsoid.semi_minor_metre
        e = math.sqrt(1 - (b / a) ** 2)
        sine = np.sin(y * radians)
        q = 2 * sine  # on a sphere
        if e > 0:
            q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
        return np.stack([a * x * radians, a * q / 2], axis=1)
