"""Bring shapes of any CRS to that of a raster, where they are near it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def project_near(
    shapes: NDArray[Any], source: pyproj.CRS, bounds: Bounds, target: pyproj.CRS
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Bring polygons to the CRS of a raster.

    Only what is near the raster is projected, in short steps: a polygon around the world has four
    corners, which may not even exist in the raster's CRS, and edges that are curves there. One that
    covers the raster becomes the raster's bounds, also where it holds a pole.

    Args:
        shapes: (n,) polygons.
        source: Their CRS.
        bounds: Of the raster, in its CRS.
        target: That CRS.

    Returns:
        (m,) parts of shapes, and (m,) which shape each is a part of, ascending. Shapes far from the
        raster have none, those on both sides of the 180th meridian may have two. Parts may be
        invalid, of no area or, where a shape has no image in the CRS, not finite.

    Raises:
        ProjError: If PROJ knows no way from one CRS to the other.
        GEOSException: If a shape cannot be clipped.
    """
    back = pyproj.Transformer.from_crs(target, source, always_xy=True)
    forth = pyproj.Transformer.from_crs(source, target, always_xy=True)
    left, bottom, right, top = back.transform_bounds(*bounds, densify_pts=51)
    covering = np.zeros(0, np.int64)
    known = all(map(math.isfinite, (left, bottom, right, top)))
    if not known:
        left, bottom, right, top = shapely.total_bounds(shapes)
    # left > right: the raster lies across the 180th meridian
    spans = [(left, right)] if left <= right else [(left, 180.0), (-180.0, right)]
    if known:
        near = shapely.union_all([shapely.box(low, bottom, high, top) for low, high in spans])
        covering = np.flatnonzero(shapely.covers(shapes, near))
    margin = max(top - bottom, *(high - low for low, high in spans)) / 4
    pieces, numbers = [], []
    for low, high in spans:
        reach = (low - margin, bottom - margin, high + margin, top + margin)
        inside = np.setdiff1d(meeting(shapely.bounds(shapes), reach), covering)
        pieces.append(shapely.clip_by_rect(shapes[inside], *reach))
        numbers.append(inside)
    step = 6 * margin / 1024  # the longer side of what is near is 6 margins
    moved = shapely.transform(
        shapely.segmentize(np.concatenate(pieces), step),
        lambda points: np.stack(forth.transform(*points.T), axis=1),
    )
    parts = np.concatenate([np.full(covering.size, shapely.box(*bounds)), moved])
    owners = np.concatenate([covering, *numbers])
    order = np.argsort(owners, kind="stable")
    order = order[~shapely.is_empty(parts[order])]
    return parts[order], owners[order]


def meeting(bounds: NDArray[np.float64], box: Bounds) -> NDArray[np.int64]:
    """Numbers of the (n, 4) bounds that meet a box."""
    x0, y0, x1, y1 = bounds.T
    left, bottom, right, top = box
    return np.flatnonzero((x0 <= right) & (x1 >= left) & (y0 <= top) & (y1 >= bottom))
