"""Interpolation through the reverse map on the CPU (numba): methods C and D, as a triangle raster.

Each cell between four neighbouring samples is split into the triangles (00, 01, 10) and
(11, 10, 01). Where a pixel's centre lies in a triangle, it reads the sampled image there by affine
interpolation. The grid is padded by a ring just outside the frame that repeats the outermost
samples (``padding_mode="border"`` of ``grid_sample``), so the triangles cover every pixel.

Watertight: row y is filled from ⌈left⌉ to below ⌈right⌉, where an edge's x at row y comes from its
end points in the order of their y, hence with the same bits for both triangles that share it. At
any row the edges then cancel but for the ring's: a fold-free grid writes each pixel exactly once,
any other at least once, and the last triangle in row-major order stays (of a cell, the second).
That order, and formulas that know nothing of the block, make the answer the same whatever the
block. No fast-math: reassociation would break both.

Coordinates here are index coordinates (pixel (0, 0)'s centre is 0) in float64. Within a triangle
with first vertex a, a quantity is ``(s_a + (g_y·(y − y_a) − g_x·x_a)) + g_x·x``; torch_reverse.py
evaluates the same expression. The kernels release the GIL and compile at their first call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodeform.compiled import compiled
from geodeform.deform.coords import Size, grid_to_pixels
from geodeform.deform.kernels.blocks import MIN_AREA, Block

_Floats = NDArray[np.float64]
_Scores = NDArray[np.float32]
_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RasterSetup:
    """The padded grid of one window, made once by :func:`prepare_raster`.

    Attributes:
        x: (h + 2, w + 2) index coordinates of the vertices.
        y: (h + 2, w + 2) the same.
        rows: (2, h + 1) lowest and highest y of each row of cells.
        cols: (2, w + 1) lowest and highest x of each column of cells.
    """

    x: _Floats
    y: _Floats
    rows: _Floats
    cols: _Floats

    def cells(self, block: Block) -> tuple[int, int, int, int]:
        """Rows and columns of cells (i0, i1, j0, j1) outside of which nothing touches the block."""
        y0, y1, x0, x1 = block
        return *_span(self.rows, y0, y1), *_span(self.cols, x0, x1)


def prepare_raster(grid: NDArray[np.float32], size: Size) -> RasterSetup:
    """Pad one grid by a ring outside the frame.

    Args:
        grid: (h, w, 2) normalised (x, y), finite.
        size: (H, W) of the window in pixels.
    """
    inner = grid_to_pixels(grid.astype(np.float64), size) - 0.5
    x, y = (np.pad(inner[..., axis], 1, mode="edge") for axis in (0, 1))
    height, width = size
    # Beyond the outermost pixel centres, and beyond any sample that lies outside the frame.
    x[:, 0], x[:, -1] = min(-1.0, x.min() - 1), max(float(width), x.max() + 1)
    y[0], y[-1] = min(-1.0, y.min() - 1), max(float(height), y.max() + 1)
    return RasterSetup(x, y, _extents(y), _extents(x.T))


def _extents(across: _Floats) -> _Floats:
    """Lowest and highest value in each pair of neighbouring rows, (2, rows − 1)."""
    low, high = across.min(1), across.max(1)
    return np.stack((np.minimum(low[:-1], low[1:]), np.maximum(high[:-1], high[1:])))


def _span(extents: _Floats, start: int, stop: int) -> tuple[int, int]:
    """First and one past the last of the extents that hold an integer of start…stop − 1."""
    hits = np.flatnonzero((extents[1] > start) & (extents[0] <= stop - 1))
    return int(hits[0]), int(hits[-1]) + 1


def paint_channels(setup: RasterSetup, channels: _Scores, block: Block, out: _Scores) -> None:
    """Interpolate channels of the sampled image at every pixel of a block.

    Args:
        setup: From :func:`prepare_raster`.
        channels: (C, h, w), C-contiguous.
        block: Not empty.
        out: (C, y1 − y0, x1 − x0), any strides (others than C-contiguous compile once more).
    """
    _paint_channels(setup.x, setup.y, channels, *setup.cells(block), *block, out)


def paint_scores(
    setup: RasterSetup, scores: _Scores, block: Block, labels: _Bytes, confidence: _Bytes
) -> None:
    """Interpolate class scores and keep, for every pixel of a block, the highest one.

    Args:
        setup: From :func:`prepare_raster`.
        scores: (C, h, w), C-contiguous, 1 ≤ C ≤ 255.
        block: Not empty.
        labels: (y1 − y0, x1 − x0), C-contiguous: the class; the lowest one if tied.
        confidence: The same shape: round(255 · its score), the score clipped to 0…1.
    """
    _paint_scores(setup.x, setup.y, scores, *setup.cells(block), *block, labels, confidence)


@compiled
def _slope(xa: float, ya: float, xb: float, yb: float) -> float:
    """Change of x per row of the edge from a down to b; ya ≤ yb."""
    return (xb - xa) / (yb - ya) if yb > ya else 0.0


@compiled
def _sorted_edges(
    xa: float, ya: float, xb: float, yb: float, xc: float, yc: float
) -> tuple[float, float, float, float, float, float, float, float]:
    """A triangle's vertices in the order of their y, and the slopes of its three edges.

    Returns:
        x0, y0, x1, y1, y2, slopes of the edges 0–2 (the long one), 0–1, 1–2.
    """
    if yb < ya:
        xa, ya, xb, yb = xb, yb, xa, ya
    if yc < yb:
        xb, yb, xc, yc = xc, yc, xb, yb
        if yb < ya:
            xa, ya, xb, yb = xb, yb, xa, ya
    long, upper, lower = _slope(xa, ya, xc, yc), _slope(xa, ya, xb, yb), _slope(xb, yb, xc, yc)
    return xa, ya, xb, yb, yc, long, upper, lower


@compiled
def _weights(
    xa: float, ya: float, xb: float, yb: float, xc: float, yc: float
) -> tuple[float, float, float, float, bool]:
    """Gradients of the weights of b and of c over the triangle.

    Returns:
        ∂b/∂x, ∂b/∂y, ∂c/∂x, ∂c/∂y, and whether the triangle is not collapsed (else all are 0).
    """
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    if abs(area) < MIN_AREA:
        return 0.0, 0.0, 0.0, 0.0, False
    inverse = 1 / area
    return (yc - ya) * inverse, (xa - xc) * inverse, (ya - yb) * inverse, (xb - xa) * inverse, True


@compiled
def _paint_channels(
    x: _Floats, y: _Floats, channels: _Scores, i0: int, i1: int, j0: int, j1: int,
    row0: int, row1: int, col0: int, col1: int, out: _Scores,
) -> None:  # fmt: skip
    n, h, w = channels.shape
    base = np.empty(n, np.float64)
    slope_x = np.empty(n, np.float64)
    slope_y = np.empty(n, np.float64)
    for i in range(i0, i1):
        up, down = max(i - 1, 0), min(i, h - 1)  # rows of samples above and below the cells
        for j in range(j0, j1):
            left, right = max(j - 1, 0), min(j, w - 1)
            xb, yb = x[i, j + 1], y[i, j + 1]
            xc, yc = x[i + 1, j], y[i + 1, j]
            for second in range(2):
                # (00, 01, 10), then (11, 01, 10): the order of b and c makes no difference
                xa, ya = x[i + second, j + second], y[i + second, j + second]
                x0, y0, x1, y1, y2, long, upper, lower = _sorted_edges(xa, ya, xb, yb, xc, yc)
                first_row, last_row = max(math.ceil(y0), row0), min(math.ceil(y2), row1)
                if first_row >= last_row:
                    continue
                if min(xa, xb, xc) > col1 - 1 or max(xa, xb, xc) <= col0:
                    continue
                bx, by, cx, cy, solid = _weights(xa, ya, xb, yb, xc, yc)
                ai, aj = (down, right) if second else (up, left)
                for k in range(n):
                    sa = np.float64(channels[k, ai, aj])
                    db = np.float64(channels[k, up, right]) - sa
                    dc = np.float64(channels[k, down, left]) - sa
                    base[k] = sa if solid else sa + (db + dc) / 3
                    slope_x[k] = bx * db + cx * dc
                    slope_y[k] = by * db + cy * dc
                for row in range(first_row, last_row):
                    one = x0 + long * (row - y0)
                    other = x0 + upper * (row - y0) if row < y1 else x1 + lower * (row - y1)
                    start = max(math.ceil(min(one, other)), col0)
                    stop = min(math.ceil(max(one, other)), col1)
                    if start >= stop:
                        continue
                    for k in range(n):
                        constant = base[k] + (slope_y[k] * (row - ya) - slope_x[k] * xa)
                        for col in range(start, stop):
                            out[k, row - row0, col - col0] = constant + slope_x[k] * col


@compiled
def _highest(scores: _Scores, i0: int, i1: int, j0: int, j1: int) -> _Bytes:
    """Class of the highest score of each sample in the rows and columns given; elsewhere unset."""
    n, h, w = scores.shape
    best = np.empty(w, np.float32)
    top = np.empty((h, w), np.uint8)
    for i in range(i0, i1):
        for j in range(j0, j1):
            best[j] = scores[0, i, j]
            top[i, j] = 0
        for k in range(1, n):
            for j in range(j0, j1):
                s = scores[k, i, j]
                higher = s > best[j]
                best[j] = s if higher else best[j]
                top[i, j] = k if higher else top[i, j]
    return top


@compiled
def _wins(
    k: int, other: int, ka: float, kb: float, kc: float, oa: float, ob: float, oc: float
) -> bool:
    """Whether class k, scores ka, kb, kc at the vertices, is chosen before another all over."""
    if k < other:
        return ka >= oa and kb >= ob and kc >= oc
    return ka > oa and kb > ob and kc > oc


@compiled
def _contenders(
    scores: _Scores, ai: int, aj: int, bi: int, bj: int, ci: int, cj: int,
    ta: int, tb: int, tc: int, classes: _Ints,
) -> int:  # fmt: skip
    """List the classes that may be highest somewhere, ascending; return how many.

    Those highest at a vertex (ta, tb, tc) and those that none of these beats all over: mostly two
    or three, whatever the number of classes.
    """
    aa, ab, ac = scores[ta, ai, aj], scores[ta, bi, bj], scores[ta, ci, cj]
    ba, bb, bc = scores[tb, ai, aj], scores[tb, bi, bj], scores[tb, ci, cj]
    ca, cb, cc = scores[tc, ai, aj], scores[tc, bi, bj], scores[tc, ci, cj]
    m = 0
    for k in range(scores.shape[0]):
        ka, kb, kc = scores[k, ai, aj], scores[k, bi, bj], scores[k, ci, cj]
        classes[m] = k
        beaten = (
            (k != ta and _wins(ta, k, aa, ab, ac, ka, kb, kc))
            or (k != tb and _wins(tb, k, ba, bb, bc, ka, kb, kc))
            or (k != tc and _wins(tc, k, ca, cb, cc, ka, kb, kc))
        )
        m += not beaten
    return m


@compiled
def _paint_scores(
    x: _Floats, y: _Floats, scores: _Scores, i0: int, i1: int, j0: int, j1: int,
    row0: int, row1: int, col0: int, col1: int, labels: _Bytes, confidence: _Bytes,
) -> None:  # fmt: skip
    n, h, w = scores.shape
    top = _highest(scores, max(i0 - 1, 0), min(i1, h), max(j0 - 1, 0), min(j1, w))
    classes = np.empty(n + 1, np.int64)
    base = np.empty(n, np.float64)
    slope_x = np.empty(n, np.float64)
    slope_y = np.empty(n, np.float64)
    constant = np.empty(n, np.float64)
    for i in range(i0, i1):
        up, down = max(i - 1, 0), min(i, h - 1)
        for j in range(j0, j1):
            left, right = max(j - 1, 0), min(j, w - 1)
            xb, yb = x[i, j + 1], y[i, j + 1]
            xc, yc = x[i + 1, j], y[i + 1, j]
            for second in range(2):
                xa, ya = x[i + second, j + second], y[i + second, j + second]
                x0, y0, x1, y1, y2, long, upper, lower = _sorted_edges(xa, ya, xb, yb, xc, yc)
                first_row, last_row = max(math.ceil(y0), row0), min(math.ceil(y2), row1)
                if first_row >= last_row:
                    continue
                if min(xa, xb, xc) > col1 - 1 or max(xa, xb, xc) <= col0:
                    continue
                bx, by, cx, cy, solid = _weights(xa, ya, xb, yb, xc, yc)
                ai, aj = (down, right) if second else (up, left)
                ta, tb, tc = top[ai, aj], top[up, right], top[down, left]
                if ta == tb and tb == tc:
                    classes[0] = ta  # highest at all three vertices, hence everywhere between
                    m = 1
                else:
                    m = _contenders(scores, ai, aj, up, right, down, left, ta, tb, tc, classes)
                for k in range(m):
                    c = classes[k]
                    sa = np.float64(scores[c, ai, aj])
                    db = np.float64(scores[c, up, right]) - sa
                    dc = np.float64(scores[c, down, left]) - sa
                    base[k] = sa if solid else sa + (db + dc) / 3
                    slope_x[k] = bx * db + cx * dc
                    slope_y[k] = by * db + cy * dc
                for row in range(first_row, last_row):
                    one = x0 + long * (row - y0)
                    other = x0 + upper * (row - y0) if row < y1 else x1 + lower * (row - y1)
                    start = max(math.ceil(min(one, other)), col0)
                    stop = min(math.ceil(max(one, other)), col1)
                    if start >= stop:
                        continue
                    for k in range(m):
                        constant[k] = base[k] + (slope_y[k] * (row - ya) - slope_x[k] * xa)
                    for col in range(start, stop):
                        best = constant[0] + slope_x[0] * col
                        label = classes[0]
                        for k in range(1, m):
                            score = constant[k] + slope_x[k] * col
                            if score > best:
                                best = score
                                label = classes[k]
                        labels[row - row0, col - col0] = label
                        share = min(best, 1.0) if best > 0 else 0.0
                        confidence[row - row0, col - col0] = int(255 * share + 0.5)
