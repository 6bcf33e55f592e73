"""Nearest sample of every pixel, exact, on the CPU (numba): method B of the reverse map.

A quadtree that is walked and never stored as one. A tile of the window keeps the list of the
samples that can be nearest to any of its pixels; its quarters take over only those of its list
that can be nearest to theirs. With r the sample nearest to a tile's centre, another sample q can
matter only where

    f(p) = |p − r|² − |p − q|² = (q − r) · (2p − q − r) ≥ 0,

which is linear in p: its maximum over a tile with centre c and half sides (a, b) is
f(c) + 2a|Δx| + 2b|Δy| with Δ = q − r. Where that is negative, q drops out. A tile whose candidates
all carry one value is filled at once; leaves of 16 × 4…16 pixels are searched exhaustively. Nothing
is assumed about the grid: folded, clustered and collapsed grids are as right as any other.

Coordinates here are index coordinates (pixel (0, 0)'s centre is 0). Tiles are anchored to the
window, not to the block that is asked for, so that every block gets the same answer. Leaves compare
in single precision, relative to the leaf, which is exact to some 1e-5 px; ties go to the lower
index. The kernels release the GIL and compile at their first call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodeform.compiled import compiled
from geodeform.deform.coords import Size, grid_to_pixels
from geodeform.deform.kernels.blocks import MARGIN, Block

_Floats = NDArray[np.float64]
_Singles = NDArray[np.float32]
_Ints = NDArray[np.int64]
_Indices = NDArray[np.int32]

_LEAF = 16  # width of a leaf in pixels: one or two vector registers of float32
_LEAF_CANDIDATES = 48  # a leaf with more is worth another split …
_LEAF_MIN_HEIGHT = 4  # … down to this
_SPACINGS_PER_TILE = 4  # about the side of a stored tile, in mean distances between samples
_STUBBORN = 64  # with more candidates left than this and few dropped, prune against corners too


@dataclass(frozen=True, eq=False)
class NearestSetup:
    """What :func:`paint_nearest` needs about one grid, made once by :func:`prepare_nearest`.

    Attributes:
        size: (H, W) of the window.
        x: (n,) index coordinates of the distinct samples, in ascending order of their index.
        y: (n,) the same.
        index: (n,) which of the grid's h·w samples each one is.
        identity: (h·w,) 0…h·w − 1.
        side: Side of a tile in pixels.
        start: (tiles down, tiles across) where a tile's candidates begin in ``items``.
        count: (tiles down, tiles across) how many there are.
        items: Positions in ``x``, ``y``; ascending within a tile.
    """

    size: Size
    x: _Floats
    y: _Floats
    index: _Indices
    identity: _Indices
    side: int
    start: _Ints
    count: _Ints
    items: _Indices


def prepare_nearest(grid: NDArray[np.float32], size: Size) -> NearestSetup:
    """Sort the samples of one grid into tiles.

    Args:
        grid: (h, w, 2) normalised (x, y), C-contiguous float32, finite.
        size: (H, W) of the window in pixels.
    """
    identity = np.arange(grid.shape[0] * grid.shape[1], dtype=np.int32)
    index = _distinct(grid, identity)
    points = grid_to_pixels(grid.reshape(-1, 2)[index].astype(np.float64), size) - 0.5
    x, y = np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])
    height, width = size
    spacing = math.sqrt(height * width / len(index))
    side = _LEAF
    while side < _SPACINGS_PER_TILE * spacing / math.sqrt(2) and side < max(size):
        side *= 2
    down, across = -(-height // side), -(-width // side)
    start, count, items, done = _near_tiles(x, y, side, down, across, height, width)
    if not done.all():
        items = _far_tiles(x, y, side, height, width, start, count, items, done)
    return NearestSetup(size, x, y, index, identity, side, start, count, items)


def paint_nearest(
    setup: NearestSetup, values: NDArray[Any], block: Block, out: NDArray[Any]
) -> None:
    """Write the value of the nearest sample into every pixel of a block.

    Args:
        setup: From :func:`prepare_nearest`.
        values: (h·w,) one value a sample: labels (uint8), or ``setup.identity`` for indices.
        block: Not empty.
        out: (y1 − y0, x1 − x0), C-contiguous, of the type of ``values``.
    """
    _paint(
        setup.x, setup.y, setup.index, values, setup.start, setup.count, setup.items,
        setup.side, *setup.size, *block, out,
    )  # fmt: skip


def _distinct(grid: NDArray[np.float32], identity: _Indices) -> _Indices:
    """Index of the first of each group of samples at the very same place, ascending."""
    # One 64-bit key a point; + 0 turns −0 into 0. Sorting is cheap, finding which are the
    # duplicates is not, and there are hardly ever any.
    keys = (grid.reshape(-1, 2) + np.float32(0)).view(np.uint64).ravel()
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        return identity
    first = np.unique(keys, return_index=True)[1]
    return np.sort(first).astype(np.int32)


@compiled
def _gain(
    qx: float, qy: float, rx: float, ry: float, cx: float, cy: float, a: float, b: float
) -> float:
    """Highest f(p) = |p − r|² − |p − q|² in the tile with centre c and half sides a, b."""
    dx = qx - rx
    dy = qy - ry
    at_centre = dx * (2 * cx - qx - rx) + dy * (2 * cy - qy - ry)
    return at_centre + 2 * (a * abs(dx) + b * abs(dy))


@compiled
def _nearest_to(x: _Floats, y: _Floats, start: int, stop: int, cx: float, cy: float) -> int:
    """Position in start…stop of the point that is nearest to c; the first one if tied."""
    best = start
    best_distance = np.inf
    for k in range(start, stop):
        dx = x[k] - cx
        dy = y[k] - cy
        distance = dx * dx + dy * dy
        if distance < best_distance:
            best_distance = distance
            best = k
    return best


@compiled
def _prune(
    x: _Floats, y: _Floats, v: _Indices, start: int, stop: int, r: int,
    cx: float, cy: float, a: float, b: float, dest: int,
) -> int:  # fmt: skip
    """Copy to ``dest``… what r does not beat everywhere in the tile; return the end."""
    rx = x[r]
    ry = y[r]
    for k in range(start, stop):
        qx = x[k]
        qy = y[k]
        # Written in any case and kept by moving on: no branch that cannot be foreseen.
        x[dest] = qx
        y[dest] = qy
        v[dest] = v[k]
        dest += _gain(qx, qy, rx, ry, cx, cy, a, b) >= -MARGIN
    return dest


@compiled
def _candidates(
    x: _Floats, y: _Floats, v: _Indices, start: int, stop: int,
    x0: int, y0: int, w: int, h: int, height: int, width: int,
) -> int:  # fmt: skip
    """Append to start…stop, at stop, those of it that matter in a tile; return the new end."""
    a = (min(x0 + w, width) - 1 - x0) / 2
    b = (min(y0 + h, height) - 1 - y0) / 2
    cx = x0 + a
    cy = y0 + b
    r = _nearest_to(x, y, start, stop, cx, cy)
    end = _prune(x, y, v, start, stop, r, cx, cy, a, b, stop)
    if end - stop > _STUBBORN and 4 * (end - stop) > 3 * (stop - start):
        # A far cluster: seen from here, all of a thin wedge is about as near as r. The samples
        # nearest to the corners leave only those on the cluster's rim.
        for corner in range(4):
            px = cx + (a if corner & 1 else -a)
            py = cy + (b if corner & 2 else -b)
            r = _nearest_to(x, y, stop, end, px, py)
            end = _prune(x, y, v, stop, end, r, cx, cy, a, b, stop)
    return end


@compiled
def _tile_of(coordinate: float, side: int, size: int) -> int:
    """Tile, along one axis, of a sample; those outside the frame belong to the outermost tiles."""
    return int(min(max(coordinate, 0.0), size - 1.0)) // side


@compiled
def _extent(tile: int, side: int, size: int) -> tuple[float, float]:
    """Centre and half side, along one axis, of the pixel centres of a tile cut by the frame."""
    half = (min((tile + 1) * side, size) - 1 - tile * side) / 2
    return tile * side + half, half


@compiled
def _near_tiles(
    x: _Floats, y: _Floats, side: int, down: int, across: int, height: int, width: int
) -> tuple[_Ints, _Ints, _Indices, NDArray[np.bool_]]:
    """Candidates of the tiles that find all of them in the 3 × 3 tiles around: nearly always all.

    Returns:
        start, count, items as in :class:`NearestSetup`, and which tiles are done.
    """
    n = len(x)
    start = np.zeros((down, across), np.int64)
    count = np.zeros((down, across), np.int64)
    farthest = np.full((down, across), np.inf)
    reference = np.zeros((down, across), np.int32)
    for k in range(n):
        v = _tile_of(y[k], side, height)
        u = _tile_of(x[k], side, width)
        cy, b = _extent(v, side, height)
        cx, a = _extent(u, side, width)
        d = math.hypot(abs(x[k] - cx) + a, abs(y[k] - cy) + b)  # to the farthest corner
        if d < farthest[v, u]:
            farthest[v, u] = d
            reference[v, u] = k
    # A sample that matters is as near as the reference to some corner; samples outside the 3 × 3
    # tiles are farther than ``side`` from all of them.
    done = farthest <= side

    kept = np.zeros(n, np.uint16)  # a bit for each of the 3 × 3 tiles
    for k in range(n):
        ty = _tile_of(y[k], side, height)
        tx = _tile_of(x[k], side, width)
        bits = 0
        for v in range(max(ty - 1, 0), min(ty + 2, down)):
            cy, b = _extent(v, side, height)
            for u in range(max(tx - 1, 0), min(tx + 2, across)):
                if not done[v, u]:
                    continue
                cx, a = _extent(u, side, width)
                r = reference[v, u]
                if _gain(x[k], y[k], x[r], y[r], cx, cy, a, b) >= -MARGIN:
                    bits |= 1 << (3 * (v - ty + 1) + u - tx + 1)
                    count[v, u] += 1
        kept[k] = bits
    filled = 0
    for v in range(down):
        for u in range(across):
            start[v, u] = filled
            filled += count[v, u]
            count[v, u] = 0
    items = np.empty(filled, np.int32)
    for k in range(n):
        ty = _tile_of(y[k], side, height)
        tx = _tile_of(x[k], side, width)
        bits = kept[k]
        for bit in range(9):
            if bits & (1 << bit):
                v = ty + bit // 3 - 1
                u = tx + bit % 3 - 1
                items[start[v, u] + count[v, u]] = k
                count[v, u] += 1
    return start, count, items, done


@compiled
def _push(stack: _Ints, depth: int, x0: int, y0: int, w: int, h: int, start: int, stop: int) -> int:
    """Put a tile and the range of its list on the stack; return the new depth."""
    stack[depth, 0] = x0
    stack[depth, 1] = y0
    stack[depth, 2] = w
    stack[depth, 3] = h
    stack[depth, 4] = start
    stack[depth, 5] = stop
    return depth + 1


@compiled
def _far_tiles(
    x: _Floats, y: _Floats, side: int, height: int, width: int,
    start: _Ints, count: _Ints, items: _Indices, done: NDArray[np.bool_],
) -> _Indices:  # fmt: skip
    """Add the candidates of the tiles that are not done, from the whole window downwards."""
    n = len(x)
    filled = len(items)
    root = side
    levels = 1
    while root < max(height, width):
        root *= 2
        levels += 1
    # Lists of a tile, its child, its grandchild …, one behind the other. Mostly each is a part of
    # the one before, and memory that is never touched costs nothing.
    ax = np.empty(n * (levels + 1) + 1, np.float64)
    ay = np.empty(n * (levels + 1) + 1, np.float64)
    av = np.empty(n * (levels + 1) + 1, np.int32)
    for k in range(n):
        ax[k] = x[k]
        ay[k] = y[k]
        av[k] = k
    stack = np.empty((3 * levels + 4, 6), np.int64)  # tile: x0, y0, w, h; parent's list: from, to
    depth = _push(stack, 0, 0, 0, root, root, 0, n)
    while depth > 0:
        depth -= 1
        x0, y0, s = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        begin, end = stack[depth, 4], stack[depth, 5]
        waiting = False
        for v in range(y0 // side, min((y0 + s) // side, done.shape[0])):
            for u in range(x0 // side, min((x0 + s) // side, done.shape[1])):
                waiting |= not done[v, u]
        if not waiting:
            continue
        stop = _candidates(ax, ay, av, begin, end, x0, y0, s, s, height, width)
        if s > side:
            half = s // 2
            for quarter in range(4):
                left, top = x0 + half * (quarter & 1), y0 + half * (quarter >> 1)
                depth = _push(stack, depth, left, top, half, half, end, stop)
            continue
        m = stop - end
        if filled + m > len(items):
            grown = np.empty(2 * (filled + m), np.int32)
            for k in range(filled):
                grown[k] = items[k]
            items = grown
        for k in range(m):
            items[filled + k] = av[end + k]
        start[y0 // side, x0 // side] = filled
        count[y0 // side, x0 // side] = m
        filled += m
    return items[:filled].copy()


@compiled
def _search_leaf(
    x: _Floats, y: _Floats, v: NDArray[Any], start: int, stop: int, x0: int, y0: int, h: int,
    leaf_x: _Singles, leaf_y: _Singles, best: _Singles, found: _Indices,
) -> None:  # fmt: skip
    """Value of the nearest candidate for the 16 × h pixels of a leaf, into ``found``."""
    # The squared distance less that to the first candidate is linear in p: two multiplications a
    # pixel, and no cancellation of large squares in single precision.
    pixels = _LEAF * h
    rx = x[start] - x0
    ry = y[start] - y0
    for p in range(pixels):
        best[p] = np.float32(0)
        found[p] = v[start]
    for k in range(start + 1, stop):
        qx = x[k] - x0
        qy = y[k] - y0
        slope_x = np.float32(2 * (rx - qx))
        slope_y = np.float32(2 * (ry - qy))
        constant = np.float32((qx - rx) * (qx + rx) + (qy - ry) * (qy + ry))
        value = v[k]
        for p in range(pixels):
            f = slope_x * leaf_x[p] + slope_y * leaf_y[p] + constant
            nearer = f < best[p]
            best[p] = f if nearer else best[p]
            found[p] = value if nearer else found[p]


@compiled
def _paint(
    x: _Floats, y: _Floats, index: _Indices, values: NDArray[Any],
    start: _Ints, count: _Ints, items: _Indices, side: int, height: int, width: int,
    row0: int, row1: int, col0: int, col1: int, out: NDArray[Any],
) -> None:  # fmt: skip
    """Walk down from the stored tiles that touch the block."""
    tiles_down = range(row0 // side, (row1 - 1) // side + 1)
    tiles_across = range(col0 // side, (col1 - 1) // side + 1)
    longest = 0
    for ty in tiles_down:
        for tx in tiles_across:
            longest = max(longest, count[ty, tx])
    levels = 4  # of the splits of a leaf
    s = side
    while s > _LEAF:
        s //= 2
        levels += 1
    ax = np.empty(longest * (levels + 1) + 1, np.float64)  # lists as in _far_tiles
    ay = np.empty(longest * (levels + 1) + 1, np.float64)
    av = np.empty(longest * (levels + 1) + 1, np.int32)
    stack = np.empty((3 * levels + 4, 6), np.int64)  # tile: x0, y0, w, h; list: from, to

    best = np.empty(_LEAF * _LEAF, np.float32)
    found = np.empty(_LEAF * _LEAF, np.int32)
    leaf_x = np.empty(_LEAF * _LEAF, np.float32)
    leaf_y = np.empty(_LEAF * _LEAF, np.float32)
    for p in range(_LEAF * _LEAF):
        leaf_x[p] = p % _LEAF
        leaf_y[p] = p // _LEAF

    for ty in tiles_down:
        for tx in tiles_across:
            n = count[ty, tx]
            for k in range(n):
                item = items[start[ty, tx] + k]
                ax[k] = x[item]
                ay[k] = y[item]
                av[k] = values[index[item]]
            depth = _push(stack, 0, tx * side, ty * side, side, side, 0, n)
            while depth > 0:
                depth -= 1
                x0, y0, w, h = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
                begin, end = stack[depth, 4], stack[depth, 5]
                left, right = max(x0, col0), min(x0 + w, col1)
                above, below = max(y0, row0), min(y0 + h, row1)
                if left >= right or above >= below:
                    continue
                if w < side or h < side:  # the stored list of the outermost is its own already
                    stop = _candidates(ax, ay, av, begin, end, x0, y0, w, h, height, width)
                    begin, end = end, stop

                value = av[begin]
                same = True
                for k in range(begin + 1, end):
                    if av[k] != value:
                        same = False
                        break
                if same:
                    for row in range(above, below):
                        for col in range(left, right):
                            out[row - row0, col - col0] = value
                elif w > _LEAF or (end - begin > _LEAF_CANDIDATES and h > _LEAF_MIN_HEIGHT):
                    across = 2 if w > _LEAF else 1
                    w, h = w // across, h // 2
                    for part in range(2 * across):
                        x1, y1 = x0 + w * (part % across), y0 + h * (part // across)
                        depth = _push(stack, depth, x1, y1, w, h, begin, end)
                else:
                    _search_leaf(ax, ay, av, begin, end, x0, y0, h, leaf_x, leaf_y, best, found)
                    for row in range(above, below):
                        for col in range(left, right):
                            out[row - row0, col - col0] = found[(row - y0) * _LEAF + col - x0]
