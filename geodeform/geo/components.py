"""Connected components of a class raster and their outlines, row band by row band (numba).

A component is a maximal set of pixels of one class (nodata counts as a class here) that are
connected through pixel edges (4-connectivity). Everything walks the raster in bands of full-width
rows from the top, so memory is bounded by a band and by what is returned, and nothing depends on
how the rows are split into bands:

1. :class:`ComponentLabeller` numbers components in the order of their first pixels, by union-find
   within a band (:func:`label_band`) and across bands.
2. :class:`BorderCounter`, :func:`merge_small` and :func:`fill_enclosed` dissolve small components
   into neighbours and fill holes.
3. :class:`OutlineTracer` follows the outlines: polygons come out whole, never split at a band.

Union-find: R. E. Tarjan, Efficiency of a good but not linear set union algorithm, J. ACM 22 (1975).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geodeform.classes import NODATA_CLASS
from geodeform.compiled import compiled

OUTSIDE = -1
"""Id of what gets no outline: all beyond the raster, and components that the caller leaves out."""

_NODATA, _LARGE, _SMALL = 0, 1, 2  # what a component is to its neighbours' merging

Sums = TypeVar("Sums", NDArray[np.int64], NDArray[np.float64])


@dataclass(frozen=True)
class Components:
    """The components of a whole raster, numbered by their first pixels, row-major.

    Attributes:
        kinds: (n,) uint8 class of each.
        pixels: (n,) int64 number of pixels.
        weights: (n,) int64 sum over the pixels of their rows' weights.
        sums: One (n,) float64 array for each plane of values: its sum over the pixels.
        counts: One (n,) int64 array for each plane: how many of the pixels have a value.
        bands: For each band, (m,) int64 component of each id that :func:`label_band` gives there.
    """

    kinds: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    weights: NDArray[np.int64]
    sums: tuple[NDArray[np.float64], ...]
    counts: tuple[NDArray[np.int64], ...]
    bands: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.kinds)


class ComponentLabeller:
    """Finds the components of a raster that arrives in bands from the top.

    The pixels' ids are not kept: :func:`label_band` gives a band's ids again, faster than a disk
    would give them back.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]] = []
        self._sums: list[list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = []
        self._seams: list[NDArray[np.int64]] = []
        self._starts = [0]
        self._last: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None

    def feed(
        self,
        classes: NDArray[np.uint8],
        row_weights: NDArray[np.int64],
        planes: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        """Take the next band.

        Args:
            classes: (rows, cols) class ids.
            row_weights: (rows,) weight of each row's pixels, such as their relative area.
            planes: (rows, cols) arrays of values to sum over each component; NaN is no value.
        """
        ids, n = label_band(classes)
        start = self._starts[-1]
        self._parts.append(_measure_band(ids, n, classes, row_weights))
        self._sums.append([_sum_band(ids, n, plane) for plane in planes])
        self._starts.append(start + n)
        if self._last is not None:
            upper_classes, upper = self._last
            same = upper_classes == classes[0]
            self._seams.append(np.stack([upper[same], ids[0][same].astype(np.int64) + start]))
        self._last = (classes[-1].copy(), ids[-1].astype(np.int64) + start)

    def finish(self) -> Components:
        """Return the components of all bands that were fed (at least one)."""
        parent = np.arange(self._starts[-1])
        for upper, lower in self._seams:
            _join(parent, upper, lower)
        n = _number(parent)  # parent now holds components
        kinds, pixels, weights = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return Components(
            kinds=_first(parent, n, kinds),
            pixels=total(parent, n, pixels),
            weights=total(parent, n, weights),
            sums=tuple(
                total(parent, n, np.concatenate([sums for sums, _ in plane]))
                for plane in zip(*self._sums, strict=True)
            ),
            counts=tuple(
                total(parent, n, np.concatenate([counts for _, counts in plane]))
                for plane in zip(*self._sums, strict=True)
            ),
            bands=tuple(np.split(parent, self._starts[1:-1])),
        )


def total(numbers: NDArray[np.int64], n: int, values: Sums) -> Sums:
    """Return (n,) sums of ``values`` over the entries of each number."""
    sums = np.zeros(n, values.dtype)
    np.add.at(sums, numbers, values)
    return sums


@dataclass(frozen=True)
class Borders:
    """How long neighbouring components share a border, of which one is small at least.

    Attributes:
        first: (m,) int64 the one component of each border.
        second: (m,) int64 the other one.
        lengths: (m,) float64 how long they are.
        exposed: (n,) bool which components touch nodata or the raster's frame.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    lengths: NDArray[np.float64]
    exposed: NDArray[np.bool_]

    def merged(self, numbers: NDArray[np.int64], n: int) -> Borders:
        """Return the borders of the n components that these have become, by their new numbers.

        Two of them may have several entries.
        """
        first, second = numbers[self.first], numbers[self.second]
        apart = first != second
        exposed = np.zeros(n, np.bool_)
        exposed[numbers[self.exposed]] = True
        return Borders(first[apart], second[apart], self.lengths[apart], exposed)


class BorderCounter:
    """Counts the shared pixel edges of neighbouring components, of which one is small at least.

    Args:
        kinds: (n,) uint8 class of each component; nodata has no borders.
        small: (n,) bool which components are small.
    """

    def __init__(self, kinds: NDArray[np.uint8], small: NDArray[np.bool_]) -> None:
        self._state = np.where(small, _SMALL, _LARGE).astype(np.uint8)
        self._state[kinds == NODATA_CLASS] = _NODATA
        self._exposed = np.zeros(len(kinds), np.bool_)
        self._keys: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._last: NDArray[np.int32] | None = None

    def feed(self, numbers: NDArray[np.int32]) -> None:
        """Take the next band: (rows, cols) component of each pixel."""
        if self._last is None:
            self._exposed[numbers[0]] = True
        self._exposed[numbers[:, 0]] = True
        self._exposed[numbers[:, -1]] = True
        last = numbers[0] if self._last is None else self._last
        none = np.empty(0, np.int64)
        keys = np.empty(_border_keys(numbers, last, self._state, none, self._exposed), np.int64)
        _border_keys(numbers, last, self._state, keys, self._exposed)
        keys, counts = np.unique(keys, return_counts=True)
        self._keys.append(keys)
        self._counts.append(counts)
        self._last = numbers[-1].copy()

    def finish(self, edge_length: tuple[float, float]) -> Borders:
        """Return the borders of all bands that were fed (at least one).

        Args:
            edge_length: (y, x) lengths of a pixel's vertical and horizontal edges.
        """
        self._exposed[self._last] = True
        keys, inverse = np.unique(np.concatenate(self._keys), return_inverse=True)
        counts = total(inverse, len(keys), np.concatenate(self._counts))
        lengths = np.asarray(counts * np.where(keys % 2 == 0, *edge_length), np.float64)
        pairs, inverse = np.unique(keys // 2, return_inverse=True)
        n = max(len(self._state), 1)
        return Borders(pairs // n, pairs % n, total(inverse, len(pairs), lengths), self._exposed)


def merge_small(
    kinds: NDArray[np.uint8],
    sizes: NDArray[np.float64],
    borders: Borders,
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Dissolve components below a size into their neighbours, the smallest first.

    Each goes to the neighbour with the longest shared border (then the larger, then the earlier
    one) and takes its class; what now touches and has the same class becomes one. Nodata takes no
    part, so a small component with no other neighbour stays.

    Args:
        kinds: (n,) uint8 class of each component.
        sizes: (n,) area of each.
        borders: Those of all components with ``sizes < threshold``, as :class:`BorderCounter`
            counts them.
        threshold: Components of at least this size stay.

    Returns:
        (n,) new number of each component, counted by first pixels again, and the (m,) classes of
        the new components.
    """
    parent, merged_kinds = _merge(
        kinds, sizes, borders.first, borders.second, borders.lengths, threshold
    )
    m = _number(parent)
    return parent, _first(parent, m, merged_kinds)


def fill_enclosed(
    kinds: NDArray[np.uint8],
    sizes: NDArray[np.float64],
    borders: Borders,
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Fill holes: components below a size that one single other component encloses.

    Such a component has pixel edges with that one only: none with a third, with nodata or with the
    raster's frame. It takes the class of what encloses it and becomes part of it. Holes within a
    hole are filled from the inside and count as a part of it, so what is filled at once is never of
    the threshold's size or larger; the order does not matter. Nodata is never filled, and neither
    is what encloses some.

    Args:
        kinds: (n,) uint8 class of each component.
        sizes: (n,) area of each.
        borders: Those of all components with ``sizes < threshold``, as :class:`BorderCounter`
            counts them.
        threshold: Holes of at least this size stay.

    Returns:
        (n,) new number of each component, counted by first pixels again, and the (m,) classes of
        the new components.
    """
    parent, filled_kinds = _fill(
        kinds, sizes, borders.first, borders.second, borders.exposed, threshold
    )
    m = _number(parent)
    return parent, _first(parent, m, filled_kinds)


@dataclass(frozen=True)
class Outlines:
    """The outlines of components: rings of pixel corners.

    A ring runs clockwise on the screen (rows downwards) around a component and counterclockwise
    around its holes, begins at its first corner, row-major, and does not repeat it at its end.

    Attributes:
        points: (v, 2) int32 column and row of the corners, ring after ring.
        fixed: (v,) bool which corners hold the coverage together: where the outlines of three or
            more components (or twice those of two) meet, and all that lie on the raster's frame.
        rings: (r + 1,) int64 where each ring begins in the points.
        polygons: (n + 1,) int64 where each component's rings begin, its outer ring first.
    """

    points: NDArray[np.int32]
    fixed: NDArray[np.bool_]
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]


class OutlineTracer:
    """Follows the outlines of components that arrive as bands of ids from the top.

    Outlines are rings of pixel corners: one where the outline turns, and one where three components
    meet, so that neighbours share their edges vertex by vertex (a valid coverage). Where a
    component touches itself at a corner only, its rings touch there and none passes twice, which is
    what makes a polygon valid.

    Args:
        cols: Width of the raster.
    """

    def __init__(self, cols: int) -> None:
        self._above = np.full(cols, OUTSIDE, np.int32)
        self._row = 0
        self._used = 0
        # of each vertex: column, row, component, whether it is fixed
        self._vertices = np.empty((1024 + 4 * (cols + 1), 4), np.int32)
        self._next = np.empty(len(self._vertices), np.int64)  # vertex that follows in the ring
        # the vertex at the known end of the vertical edges that cross the current row, by column
        self._down = np.full(cols + 1, -1, np.int64)
        self._up = np.full(cols + 1, -1, np.int64)

    def feed(self, ids: NDArray[np.int32]) -> None:
        """Take the next band: (rows, cols) component of each pixel, or :data:`OUTSIDE`."""
        done = 0
        while True:
            done, self._used = _trace(
                self._above,
                ids,
                done,
                self._row,
                self._vertices,
                self._next,
                self._used,
                self._down,
                self._up,
            )
            if done == len(ids):
                break
            self._vertices = np.concatenate([self._vertices, np.empty_like(self._vertices)])
            self._next = np.concatenate([self._next, np.empty_like(self._next)])
        self._row += len(ids)
        self._above = ids[-1].copy()

    def finish(self, n: int) -> Outlines:
        """Close the outlines and return them.

        Args:
            n: Number of components; each of 0…n-1 must have been seen.
        """
        self.feed(np.full((1, len(self._above)), OUTSIDE, np.int32))
        following = self._next[: self._used]
        starts, lengths = _find_rings(following)
        owners = self._vertices[starts, 2]
        # a component's outer ring begins above all of its holes, so it comes first and stays first
        order = np.argsort(owners, kind="stable")
        rings = np.concatenate([[0], np.cumsum(lengths[order])])
        points, fixed = _lay_out(self._vertices, following, starts[order], rings)
        return Outlines(points, fixed, rings, np.searchsorted(owners[order], np.arange(n + 1)))


@compiled
def _find(parent: NDArray[np.int64], i: int) -> int:
    """Return the root of ``i``, shortening its path."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def _union(parent: NDArray[np.int64], i: int, j: int) -> None:
    """Join two sets; the smaller root becomes the root."""
    i = _find(parent, i)
    j = _find(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@compiled
def _join(parent: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
    """Join the sets of each pair."""
    for i in range(len(first)):
        _union(parent, first[i], second[i])


@compiled
def _number(parent: NDArray[np.int64]) -> int:
    """Replace each entry by the number of its root, counting roots upwards; return how many.

    Relies on parents being smaller than their children, as :func:`_union` makes them.
    """
    n = 0
    for i in range(len(parent)):
        if parent[i] == i:
            parent[i] = n
            n += 1
        else:
            parent[i] = parent[parent[i]]  # the parent is smaller, so it has its number already
    return n


@compiled
def _first(numbers: NDArray[np.int64], n: int, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the value at the first entry of each number."""
    result = np.empty(n, np.uint8)
    for i in range(len(numbers) - 1, -1, -1):
        result[numbers[i]] = values[i]
    return result


@compiled
def label_band(classes: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Number the components of one band by their first pixels, row-major.

    Args:
        classes: (rows, cols) class ids.

    Returns:
        (rows, cols) component ids 0…n-1, and n.
    """
    rows, cols = classes.shape
    runs = 0
    for r in range(rows):
        runs += 1
        for c in range(1, cols):
            runs += classes[r, c] != classes[r, c - 1]
    parent = np.empty(runs, np.int64)
    ids = np.empty((rows, cols), np.int32)
    used = 0
    for r in range(rows):
        for c in range(cols):
            kind = classes[r, c]
            above = r > 0 and classes[r - 1, c] == kind
            if c > 0 and classes[r, c - 1] == kind:
                ids[r, c] = ids[r, c - 1]
                # where the upper left pixel has the class too, the two are joined already
                if above and classes[r - 1, c - 1] != kind:
                    _union(parent, ids[r, c], ids[r - 1, c])
            elif above:
                ids[r, c] = ids[r - 1, c]
            else:
                parent[used] = used
                ids[r, c] = used
                used += 1
    n = _number(parent[:used])
    for r in range(rows):
        for c in range(cols):
            ids[r, c] = parent[ids[r, c]]
    return ids, n


@compiled
def _measure_band(
    ids: NDArray[np.int32], n: int, classes: NDArray[np.uint8], row_weights: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return class, number of pixels and sum of row weights of each component of a band."""
    kinds = np.zeros(n, np.uint8)
    pixels = np.zeros(n, np.int64)
    weights = np.zeros(n, np.int64)
    rows, cols = ids.shape
    for r in range(rows):
        c = 0
        while c < cols:
            k = ids[r, c]
            start = c
            while c < cols and ids[r, c] == k:
                c += 1
            kinds[k] = classes[r, start]
            pixels[k] += c - start
            weights[k] += (c - start) * row_weights[r]
    return kinds, pixels, weights


@compiled
def _sum_band(
    ids: NDArray[np.int32], n: int, values: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of a value over the pixels of each component of a band, and how many have it.

    NaN is no value.
    """
    sums = np.zeros(n, np.float64)
    counts = np.zeros(n, np.int64)
    rows, cols = ids.shape
    for r in range(rows):
        c = 0
        while c < cols:
            k = ids[r, c]
            run = 0.0
            count = 0
            while c < cols and ids[r, c] == k:
                if not np.isnan(values[r, c]):
                    run += values[r, c]
                    count += 1
                c += 1
            sums[k] += run
            counts[k] += count
    return sums, counts


@compiled
def _border_keys(
    numbers: NDArray[np.int32],
    last: NDArray[np.int32],
    state: NDArray[np.uint8],
    keys: NDArray[np.int64],
    exposed: NDArray[np.bool_],
) -> int:
    """Find the pixel edges between two components that count, to the left of and above pixels.

    Marks what touches nodata as exposed. Fills ``keys`` as far as it goes and returns how many
    there are. The key of a vertical edge between components i < j of n is 2·(i·n + j), that of a
    horizontal edge one more.
    """
    used = 0
    rows, cols = numbers.shape
    for r in range(rows):
        for c in range(cols):
            here = numbers[r, c]
            above = last[c] if r == 0 else numbers[r - 1, c]
            left = here if c == 0 else numbers[r, c - 1]
            for there, horizontal in ((left, 0), (above, 1)):
                if there == here:
                    continue
                if state[here] == _NODATA:
                    exposed[there] = True
                elif state[there] == _NODATA:
                    exposed[here] = True
                elif state[here] + state[there] >= _LARGE + _SMALL:
                    if used < len(keys):
                        low, high = np.int64(min(here, there)), np.int64(max(here, there))
                        keys[used] = 2 * (low * len(state) + high) + horizontal
                    used += 1
    return used


@compiled
def _chains(
    n: int, first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Chain the borders of each component: its first and last half-border, and what follows each.

    Half-border e of border e // 2 leads to its second component if e is even, else to its first.
    """
    head = np.full(n, -1, np.int64)
    tail = np.full(n, -1, np.int64)
    following = np.full(2 * len(first), -1, np.int64)
    for e in range(2 * len(first)):
        owner = first[e // 2] if e % 2 == 0 else second[e // 2]
        if head[owner] < 0:
            head[owner] = e
        else:
            following[tail[owner]] = e
        tail[owner] = e
    return head, tail, following


@compiled
def _append(
    head: NDArray[np.int64],
    tail: NDArray[np.int64],
    following: NDArray[np.int64],
    low: int,
    high: int,
) -> None:
    """Append the chain of one component to that of another."""
    if head[low] < 0:
        head[low] = head[high]
        tail[low] = tail[high]
    elif head[high] >= 0:
        following[tail[low]] = head[high]
        tail[low] = tail[high]


@compiled
def _merge(
    kinds: NDArray[np.uint8],
    sizes: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    lengths: NDArray[np.float64],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return each component's root after merging (the smallest of its set) and the roots' classes.

    A merged component's chain of borders is made of those of its parts. Only the chains of small
    components are complete, and only those are read.
    """
    n = len(kinds)
    parent = np.arange(n)
    kinds = kinds.copy()
    sizes = sizes.copy()
    head, tail, following = _chains(n, first, second)
    queue = [(sizes[i], i) for i in range(n) if sizes[i] < threshold and kinds[i] != NODATA_CLASS]
    heapq.heapify(queue)
    shared = np.zeros(n, np.float64)  # border with each neighbour, zero outside a turn
    while len(queue) > 0:
        size, i = heapq.heappop(queue)
        if parent[i] != i or sizes[i] != size:
            continue  # has grown or gone since it was queued
        neighbours = [0 for _ in range(0)]
        e = head[i]
        while e >= 0:
            there = _find(parent, second[e // 2] if e % 2 == 0 else first[e // 2])
            if there != i:
                if shared[there] == 0:
                    neighbours.append(there)
                shared[there] += lengths[e // 2]
            e = following[e]
        if len(neighbours) == 0:
            continue
        best = neighbours[0]
        for there in neighbours:
            if (shared[there], sizes[there], -there) > (shared[best], sizes[best], -best):
                best = there
        kind = kinds[best]
        root = i
        for there in neighbours:
            shared[there] = 0
            if kinds[there] != kind:
                continue
            _union(parent, root, there)
            low, high = min(root, there), max(root, there)
            sizes[low] += sizes[high]
            _append(head, tail, following, low, high)
            root = low
        kinds[root] = kind
        if sizes[root] < threshold:
            heapq.heappush(queue, (sizes[root], root))
    return parent, kinds


@compiled
def _fill(
    kinds: NDArray[np.uint8],
    sizes: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    exposed: NDArray[np.bool_],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return each component's root after filling (the smallest of its set) and the roots' classes.

    As in :func:`_merge`, only the chains of small components are complete, and only those are read.
    """
    n = len(kinds)
    parent = np.arange(n)
    kinds = kinds.copy()
    sizes = sizes.copy()
    exposed = exposed.copy()
    head, tail, following = _chains(n, first, second)
    waiting = [i for i in range(n) if sizes[i] < threshold and kinds[i] != NODATA_CLASS]
    while len(waiting) > 0:
        i = waiting.pop()
        if parent[i] != i or sizes[i] >= threshold or exposed[i]:
            continue
        around = -1  # the only neighbour so far
        e = head[i]
        while e >= 0:
            there = _find(parent, second[e // 2] if e % 2 == 0 else first[e // 2])
            if there != i:
                if around >= 0 and around != there:
                    around = n  # there is a second one
                    break
                around = there
            e = following[e]
        if around < 0 or around == n:
            continue
        low, high = min(i, around), max(i, around)
        parent[high] = low
        kinds[low] = kinds[around]
        sizes[low] += sizes[high]
        exposed[low] = exposed[around]
        _append(head, tail, following, low, high)
        waiting.append(low)  # it may be a hole now that its own is filled
    return parent, kinds


@compiled
def _trace(
    above: NDArray[np.int32],
    ids: NDArray[np.int32],
    done: int,
    top: int,
    vertices: NDArray[np.int32],
    following: NDArray[np.int64],
    used: int,
    down: NDArray[np.int64],
    up: NDArray[np.int64],
) -> tuple[int, int]:
    """Collect the vertices on the upper edge of each row of a band.

    Outlines run with their component on the right (clockwise on the screen): east along its top
    edges, south along its right ones, west along its bottom ones, north along its left ones. East
    and south edges are met at their start, so the vertex where they end completes the link; west
    and north edges are met at their end, so the vertex where they start does.

    Args:
        above: (cols,) ids of the row above the band.
        ids: (rows, cols) ids of the band.
        done: Rows of the band that are done.
        top: Row of the raster where the band begins.
        vertices: (capacity, 4) column, row, id, fixed of each vertex; extended in place.
        following: (capacity,) vertex after each; extended in place.
        used: How many vertices there are.
        down: (cols + 1,) start of the south edge open in each column.
        up: (cols + 1,) end of the north edge open in each column.

    Returns:
        Rows done and vertices used: fewer rows than the band has where the capacity ran out.
    """
    rows, cols = ids.shape
    for r in range(done, rows):
        if used + 4 * (cols + 1) > len(vertices):
            return r, used
        east = -1  # start of the open east edge
        west = -1  # end of the open west edge
        nw = sw = np.int32(OUTSIDE)
        for c in range(cols + 1):
            ne = np.int32(OUTSIDE)
            se = np.int32(OUTSIDE)
            if c < cols:
                ne = above[c] if r == 0 else ids[r - 1, c]
                se = ids[r, c]
            if (nw == ne and sw == se) or (nw == sw and ne == se):  # inside, or a straight edge
                nw, sw = ne, se
                continue
            degree = (nw != ne) + (ne != se) + (se != sw) + (sw != nw)
            fixed = degree > 2 or nw == OUTSIDE or ne == OUTSIDE or se == OUTSIDE or sw == OUTSIDE
            old_east, old_west, old_down, old_up = east, west, down[c], up[c]
            for corner in range(4):
                k = (nw, ne, sw, se)[corner]
                if (
                    k == OUTSIDE
                    or (corner > 0 and k == nw)
                    or (corner > 1 and k == ne)
                    or (corner > 2 and k == sw)
                ):
                    continue  # no outline, or had its turn
                in_nw, in_ne, in_sw, in_se = nw == k, ne == k, sw == k, se == k
                _put(vertices, used, c, top + r, k, fixed)
                if in_nw and in_se and not in_ne and not in_sw:  # touches itself at this corner:
                    up[c] = used  # past the lower left pixel
                    following[used] = old_west
                    used += 1
                    _put(vertices, used, c, top + r, k, fixed)  # past the upper right pixel
                    following[old_down] = used
                    east = used
                elif in_ne and in_sw and not in_nw and not in_se:
                    west = used  # past the lower right pixel
                    down[c] = used
                    used += 1
                    _put(vertices, used, c, top + r, k, fixed)  # past the upper left pixel
                    following[old_east] = used
                    following[used] = old_up
                else:
                    if in_sw and not in_nw:  # comes from the west
                        following[old_east] = used
                    elif in_ne and not in_se:  # from the east
                        west = used
                    elif in_nw and not in_ne:  # from the north
                        following[old_down] = used
                    else:  # from the south
                        up[c] = used
                    if in_se and not in_ne:  # goes east
                        east = used
                    elif in_nw and not in_sw:  # west
                        following[used] = old_west
                    elif in_sw and not in_se:  # south
                        down[c] = used
                    else:  # north
                        following[used] = old_up
                used += 1
            nw, sw = ne, se
    return rows, used


@compiled
def _put(
    vertices: NDArray[np.int32], i: int, col: int, row: int, k: int | np.int32, fixed: bool
) -> None:
    """Write one vertex."""
    vertices[i, 0] = col
    vertices[i, 1] = row
    vertices[i, 2] = k
    vertices[i, 3] = fixed


@compiled
def _find_rings(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first vertex of each ring, in ascending order, and its number of vertices."""
    starts = np.empty(len(following) // 4, np.int64)  # no ring has fewer than four
    lengths = np.empty(len(following) // 4, np.int64)
    seen = np.zeros(len(following), np.bool_)
    rings = 0
    for start in range(len(following)):
        if seen[start]:
            continue
        length = 0
        v = start
        while not seen[v]:
            seen[v] = True
            length += 1
            v = following[v]
        starts[rings] = start
        lengths[rings] = length
        rings += 1
    return starts[:rings], lengths[:rings]


@compiled
def _lay_out(
    vertices: NDArray[np.int32],
    following: NDArray[np.int64],
    starts: NDArray[np.int64],
    rings: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the corners of the rings, one ring after the other, and which are fixed."""
    points = np.empty((rings[-1], 2), np.int32)
    fixed = np.empty(rings[-1], np.bool_)
    for ring in range(len(starts)):
        v = starts[ring]
        for i in range(rings[ring], rings[ring + 1]):
            points[i, 0] = vertices[v, 0]
            points[i, 1] = vertices[v, 1]
            fixed[i] = vertices[v, 3] != 0
            v = following[v]
    return points, fixed
