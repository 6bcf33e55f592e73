from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from geodeform.geo.components import Outlines, OutlineTracer, label_band
from geodeform.geo.coverage import REACH, Coverage, to_polygons

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([0, 0, 0, 1, 1, 2]),
)


def outlines_of(classes: np.ndarray) -> tuple[Outlines, np.ndarray]:
    """Outlines and areas in pixels of all components."""
    ids, n = label_band(classes)
    tracer = OutlineTracer(classes.shape[1])
    tracer.feed(ids)
    return tracer.finish(n), np.bincount(ids.ravel())


def polygons_of(coverage: Coverage) -> np.ndarray:
    points, rings = coverage.outlines()
    return to_polygons(points, rings, coverage.polygons, IDENTITY)


def check(polygons: np.ndarray, shape: tuple[int, int]) -> None:
    """They are valid, share their edges, and cover the frame without gaps or overlaps."""
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert (shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON).all()
    union = shapely.union_all(polygons)
    frame = shapely.box(0, 0, shape[1], shape[0])
    assert shapely.area(polygons).sum() == pytest.approx(frame.area)
    assert union.symmetric_difference(frame).area < 1e-6


@pytest.fixture(scope="module")
def real(shared_data: Path) -> np.ndarray:
    """A hand-drawn map, in whose colours every other value is a class."""
    path = shared_data / "dubai" / "Tile 6" / "masks" / "image_part_001.png"
    return np.array(Image.open(path).convert("RGB"))[..., 0]


@given(maps)
def test_arcs_put_together_again_are_the_outlines(classes: np.ndarray) -> None:
    outlines, areas = outlines_of(classes)
    before = to_polygons(outlines.points.astype(float), outlines.rings, outlines.polygons, IDENTITY)
    coverage = Coverage.of(outlines)
    after = polygons_of(coverage)
    assert shapely.equals(before, after).all()
    assert np.array_equal(shapely.area(after), areas)
    # each arc is used twice, once in each direction, except those on the frame
    uses = np.bincount(coverage.uses // 2, minlength=len(coverage.closed))
    lines = [coverage.points[a:b] for a, b in zip(coverage.arcs, coverage.arcs[1:], strict=False)]
    rows, cols = classes.shape
    for line, count in zip(lines, uses, strict=True):
        middle = line[:2].mean(axis=0)
        on_frame = middle[0] in (0, cols) or middle[1] in (0, rows)
        assert count == (1 if on_frame else 2)
    assert len(np.unique(coverage.uses)) == len(coverage.uses)


@settings(max_examples=200)
@given(maps, st.integers(1, 12))
def test_smoothing_keeps_the_coverage(classes: np.ndarray, passes: int) -> None:
    outlines, areas = outlines_of(classes)
    coverage = Coverage.of(outlines)
    smooth = coverage.smoothed(passes)
    polygons = polygons_of(smooth)
    check(polygons, classes.shape)
    straight = polygons_of(coverage)
    assert (
        shapely.hausdorff_distance(
            shapely.boundary(straight), shapely.boundary(polygons), densify=0.1
        ).max()
        <= REACH + 1e-9
    )
    # where the frame or three areas meet, nothing moves
    fixed = {tuple(point) for point in outlines.points[outlines.fixed].tolist()}
    assert fixed <= {tuple(point) for point in smooth.points.tolist()}
    assert np.abs(shapely.area(polygons) - areas).max() < 0.5 * np.sqrt(areas).max() + 0.5
    check(polygons_of(smooth.simplified(0.05)), classes.shape)


@settings(max_examples=200)
@given(maps, st.floats(0, 100), st.integers(0, 3))
def test_simplification_keeps_the_coverage(classes: np.ndarray, area: float, passes: int) -> None:
    outlines, _ = outlines_of(classes)
    coverage = Coverage.of(outlines)
    if passes > 0:
        coverage = coverage.smoothed(passes)
    simple = coverage.simplified(area)
    check(polygons_of(simple), classes.shape)
    assert {tuple(p) for p in simple.points.tolist()} <= {
        tuple(p) for p in coverage.points.tolist()
    }
    again = simple.simplified(area)  # some are free to go only now, but never all
    check(polygons_of(again), classes.shape)


def test_a_staircase_becomes_a_line() -> None:
    y, x = np.mgrid[:60, :60]
    for slope in (1.0, 0.5, 0.4):
        classes = (y > slope * x + 8).astype(np.uint8)
        coverage = Coverage.of(outlines_of(classes)[0])
        smooth = coverage.smoothed(4)
        inner = smooth.points[(np.abs(smooth.points - 30) < 15).all(axis=1)]
        off = inner[:, 1] - slope * inner[:, 0]
        assert np.ptp(off) < 0.25  # a staircase is off by up to one pixel
        assert len(smooth.simplified(0.05).points) < 0.7 * len(coverage.points)


def test_smoothing_takes_nothing_from_small_islands() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[5, 5] = classes[10:12, 10:13] = classes[20:30, 20:30] = 1
    classes[30, 5:15] = 1
    outlines, areas = outlines_of(classes)
    polygons = polygons_of(Coverage.of(outlines).smoothed(10))
    assert np.abs(shapely.area(polygons) / areas - 1).max() < 0.06


def test_what_lies_between_two_areas_never_vanishes() -> None:
    # thin lenses between the same two points: simplified alone, both edges would be one line
    classes = np.zeros((9, 40), np.uint8)
    classes[4, 5:35] = 1
    classes[5:, :] = 2
    classes[3, 10:30] = 1
    coverage = Coverage.of(outlines_of(classes)[0])
    for area in (1.0, 30.0, 1e4):
        polygons = polygons_of(coverage.simplified(area))
        check(polygons, classes.shape)
        assert (shapely.area(polygons) > 0).all()


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 6.0])
def test_simplification_is_that_of_geos(real: np.ndarray, tolerance: float) -> None:
    outlines, areas = outlines_of(real)
    exact = polygons_of(Coverage.of(outlines))
    ours = polygons_of(Coverage.of(outlines).simplified(tolerance**2))
    theirs = shapely.coverage_simplify(exact, tolerance, simplify_boundary=False)
    check(ours, real.shape)
    counts = [shapely.get_num_coordinates(p).sum() for p in (ours, theirs)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)
    changes = [np.abs(shapely.area(p) - areas).sum() for p in (ours, theirs)]
    assert changes[0] == pytest.approx(changes[1], rel=0.05)


@pytest.mark.parametrize("passes", [1, 4, 20])
def test_smoothing_of_real_maps_keeps_coverage_and_areas(real: np.ndarray, passes: int) -> None:
    outlines, areas = outlines_of(real)
    smooth = Coverage.of(outlines).smoothed(passes)
    for coverage in (smooth, smooth.simplified(0.05), smooth.simplified(4.0)):
        check(polygons_of(coverage), real.shape)
    change = np.abs(shapely.area(polygons_of(smooth)) - areas)
    assert change.sum() < 0.001 * areas.sum()
    assert (change / areas)[areas >= 20].max() < 0.06


def test_far_from_the_origin_rounding_breaks_nothing() -> None:
    with rasterio.open(
        Path(__file__).parents[2] / "geodeform/data/dubai_jumeirah_golf_estates.tif"
    ) as scene:
        classes = (scene.read(1, window=((0, 300), (0, 300))) // 32).astype(np.uint8)
    outlines, _ = outlines_of(classes)
    for coverage in (
        Coverage.of(outlines).simplified(9.0),
        Coverage.of(outlines).smoothed(4).simplified(0.05),
    ):
        points, rings = coverage.outlines()
        for transform in (
            (0.3, 0.0, 345678.9, 0.0, -0.3, 8765432.1),
            (1e-5, 3e-7, 179.5, 2e-7, -1e-5, -79.5),
        ):
            polygons = to_polygons(points, rings, coverage.polygons, transform)
            assert shapely.is_valid(polygons).all()
            assert shapely.coverage_is_valid(polygons)
            assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


def test_no_areas_make_no_polygons() -> None:
    empty = np.empty((0, 2))
    assert len(to_polygons(empty, np.array([0]), np.array([0]), IDENTITY)) == 0
