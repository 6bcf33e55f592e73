"""Separable, mask-aware resampling and hole filling of raster windows, in NumPy, SciPy and numba.

GDAL's own decimated reads mix nodata into averages when the nodata value is not tagged in the file,
and xarray has no decimated read at all; so every decimated read of a
:class:`~geodeform.geo.scene.Scene` takes the nearest finer overview and resamples it here.

Convention: pixel ``i`` of an axis covers the interval [i, i+1), its centre lies at i + 0.5.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from geodeform.compiled import compiled

Resampling = Literal["average", "nearest", "bilinear"]
"""How a read changes resolution: exact area average, nearest centre, or (antialiased) linear."""

_LEAST_WEIGHT = 1e-6  # below this share of valid area a mean is float32 noise, not a value


def axis_weights(
    n_out: int, start: float, stop: float, n_src: int, resampling: Resampling
) -> sparse.csr_array:
    """Return the weights with which ``n_out`` equal cells of [start, stop) read source pixels.

    Args:
        n_out: Number of output cells.
        start: Where the first cell begins, in source pixels.
        stop: Where the last cell ends, in source pixels.
        n_src: Number of source pixels; cells may reach past the ends, which then count as absent.
        resampling: ``average`` weighs pixels by the length they share with the cell; ``bilinear``
            is a triangle of half-width max(1, cell) around the cell's centre (so it does not alias
            when it decimates); ``nearest`` takes the pixel that contains the cell's centre.

    Returns:
        (n_out, n_src) float32 matrix; each row sums to 1.
    """
    cell = (stop - start) / n_out
    lower = start + cell * np.arange(n_out)
    centre = lower + cell / 2
    if resampling == "nearest":
        first = np.floor(centre).astype(np.int64)
        last = first + 1
    elif resampling == "bilinear":
        radius = max(1.0, cell)
        first = np.floor(centre - radius).astype(np.int64)
        last = np.ceil(centre + radius).astype(np.int64)
    else:
        first = np.floor(lower).astype(np.int64)
        last = np.maximum(np.ceil(lower + cell).astype(np.int64), first + 1)
    first = np.clip(first, 0, n_src - 1)
    last = np.clip(last, first + 1, n_src)

    counts = last - first
    indptr = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(n_out), counts)
    column = np.arange(indptr[-1]) - indptr[row] + first[row]
    if resampling == "nearest":
        weight = np.ones(len(column))
    elif resampling == "bilinear":
        weight = np.maximum(1 - np.abs(column + 0.5 - centre[row]) / radius, 0)
    else:
        weight = np.minimum(column + 1, lower[row] + cell) - np.maximum(column, lower[row])
        weight = np.maximum(weight, 0)
    total = np.bincount(row, weight, minlength=n_out)
    # a cell that touches its one pixel by less than a rounding error still reads that pixel
    empty = total[row] <= 0
    weight[empty] = 1
    total = np.bincount(row, weight, minlength=n_out)
    weight /= total[row]
    return sparse.csr_array(
        (weight.astype(np.float32), column, indptr), shape=(n_out, n_src), dtype=np.float32
    )


def source_range(
    first: int, last: int, n_out: int, start: float, stop: float, resampling: Resampling
) -> tuple[int, int]:
    """Return the source pixels [lo, hi) that output cells [first, last) can read, unclipped."""
    cell = (stop - start) / n_out
    reach = max(1.0, cell) if resampling == "bilinear" else 0.0
    lo = start + cell * first - reach
    hi = start + cell * last + reach
    return int(np.floor(lo)), max(int(np.ceil(hi)), int(np.floor(lo)) + 1)


def resample(
    data: NDArray[np.generic],
    valid: NDArray[np.bool_] | None,
    rows: sparse.csr_array,
    cols: sparse.csr_array,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample every band with the same weights, leaving invalid pixels out of each mean.

    Args:
        data: (C, H, W) of any real type; values where ``valid`` is false are never read.
        valid: (H, W), or None where every pixel is valid.
        rows: (h, H) weights of :func:`axis_weights`.
        cols: (w, W) weights of :func:`axis_weights`.

    Returns:
        (C, h, w) float32 means over the valid pixels, 0 where there is none, and (h, w) whether
        there is one.
    """
    height, width = rows.shape[0], cols.shape[0]
    out = np.empty((len(data), height, width), np.float32)
    if valid is None:
        for band, plane in enumerate(data):
            out[band] = (cols @ (rows @ plane.astype(np.float32)).T).T
        return out, np.ones((height, width), bool)
    share = (cols @ (rows @ valid.astype(np.float32)).T).T
    some = share > _LEAST_WEIGHT
    divisor = np.where(some, share, 1)
    for band, plane in enumerate(data):
        known = np.where(valid, plane, 0).astype(np.float32)
        out[band] = (cols @ (rows @ known).T).T
        out[band] /= divisor
        out[band][~some] = 0
    return out, some


def fill_invalid(data: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Fill invalid pixels in place from the valid ones around them (pull-push pyramid).

    Means of the valid pixels of 2×2 cells, again and again until no hole is left, are interpolated
    linearly back into the holes. So a nodata edge continues the colours beside it, deep holes fade
    to the mean of their surroundings, and a network or a density map finds no false edge along the
    border of the data. Every band gets 0 where no pixel is valid at all.

    Args:
        data: (C, H, W); changed in place.
        valid: (H, W).
    """
    if valid.all():
        return
    if not valid.any():
        data[:] = 0
        return
    weight = _halve(valid.astype(np.float32)[None])[0]
    some = weight > 0
    coarse = _halve(np.where(valid, data, 0))
    coarse /= np.where(some, weight, 1)
    fill_invalid(coarse, some)
    _push(data, valid, coarse)


def _halve(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum 2×2 cells; a last odd row or column forms cells of its own."""
    rows = planes[:, ::2].copy()
    rows[:, : planes.shape[1] // 2] += planes[:, 1::2]
    out = rows[:, :, ::2].copy()
    out[:, :, : planes.shape[2] // 2] += rows[:, :, 1::2]
    return out


@compiled
def _push(data: Any, valid: Any, coarse: Any) -> None:
    """Interpolate invalid pixels from half resolution: linear, constant past the outer centres."""
    bands, height, width = data.shape
    tall, wide = coarse.shape[1:]
    for band in range(bands):
        for y in range(height):
            near_y = y // 2
            far_y = min(max(near_y + (1 if y % 2 else -1), 0), tall - 1)
            for x in range(width):
                if not valid[y, x]:
                    near_x = x // 2
                    far_x = min(max(near_x + (1 if x % 2 else -1), 0), wide - 1)
                    data[band, y, x] = (
                        np.float32(0.5625) * coarse[band, near_y, near_x]
                        + np.float32(0.1875) * coarse[band, near_y, far_x]
                        + np.float32(0.1875) * coarse[band, far_y, near_x]
                        + np.float32(0.0625) * coarse[band, far_y, far_x]
                    )
