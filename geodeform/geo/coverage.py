"""Outlines that share their edges: smoothing and simplification without gaps or overlaps (numba).

The outlines of a map are cut into arcs at the corners that hold it together (where three or more
areas meet, or the raster's frame is), so that what lies between two areas is one arc that both use.
Whatever happens to an arc happens to both, as in TopoJSON. All of it is computed in pixels; an
affine transform keeps it.

- :meth:`Coverage.smoothed` moves each corner by less than half a pixel. Edges of the pixel lattice
  that do not meet are a pixel apart at least, and the neighbouring edges of an arc cannot fold onto
  each other either, so nothing can cross: no check is needed.
- :meth:`Coverage.simplified` removes points one by one, the one that spans the smallest triangle
  first. M. Visvalingam, J. D. Whyatt, Line generalisation by repeated elimination of points, The
  Cartographic Journal 30 (1993). A point stays if another one lies within its triangle: without
  one, no edge can cross the triangle, so none can cross the new edge.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geodeform.compiled import compiled
from geodeform.geo.components import Outlines

REACH = 0.49
"""Smoothing moves no corner further, in pixels. Below a half, edges cannot cross."""

THINNING = 0.05
"""Points of smoothed outlines whose triangles are not larger, in px², are not worth keeping."""

_MARGIN = 1e-6
"""A point within so many pixels of a triangle counts as within it: the last digits of map
coordinates are lost later."""

# the index of points has cells of 8 px, or larger ones where that would be over 4 a point
_CELL = 8.0
_CELLS_A_POINT = 4


@dataclass(frozen=True)
class Coverage:
    """Areas whose outlines share arcs.

    Attributes:
        points: (v, 2) float64 x and y in pixels, arc after arc. An open arc has both its ends; a
            closed one, which meets no other, does not repeat its first point.
        arcs: (a + 1,) int64 where each arc begins in the points.
        closed: (a,) bool which are closed.
        uses: (u,) int64 the arcs of each ring, ring after ring: twice the arc's number, plus one
            where the ring runs backwards along it.
        rings: (r + 1,) int64 where each ring begins in the uses.
        polygons: (n + 1,) int64 where each area's rings begin, its outer ring first.
    """

    points: NDArray[np.float64]
    arcs: NDArray[np.int64]
    closed: NDArray[np.bool_]
    uses: NDArray[np.int64]
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]

    @classmethod
    def of(cls, outlines: Outlines) -> Coverage:
        """Cut outlines into arcs; they must be those of all components of a raster."""
        pieces, first, last, rings = _cut(outlines.points, outlines.fixed, outlines.rings)
        # what runs the other way along the same arc leaves from where this one arrives
        order = np.argsort(first)
        place = np.minimum(np.searchsorted(first[order], last), len(first) - 1)
        twins = np.where(first[order[place]] == last, order[place], len(first))
        own = np.arange(len(first)) < twins  # the frame's arcs have no twin
        numbers = np.cumsum(own) - 1
        uses = np.where(own, 2 * numbers, 0)
        uses[~own] = 2 * numbers[twins[~own]] + 1
        closed = ~outlines.fixed[pieces[own, 0]]
        arcs = np.concatenate([[0], np.cumsum(pieces[own, 1] + ~closed)])
        points = _collect(outlines.points, outlines.rings, pieces[own], arcs)
        return cls(points, arcs, closed, uses, rings, outlines.polygons)

    def smoothed(self, passes: int) -> Coverage:
        """Return the coverage with its staircases of pixels smoothed.

        Corners between two areas are cut again and again, without taking area from either; those
        where three meet, and the frame, stay. No outline moves by more than :data:`REACH` pixels.
        It must not have been smoothed or simplified before.

        Args:
            passes: How often corners are cut; three to five make smooth outlines.
        """
        points, arcs = _smooth(self.points, self.arcs, self.closed, passes)
        return replace(self, points=points, arcs=arcs)

    def simplified(self, area: float) -> Coverage:
        """Return the coverage without the points that span small triangles with their neighbours.

        Args:
            area: In px²; larger triangles stay. So do all where three areas meet, the frame, and
                what no area could do without.
        """
        kept = _simplify(self.points, self.arcs, self.closed, self._pairs(), area)
        arcs = np.concatenate([[0], np.cumsum(kept)])[self.arcs]
        return replace(self, points=self.points[kept], arcs=arcs)

    def _pairs(self) -> NDArray[np.int64]:
        """Return (a,) a number for the two ends of each arc, whatever its direction."""
        ends = np.stack([self.points[self.arcs[:-1]], self.points[self.arcs[1:] - 1]], axis=1)
        _, nodes = np.unique(
            np.ascontiguousarray(ends).view(np.complex128).ravel(), return_inverse=True
        )
        nodes = np.sort(nodes.reshape(-1, 2), axis=1)
        _, pairs = np.unique(nodes[:, 0] * len(ends) * 2 + nodes[:, 1], return_inverse=True)
        return np.asarray(pairs, np.int64)

    def outlines(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the points of the rings, ring after ring, and where each ring begins.

        As in :class:`geodeform.geo.components.Outlines`, no ring repeats its first point.
        """
        return _join(self.points, self.arcs, self.closed, self.uses, self.rings)


def to_polygons(
    points: NDArray[np.float64],
    rings: NDArray[np.int64],
    polygons: NDArray[np.int64],
    transform: Sequence[float],
) -> NDArray[Any]:
    """Return shapely polygons of rings that do not repeat their first points.

    Args:
        points: (v, 2) column and row, ring after ring, as in :class:`Outlines`.
        rings: (r + 1,) where each ring begins in the points.
        polygons: (n + 1,) where each polygon's rings begin, its outer ring first.
        transform: a, b, c, d, e, f of x = a·col + b·row + c and y = d·col + e·row + f.

    Returns:
        (n,) polygons, their outer rings counterclockwise in x, y.
    """
    a, b, c, d, e, f = (float(v) for v in transform[:6])
    offsets = rings + np.arange(len(rings))
    coordinates = _close(points, rings, (a, b, c, d, e, f), a * e - b * d < 0)
    result: NDArray[Any] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coordinates, (offsets, polygons)
    )
    return result


@compiled
def _close(
    points: NDArray[np.float64],
    rings: NDArray[np.int64],
    transform: tuple[float, float, float, float, float, float],
    backwards: bool,
) -> NDArray[np.float64]:
    """Return the map coordinates of the rings, each closed."""
    a, b, c, d, e, f = transform
    coordinates = np.empty((len(points) + len(rings) - 1, 2), np.float64)
    for ring in range(len(rings) - 1):
        begin, end = rings[ring], rings[ring + 1]
        for k in range(end - begin + 1):
            i = begin + ((end - begin - k if backwards else k) % (end - begin))
            coordinates[begin + ring + k, 0] = c + a * points[i, 0] + b * points[i, 1]
            coordinates[begin + ring + k, 1] = f + d * points[i, 0] + e * points[i, 1]
    return coordinates


@compiled
def _cut(
    points: NDArray[np.int32], fixed: NDArray[np.bool_], rings: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut rings at their fixed points.

    Returns:
        (u, 3) where each piece starts, how many edges it has, and its ring; (u,) and (u,) its first
        edge as seen from its start, and its last one as seen from its end: a number for each pixel
        corner and direction; (r + 1,) where each ring begins in the pieces.
    """
    n_rings = len(rings) - 1
    offsets = np.zeros(n_rings + 1, np.int64)
    for ring in range(n_rings):
        count = 0
        for i in range(rings[ring], rings[ring + 1]):
            count += fixed[i]
        offsets[ring + 1] = offsets[ring] + max(count, 1)
    pieces = np.empty((offsets[-1], 3), np.int64)
    first = np.empty(offsets[-1], np.int64)
    last = np.empty(offsets[-1], np.int64)
    width = np.int64(1)
    for i in range(len(points)):
        width = max(width, points[i, 0] + 1)
    for ring in range(n_rings):
        begin, end = rings[ring], rings[ring + 1]
        origin = begin
        while origin < end and not fixed[origin]:
            origin += 1
        if origin == end:
            origin = begin
        u = offsets[ring]
        start = origin
        size = 0
        previous = origin
        for step in range(1, end - begin + 1):
            i = begin + (origin - begin + step) % (end - begin)
            size += 1
            if fixed[i] or step == end - begin:
                pieces[u, 0] = start
                pieces[u, 1] = size
                pieces[u, 2] = ring
                after = start + 1 if start + 1 < end else begin
                first[u] = _dart(points, start, after, width)
                last[u] = _dart(points, i, previous, width)
                u += 1
                start = i
                size = 0
            previous = i
    return pieces, first, last, offsets


@compiled
def _dart(points: NDArray[np.int32], i: int, j: int, width: int | np.int64) -> int:
    """Number the edge that leaves corner i of the pixel lattice in the direction of corner j."""
    right = points[j, 0] - points[i, 0]
    down = points[j, 1] - points[i, 1]
    direction = 0 if right > 0 else 1 if right < 0 else 2 if down > 0 else 3
    return int(4 * (np.int64(points[i, 1]) * width + points[i, 0]) + direction)


@compiled
def _collect(
    points: NDArray[np.int32],
    rings: NDArray[np.int64],
    pieces: NDArray[np.int64],
    arcs: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the points of pieces of rings, as arcs that begin where ``arcs`` says."""
    result = np.empty((arcs[-1], 2), np.float64)
    for arc in range(len(pieces)):
        i = pieces[arc, 0]
        ring = pieces[arc, 2]
        for k in range(arcs[arc], arcs[arc + 1]):
            result[k, 0] = points[i, 0]
            result[k, 1] = points[i, 1]
            i += 1
            if i == rings[ring + 1]:
                i = rings[ring]
    return result


@compiled
def _join(
    points: NDArray[np.float64],
    arcs: NDArray[np.int64],
    closed: NDArray[np.bool_],
    uses: NDArray[np.int64],
    rings: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Put arcs together to rings; open arcs leave their last point to the next one."""
    offsets = np.zeros(len(rings), np.int64)
    for ring in range(len(rings) - 1):
        count = 0
        for u in range(rings[ring], rings[ring + 1]):
            arc = uses[u] // 2
            count += arcs[arc + 1] - arcs[arc] - (not closed[arc])
        offsets[ring + 1] = offsets[ring] + count
    result = np.empty((offsets[-1], 2), np.float64)
    at = 0
    for u in range(len(uses)):
        arc = uses[u] // 2
        begin, end = arcs[arc], arcs[arc + 1]
        backwards = uses[u] % 2 == 1
        for k in range(end - begin - (not closed[arc])):
            # backwards, a closed arc keeps its first point first
            i = begin + k
            if backwards:
                i = begin + (end - begin - k) % (end - begin) if closed[arc] else end - 1 - k
            result[at, 0] = points[i, 0]
            result[at, 1] = points[i, 1]
            at += 1
    return result, offsets


@compiled
def _smooth(
    points: NDArray[np.float64],
    arcs: NDArray[np.int64],
    closed: NDArray[np.bool_],
    passes: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the points of smoothed arcs, one at each pixel corner that they pass, and the arcs."""
    offsets = np.zeros(len(arcs), np.int64)
    for arc in range(len(arcs) - 1):
        begin, end = arcs[arc], arcs[arc + 1]
        size = 2
        if closed[arc] or end - begin > 2:  # a straight arc stays as it is
            size = 0 if closed[arc] else 1
            for i in range(begin, end - (not closed[arc])):
                j = i + 1 if i + 1 < end else begin
                size += int(abs(points[j, 0] - points[i, 0]) + abs(points[j, 1] - points[i, 1]))
        offsets[arc + 1] = offsets[arc] + size
    result = np.empty((offsets[-1], 2), np.float64)
    for arc in range(len(arcs) - 1):
        begin, end = arcs[arc], arcs[arc + 1]
        at = offsets[arc]
        if not closed[arc] and end - begin == 2:
            result[at] = points[begin]
            result[at + 1] = points[begin + 1]
            continue
        for i in range(begin, end - (not closed[arc])):
            j = i + 1 if i + 1 < end else begin
            dx, dy = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1]
            steps = int(abs(dx) + abs(dy))
            for k in range(steps):
                result[at, 0] = points[i, 0] + dx * k / steps
                result[at, 1] = points[i, 1] + dy * k / steps
                at += 1
        if not closed[arc]:
            result[at] = points[end - 1]
        part = result[offsets[arc] : offsets[arc + 1]]
        _cut_corners(part, closed[arc], passes)
    return result, offsets


@compiled
def _cut_corners(points: NDArray[np.float64], closed: bool, passes: int) -> None:
    """Smooth an arc in place, of which each edge is a pixel's.

    A pass replaces each point by the middle of the middles of its two edges (cuts every corner,
    twice), then shifts all points along their normals by what gives the area on the arc's sides
    back, so that small islands do not shrink. No point leaves the circle of :data:`REACH` around
    its pixel corner. The ends of an open arc stay.
    """
    n = len(points)
    origin = points.copy()
    moved = points.copy()
    normals = np.zeros_like(points)
    first, stop = (0, n) if closed else (1, n - 1)
    area = _area(points)
    for _ in range(passes):
        for i in range(first, stop):
            a, b = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
            for c in range(2):
                moved[i, c] = (points[a, c] + 2 * points[i, c] + points[b, c]) / 4
        # with points + shift · normals the area is a polynomial of the second degree in the shift
        linear = 0.0
        for i in range(first, stop):
            a, b = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
            normals[i, 0] = moved[b, 1] - moved[a, 1]
            normals[i, 1] = moved[a, 0] - moved[b, 0]
            linear += (normals[i, 0] ** 2 + normals[i, 1] ** 2) / 2
        lost = area - _area(moved)
        root = np.sqrt(max(linear**2 + 4 * _area(normals) * lost, 0.0))
        shift = 2 * lost / (linear + root) if linear > 0 else 0.0
        for i in range(first, stop):
            x = moved[i, 0] + shift * normals[i, 0] - origin[i, 0]
            y = moved[i, 1] + shift * normals[i, 1] - origin[i, 1]
            length = np.sqrt(x * x + y * y)
            part = REACH / length if length > REACH else 1.0
            points[i, 0] = origin[i, 0] + part * x
            points[i, 1] = origin[i, 1] + part * y


@compiled
def _area(points: NDArray[np.float64]) -> float:
    """Return the signed area between an arc and the line from its end to its start."""
    area = 0.0
    for i in range(1, len(points) - 1):
        area += _triangle(points, 0, i, i + 1)
    return area / 2


@compiled
def _triangle(points: NDArray[np.float64], i: int, j: int, k: int) -> float:
    """Return twice the signed area of a triangle."""
    x, y = points[i, 0], points[i, 1]
    cross = (points[j, 0] - x) * (points[k, 1] - y) - (points[j, 1] - y) * (points[k, 0] - x)
    return float(cross)


@compiled
def _simplify(
    points: NDArray[np.float64],
    arcs: NDArray[np.int64],
    closed: NDArray[np.bool_],
    pairs: NDArray[np.int64],
    area: float,
) -> NDArray[np.bool_]:
    """Return which points stay.

    Args:
        points: (v, 2), as in :class:`Coverage`.
        arcs: (a + 1,), as there.
        closed: (a,), as there.
        pairs: (a,) number of each arc's two ends, the same in both directions.
        area: Limit in px².
    """
    n = len(points)
    kept = np.ones(n, np.bool_)
    # the index of points: the first point of each cell, and the next one in its cell
    left, top = points[:, 0].min(), points[:, 1].min()
    width, height = points[:, 0].max() - left, points[:, 1].max() - top
    cell = max(_CELL, np.sqrt(width * height / (_CELLS_A_POINT * n)))
    across = int(width / cell) + 1
    down = int(height / cell) + 1
    head = np.full(across * down, -1, np.int64)
    following = np.empty(n, np.int64)
    for i in range(n):
        c = int((points[i, 1] - top) / cell) * across + int((points[i, 0] - left) / cell)
        following[i] = head[c]
        head[c] = i
    # two straight arcs between the same ends would be one edge, and what is between them nothing
    straight = np.zeros(pairs.max() + 1, np.bool_)
    for arc in range(len(closed)):
        if not closed[arc] and arcs[arc + 1] - arcs[arc] == 2:
            straight[pairs[arc]] = True
    before = np.empty(n, np.int64)
    after = np.empty(n, np.int64)
    spans = np.empty(n, np.float64)
    for arc in range(len(closed)):
        begin, end = arcs[arc], arcs[arc + 1]
        ring = closed[arc]
        if end - begin < 3:
            continue
        for i in range(begin, end):
            before[i] = i - 1 if i > begin else end - 1
            after[i] = i + 1 if i + 1 < end else begin
        same = points[begin, 0] == points[end - 1, 0] and points[begin, 1] == points[end - 1, 1]
        queue = [(0.0, 0) for _ in range(0)]
        for i in range(begin if ring else begin + 1, end if ring else end - 1):
            spans[i] = abs(_triangle(points, before[i], i, after[i])) / 2
            if spans[i] <= area:
                queue.append((spans[i], i))
        heapq.heapify(queue)
        left_over = end - begin
        least = 3 if ring else 4 if same else 2
        while len(queue) > 0 and left_over > least:
            span, i = heapq.heappop(queue)
            if not kept[i] or span != spans[i]:
                continue  # gone, or its triangle has changed since
            if left_over == 3 and straight[pairs[arc]] and not ring:
                break
            p, q = before[i], after[i]
            if _is_occupied(points, kept, head, following, (left, top, cell), across, p, i, q):
                continue
            kept[i] = False
            left_over -= 1
            after[p] = q
            before[q] = p
            for k in (p, q):
                if ring or begin < k < end - 1:
                    spans[k] = abs(_triangle(points, before[k], k, after[k])) / 2
                    if spans[k] <= area:
                        heapq.heappush(queue, (spans[k], k))
        if left_over == 2:
            straight[pairs[arc]] = True
    return kept


@compiled
def _is_occupied(
    points: NDArray[np.float64],
    kept: NDArray[np.bool_],
    head: NDArray[np.int64],
    following: NDArray[np.int64],
    grid: tuple[float, float, float],
    across: int,
    p: int,
    i: int,
    q: int,
) -> bool:
    """Whether a point other than its corners lies in or on a triangle."""
    left, top, cell = grid
    turn = _triangle(points, p, i, q)
    if turn == 0:
        return False  # the point lies on the new edge
    if turn < 0:
        p, q = q, p
    x0 = min(points[p, 0], points[i, 0], points[q, 0]) - _MARGIN
    x1 = max(points[p, 0], points[i, 0], points[q, 0]) + _MARGIN
    y0 = min(points[p, 1], points[i, 1], points[q, 1]) - _MARGIN
    y1 = max(points[p, 1], points[i, 1], points[q, 1]) + _MARGIN
    # the distance of the margin, in each edge's cross product
    slack_a = _MARGIN * np.hypot(points[i, 0] - points[p, 0], points[i, 1] - points[p, 1])
    slack_b = _MARGIN * np.hypot(points[q, 0] - points[i, 0], points[q, 1] - points[i, 1])
    slack_c = _MARGIN * np.hypot(points[p, 0] - points[q, 0], points[p, 1] - points[q, 1])
    rows = len(head) // across
    for row in range(max(int((y0 - top) / cell), 0), min(int((y1 - top) / cell), rows - 1) + 1):
        for col in range(
            max(int((x0 - left) / cell), 0), min(int((x1 - left) / cell), across - 1) + 1
        ):
            c = row * across + col
            last = -1
            k = head[c]
            while k >= 0:
                then = following[k]
                if not kept[k]:  # take it out of the index
                    if last < 0:
                        head[c] = then
                    else:
                        following[last] = then
                    k = then
                    continue
                last = k
                x, y = points[k, 0], points[k, 1]
                if (
                    x0 <= x <= x1
                    and y0 <= y <= y1
                    and k != i
                    and not (x == points[p, 0] and y == points[p, 1])
                    and not (x == points[q, 0] and y == points[q, 1])
                    and _triangle(points, p, i, k) >= -slack_a
                    and _triangle(points, i, q, k) >= -slack_b
                    and _triangle(points, q, p, k) >= -slack_c
                ):
                    return True
                k = then
    return False
