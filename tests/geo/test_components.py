from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from geodeform.classes import NODATA_CLASS
from geodeform.geo.components import (
    OUTSIDE,
    BorderCounter,
    ComponentLabeller,
    Components,
    OutlineTracer,
    fill_enclosed,
    label_band,
    merge_small,
)
from geodeform.geo.coverage import to_polygons

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

# deadline=None: the first example of a test may compile its kernels
maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([0, 0, 1, 1, 2, NODATA_CLASS]),
)


def reference_labels(classes: np.ndarray) -> np.ndarray:
    """scipy's 4-connected components of each class, numbered by their first pixels."""
    ids = np.zeros(classes.shape, int)
    for kind in np.unique(classes):
        part, _ = ndimage.label(classes == kind)
        ids = np.where(part > 0, part + ids.max(), ids)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].reshape(classes.shape)


def components_of(
    classes: np.ndarray, rows: int, planes: Sequence[np.ndarray] = (), weight: int = 1
) -> tuple[Components, np.ndarray]:
    labeller = ComponentLabeller()
    tops = range(0, len(classes), rows)
    for top in tops:
        band = slice(top, top + rows)
        weights = np.full(len(classes[band]), weight, np.int64)
        labeller.feed(classes[band], weights, [plane[band] for plane in planes])
    components = labeller.finish()
    numbers = [
        table[label_band(classes[top : top + rows])[0]]
        for top, table in zip(tops, components.bands, strict=True)
    ]
    return components, np.concatenate(numbers)


@settings(deadline=None)
@given(maps, st.integers(1, 9))
def test_components_are_scipys_whatever_the_bands(classes: np.ndarray, rows: int) -> None:
    values = (np.arange(classes.size) % 7).reshape(classes.shape).astype(np.float32)
    components, numbers = components_of(classes, rows, [values], weight=3)
    expected = reference_labels(classes)
    assert np.array_equal(numbers, expected)
    assert len(components) == expected.max() + 1
    flat = expected.ravel()
    assert np.array_equal(components.pixels, np.bincount(flat))
    assert np.array_equal(components.weights, 3 * np.bincount(flat))
    assert np.array_equal(components.sums[0], np.bincount(flat, values.ravel()))
    assert np.array_equal(components.kinds[expected], classes)


def test_a_spiral_is_one_component() -> None:
    # each band sees many pieces that only meet further down
    classes = np.zeros((41, 41), np.uint8)
    row, col, step, length = 0, 0, (0, 1), 40
    classes[0, 0] = 1
    for turn in range(38):
        for _ in range(length):
            row, col = row + step[0], col + step[1]
            classes[row, col] = 1
        step = (step[1], -step[0])
        if turn >= 2 and turn % 2 == 0:
            length -= 2
        if length <= 1:
            break
    for rows in (1, 2, 7, 41):
        components, numbers = components_of(classes, rows)
        assert np.array_equal(numbers, reference_labels(classes))
        assert (components.kinds == 1).sum() == 1


def reference_merge(
    classes: np.ndarray, threshold: float, edges: tuple[float, float]
) -> np.ndarray:
    """Dissolve one component at a time, looking at the whole map anew each time."""
    classes = classes.copy()
    while True:
        ids = reference_labels(classes)
        sizes = np.bincount(ids.ravel())
        borders: dict[tuple[int, int], float] = {}
        for length, a, b in (
            (edges[0], ids[:, 1:], ids[:, :-1]),
            (edges[1], ids[1:], ids[:-1]),
        ):
            for i, j in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
                if i != j:
                    borders[i, j] = borders.get((i, j), 0) + length
                    borders[j, i] = borders.get((j, i), 0) + length
        kinds = {int(i): int(k) for i, k in zip(ids.ravel(), classes.ravel(), strict=True)}
        for i in np.lexsort([np.arange(len(sizes)), sizes]).tolist():
            if sizes[i] >= threshold or kinds[i] == NODATA_CLASS:
                continue
            options = [
                (length, sizes[j], -j)
                for (a, j), length in borders.items()
                if a == i and kinds[j] != NODATA_CLASS
            ]
            if options:
                classes[ids == i] = kinds[-max(options)[2]]
                break
        else:
            return classes


@settings(deadline=None)
@given(maps, st.integers(1, 9), st.integers(1, 12), st.sampled_from([(1.0, 1.0), (2.0, 1.0)]))
def test_merging_is_that_of_the_slow_reference(
    classes: np.ndarray, rows: int, threshold: int, edges: tuple[float, float]
) -> None:
    components, numbers = components_of(classes, rows)
    sizes = components.pixels.astype(float)
    counter = BorderCounter(components.kinds, sizes < threshold)
    for top in range(0, len(classes), rows):
        counter.feed(numbers[top : top + rows].astype(np.int32))
    merged, kinds = merge_small(components.kinds, sizes, counter.finish(edges), threshold)
    result = kinds[merged[numbers]]
    assert np.array_equal(result, reference_merge(classes, threshold, edges))
    assert np.array_equal(merged[numbers], reference_labels(result))  # renumbered in order
    assert np.array_equal(result == NODATA_CLASS, classes == NODATA_CLASS)


def test_borders_are_counted_between_small_components_and_their_neighbours() -> None:
    classes = np.array([[0, 0, 0], [0, 1, 2], [0, 1, 2], [0, 0, NODATA_CLASS]], np.uint8)
    components, numbers = components_of(classes, 4)
    counter = BorderCounter(components.kinds, np.array([False, True, False, False]))
    counter.feed(numbers.astype(np.int32))
    borders = counter.finish((10.0, 1.0))
    # class 1 (component 1): two vertical and two horizontal edges with 0, two vertical with 2
    found = (borders.first.tolist(), borders.second.tolist(), borders.lengths.tolist())
    assert list(zip(*found, strict=True)) == [(0, 1, 22.0), (1, 2, 20.0)]
    assert borders.exposed.tolist() == [True, False, True, True]


def reference_fill(classes: np.ndarray, threshold: float) -> np.ndarray:
    """Fill one hole at a time, looking at the whole map anew each time."""
    classes = classes.copy()
    while True:
        ids = np.pad(reference_labels(classes), 1, constant_values=-1)  # -1: beyond the frame
        around: dict[int, set[int]] = {}
        for a, b in ((ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1])):
            for i, j in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
                if i != j:
                    around.setdefault(i, set()).add(j)
                    around.setdefault(j, set()).add(i)
        inner = ids[1:-1, 1:-1]
        for i, others in around.items():
            if i < 0 or len(others) > 1 or -1 in others or (inner == i).sum() >= threshold:
                continue
            kind = classes[inner == next(iter(others))][0]
            if NODATA_CLASS not in (kind, classes[inner == i][0]):
                classes[inner == i] = kind
                break
        else:
            return classes


rings_in_rings = st.builds(
    lambda sizes, kinds, speck: _nested(sizes, kinds, speck),
    st.lists(st.integers(1, 2), min_size=1, max_size=4),
    st.lists(st.sampled_from([0, 1, 2, NODATA_CLASS]), min_size=5, max_size=5),
    st.sampled_from([0, 1, 2, NODATA_CLASS]),
)


def _nested(sizes: list[int], kinds: list[int], speck: int) -> np.ndarray:
    """Squares within squares, the outermost with a speck."""
    side = 3 + 2 * sum(sizes)
    classes = np.full((side, side + 3), kinds[0], np.uint8)
    inset = 0
    for size, kind in zip(sizes, kinds[1:], strict=False):
        inset += size
        classes[inset : side - inset, inset : side - inset] = kind
    classes[side // 2, -2] = speck
    return classes


@settings(deadline=None)
@given(st.one_of(maps, rings_in_rings), st.integers(1, 9), st.integers(1, 60))
def test_filling_is_that_of_the_slow_reference(
    classes: np.ndarray, rows: int, threshold: int
) -> None:
    components, numbers = components_of(classes, rows)
    sizes = components.pixels.astype(float)
    counter = BorderCounter(components.kinds, sizes < threshold)
    for top in range(0, len(classes), rows):
        counter.feed(numbers[top : top + rows].astype(np.int32))
    filled, kinds = fill_enclosed(components.kinds, sizes, counter.finish((1, 1)), threshold)
    result = kinds[filled[numbers]]
    assert np.array_equal(result, reference_fill(classes, threshold))
    assert np.array_equal(filled[numbers], reference_labels(result))  # renumbered in order


def test_a_hole_in_a_hole_is_filled_from_the_inside() -> None:
    classes = _nested([2, 2, 1], [0, 1, 2, 1, 0], 0)
    full = (classes > 0).astype(np.uint8)
    area = int((full == 1).sum())
    for threshold, expected in ((area + 1, np.zeros_like(classes)), (area, full)):
        assert np.array_equal(reference_fill(classes, threshold), expected)
        components, numbers = components_of(classes, 4)
        sizes = components.pixels.astype(float)
        counter = BorderCounter(components.kinds, sizes < threshold)
        counter.feed(numbers.astype(np.int32))
        filled, kinds = fill_enclosed(components.kinds, sizes, counter.finish((1, 1)), threshold)
        assert np.array_equal(kinds[filled[numbers]], expected)


def test_sums_leave_out_what_is_no_value() -> None:
    classes = np.array([[0, 0, 1], [0, 1, 1]], np.uint8)
    values = np.array([[1, np.nan, np.nan], [4, np.nan, np.nan]], np.float32)
    for rows in (1, 2):
        components, _ = components_of(classes, rows, [values])
        assert components.sums[0].tolist() == [5, 0]
        assert components.counts[0].tolist() == [2, 0]


def outlines(ids: np.ndarray, rows: int) -> np.ndarray:
    tracer = OutlineTracer(ids.shape[1])
    for top in range(0, len(ids), rows):
        tracer.feed(ids[top : top + rows].astype(np.int32))
    found = tracer.finish(int(ids.max()) + 1)
    return to_polygons(found.points.astype(float), found.rings, found.polygons, IDENTITY)


@settings(deadline=None)
@given(maps, st.integers(1, 9))
def test_outlines_are_unions_of_their_pixels(classes: np.ndarray, rows: int) -> None:
    ids = reference_labels(classes)
    polygons = outlines(ids, rows)
    assert shapely.is_valid(polygons).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    assert shapely.coverage_is_valid(polygons)
    for number, polygon in enumerate(polygons):
        pixels = [shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(ids == number)]
        assert polygon.equals(shapely.union_all(pixels))


@settings(deadline=None)
@given(maps)
def test_outlines_leave_out_what_is_outside(classes: np.ndarray) -> None:
    ids = reference_labels(classes)
    kept = np.flatnonzero(np.arange(ids.max() + 1) % 2 == 0)
    table = np.full(ids.max() + 1, OUTSIDE)
    table[kept] = np.arange(len(kept))
    every = outlines(ids, 3)[kept]
    some = outlines(table[ids], 3)
    assert shapely.equals(every, some).all()
    assert shapely.coverage_is_valid(some)


@pytest.mark.parametrize("flip", [False, True])
def test_holes_that_touch_the_outside_at_a_corner_stay_holes(flip: bool) -> None:
    ids = np.array([[0, 0, 0, 0], [0, 1, 0, 2], [0, 0, 2, 2], [0, 2, 2, 2]])
    if flip:
        ids = ids[:, ::-1]
    polygons = outlines(ids, 2)
    assert [len(polygon.interiors) for polygon in polygons] == [1, 0, 0]
    assert shapely.is_valid(polygons).all()


def test_many_vertices_grow_the_buffers() -> None:
    ids = np.arange(200 * 300).reshape(200, 300)
    polygons = outlines(ids, 64)
    assert len(polygons) == ids.size
    assert (shapely.area(polygons) == 1).all()
    assert (shapely.get_num_coordinates(polygons) == 5).all()
