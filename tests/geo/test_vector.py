from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file
from scipy import ndimage

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import OutputError, SceneError
from geodeform.geo.raster import (
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    coarse_grid,
)
from geodeform.geo.vector import VECTOR_SUFFIXES, polygonize, write_points, write_polygons

DUBAI = ClassScheme(
    ("building", "land", "road", "vegetation", "water"),
    ((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41)),
)
UTM = CRS.from_epsg(32640)
NORTH_UP = Affine(0.3, 0, 345678.9, 0, -0.3, 2345678.1)
TRANSFORMS = [Affine.identity(), NORTH_UP, Affine(0.3, 0.1, 345678.9, 0.07, -0.3, 2345678.1)]

maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 0, 1, 1, 2, NODATA_CLASS]),
)


def smooth_map(seed: int, shape: tuple[int, int], *, sigma: float, nodata: bool) -> np.ndarray:
    """A random map of blobs, with slanted areas of nodata."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.random(shape), sigma) for _ in range(4)]
    classes = np.argmax(fields[:3], axis=0).astype(np.uint8)
    if nodata:
        classes[fields[3] < np.quantile(fields[3], 0.3)] = NODATA_CLASS
    return classes


def burn(polygons: gpd.GeoDataFrame, shape: tuple[int, int], transform: Affine) -> np.ndarray:
    """The class raster that polygons make."""
    if polygons.empty:
        return np.full(shape, NODATA_CLASS, np.uint8)
    burnt: np.ndarray = rasterize(
        zip(polygons.geometry, polygons.class_id, strict=True),
        out_shape=shape,
        transform=transform,
        fill=NODATA_CLASS,
        dtype="uint8",
    )
    return burnt


@pytest.fixture(scope="module")
def dubai_labels(shared_data: Path) -> np.ndarray:
    """One real hand-drawn label map, with ignored pixels."""
    path = shared_data / "dubai" / "Tile 6" / "masks" / "image_part_001.png"
    mask = np.array(Image.open(path).convert("RGB"))
    return DUBAI.encode_rgb(mask, ignore=((0x9B, 0x9B, 0x9B), (0, 0, 0)))


# --------------------------------------------------------------------------------------- geometry


@settings(deadline=None)
@given(maps, st.integers(1, 12), st.sampled_from(TRANSFORMS))
def test_polygons_are_gdals_and_burn_back_to_the_map(
    classes: np.ndarray, rows: int, transform: Affine
) -> None:
    polygons = polygonize(classes, scheme=DUBAI, transform=transform, block_rows=rows)
    burnt = burn(polygons, classes.shape, transform)
    assert np.array_equal(burnt, classes)
    expected = [
        (int(value), shapely.geometry.shape(geometry))
        for geometry, value in shapes(
            classes, mask=classes != NODATA_CLASS, connectivity=4, transform=transform
        )
    ]
    assert len(polygons) == len(expected)
    ours = {p.representative_point().wkb: p for p in shapely.normalize(polygons.geometry.values)}
    theirs = [p for _, p in expected]
    tree = shapely.STRtree(theirs)
    for polygon in ours.values():
        near = tree.query(polygon)
        assert any(polygon.symmetric_difference(theirs[i]).area < 1e-9 for i in near)


@settings(deadline=None)
@given(maps, st.integers(1, 11), st.floats(0, 6), st.sampled_from([None, UTM, CRS.from_epsg(4326)]))
def test_the_answer_does_not_depend_on_the_bands(
    classes: np.ndarray, rows: int, min_area: float, crs: CRS | None
) -> None:
    geographic = crs is not None and crs.is_geographic
    options: dict[str, Any] = {
        "scheme": DUBAI,
        "confidence": (np.arange(classes.size) % 251 + 1).reshape(classes.shape).astype(np.uint8),
        "transform": Affine(1e-5, 0, 55, 0, -1e-5, 25) if geographic else Affine.identity(),
        "crs": crs,
        "min_area": min_area,
    }
    whole = polygonize(classes, **options)
    assert polygonize(classes, block_rows=rows, **options).equals(whole)


def test_a_real_map_burns_back_bit_for_bit(dubai_labels: np.ndarray) -> None:
    polygons = polygonize(dubai_labels, scheme=DUBAI, transform=NORTH_UP, crs=UTM, block_rows=100)
    assert len(polygons) == sum(
        ndimage.label(dubai_labels == kind)[1] for kind in range(len(DUBAI))
    )
    assert polygons.is_valid.all()
    assert shapely.coverage_is_valid(polygons.geometry.values)
    assert np.array_equal(burn(polygons, dubai_labels.shape, NORTH_UP), dubai_labels)
    assert polygons.area_m2.sum() == pytest.approx((dubai_labels != NODATA_CLASS).sum() * 0.09)
    assert np.allclose(polygons.area_m2, polygons.area_px * 0.09, rtol=1e-9)


@pytest.mark.parametrize("simplify", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("nodata", [False, True])
def test_simplified_polygons_stay_a_coverage(
    simplify: float, transform: Affine, nodata: bool
) -> None:
    pixel = abs(transform.determinant)
    for seed, sigma in enumerate([0.0, 0.8, 3.0]):
        shape = (60 + seed, 70)
        classes = smooth_map(seed, shape, sigma=sigma, nodata=nodata)
        exact = polygonize(classes, scheme=DUBAI, transform=transform)
        polygons = polygonize(
            classes, scheme=DUBAI, transform=transform, simplify=simplify * pixel**0.5
        )
        geometry = polygons.geometry.values
        assert shapely.is_valid(geometry).all()
        assert (shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON).all()
        assert shapely.coverage_is_valid(geometry)
        before, after = exact.count_coordinates().sum(), polygons.count_coordinates().sum()
        assert after <= before
        if sigma > 0 and simplify >= 1:
            assert after < 0.8 * before
        assert polygons.drop(columns="geometry").equals(exact.drop(columns="geometry"))
        total = shapely.area(geometry).sum()
        union = shapely.union_all(geometry)
        assert union.area == pytest.approx(total)  # no overlaps
        if not nodata:  # no gaps, and the frame is where it was
            frame = shapely.Polygon([transform @ p for p in ((0, 0), (70, 0), (70, shape[0]))])
            assert total == pytest.approx(2 * frame.area)
            assert shapely.remove_repeated_points(union.convex_hull).equals_exact(
                shapely.union_all(exact.geometry.values).convex_hull, 1e-6
            )


def test_simplification_straightens_the_edge_towards_nodata() -> None:
    y, x = np.mgrid[:80, :80]
    classes = np.where(x > y * 0.7 + 5, 1, NODATA_CLASS).astype(np.uint8)
    stairs = polygonize(classes, scheme=DUBAI).geometry[0]
    straight = polygonize(classes, scheme=DUBAI, simplify=1.5).geometry[0]
    assert shapely.get_num_coordinates(straight) < shapely.get_num_coordinates(stairs) / 5
    assert abs(straight.area - stairs.area) < 0.02 * stairs.area


def test_simplified_real_map_has_no_gaps(dubai_labels: np.ndarray) -> None:
    classes = np.where(dubai_labels == NODATA_CLASS, 1, dubai_labels).astype(np.uint8)
    polygons = polygonize(classes, scheme=DUBAI, transform=NORTH_UP, crs=UTM, simplify=0.6)
    geometry = polygons.geometry.values
    assert shapely.is_valid(geometry).all()
    assert shapely.coverage_is_valid(geometry)
    union = shapely.union_all(geometry)
    assert union.area == pytest.approx(classes.size * 0.09)
    assert len(union.interiors) == 0
    assert polygons.area_m2.sum() == pytest.approx(classes.size * 0.09)


@settings(max_examples=60)
@given(
    maps,
    st.integers(1, 11),
    st.sampled_from([None, UTM]),
    st.floats(0, 8),
    st.floats(0, 8),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 2.0]),
)
def test_all_options_together_do_not_depend_on_the_bands(
    classes: np.ndarray,
    rows: int,
    crs: CRS | None,
    min_area: float,
    fill_holes: float,
    smooth: int,
    simplify: float,
) -> None:
    height, width = classes.shape
    cells = np.arange(-(-height // 3) * -(-width // 3)).reshape(-(-height // 3), -1) + 1.0
    options: dict[str, Any] = {
        "scheme": DUBAI,
        "confidence": (np.arange(classes.size) % 251 + 1).reshape(classes.shape).astype(np.uint8),
        "density": cells / 100,
        "transform": Affine(1, 0, 3e5, 0, -1, 2.8e6),
        "crs": crs,
        "min_area": min_area,
        "fill_holes": fill_holes,
        "smooth": smooth,
        "simplify": simplify,
    }
    whole = polygonize(classes, **options)
    assert polygonize(classes, block_rows=rows, **options).equals(whole)
    geometry = whole.geometry.values
    assert shapely.is_valid(geometry).all()
    assert shapely.coverage_is_valid(geometry)


def test_a_real_map_with_all_options_is_a_coverage(dubai_labels: np.ndarray) -> None:
    options: dict[str, Any] = {
        "scheme": DUBAI,
        "transform": NORTH_UP,
        "crs": UTM,
        "min_area": 4.0,
        "fill_holes": 20.0,
        "smooth": 4,
        "simplify": 0.2,
    }
    polygons = polygonize(dubai_labels, **options)
    assert polygons.equals(polygonize(dubai_labels, block_rows=33, **options))
    geometry = polygons.geometry.values
    assert shapely.is_valid(geometry).all()
    assert shapely.coverage_is_valid(geometry)
    assert polygons.area_m2.sum() == pytest.approx(polygons.area_px.sum() * 0.09, rel=1e-3)
    assert np.abs(polygons.area_m2 / (polygons.area_px * 0.09) - 1).max() < 0.2


# ------------------------------------------------------------------------------------ small areas


@settings(deadline=None)
@given(maps, st.integers(1, 30))
def test_small_polygons_dissolve_without_gaps(classes: np.ndarray, min_area: int) -> None:
    polygons = polygonize(classes, scheme=DUBAI, min_area=min_area)
    burnt = burn(polygons, classes.shape, Affine.identity())
    assert np.array_equal(burnt == NODATA_CLASS, classes == NODATA_CLASS)
    islands, count = ndimage.label(classes != NODATA_CLASS)
    for polygon in polygons[polygons.area_px < min_area].geometry:
        point = polygon.representative_point()
        island = islands[int(point.y), int(point.x)]
        assert polygon.area == (islands == island).sum()  # only nodata around it
    again = polygonize(burnt, scheme=DUBAI)
    assert len(again) == len(polygons)  # polygons of one class never share an edge
    assert count <= len(polygons) <= len(polygonize(classes, scheme=DUBAI))


def test_min_area_of_a_real_map_is_in_square_metres(dubai_labels: np.ndarray) -> None:
    polygons = polygonize(
        dubai_labels, scheme=DUBAI, transform=NORTH_UP, crs=UTM, min_area=9.0, block_rows=64
    )
    small = polygons[polygons.area_m2 < 9.0 - 1e-9]
    valid = shapely.union_all(polygons.geometry.values)
    islands = shapely.get_parts(valid)
    for polygon in small.geometry:
        assert any(polygon.equals(island) for island in islands)
    assert len(polygons) < len(polygonize(dubai_labels, scheme=DUBAI)) / 2
    burnt = burn(polygons, dubai_labels.shape, NORTH_UP)
    assert np.array_equal(burnt == NODATA_CLASS, dubai_labels == NODATA_CLASS)
    both = polygonize(
        dubai_labels, scheme=DUBAI, transform=NORTH_UP, crs=UTM, min_area=9.0, simplify=0.6
    )
    assert len(both) == len(polygons)
    assert shapely.coverage_is_valid(both.geometry.values)


def test_a_small_area_goes_to_the_neighbour_with_the_longest_border_on_the_ground() -> None:
    # the speck's border with class 0 is two pixel edges high, that with class 1 two wide
    classes = np.zeros((6, 5), np.uint8)
    classes[:, 3:] = 2
    classes[0, :] = classes[-1, :] = 1
    classes[2:4, 2] = 2
    classes = np.array(
        [
            [1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1],
            [0, 0, 2, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 1, 0, 0],
        ],
        np.uint8,
    )
    tall = polygonize(
        classes, scheme=DUBAI, transform=Affine(1, 0, 0, 0, -2, 0), crs=UTM, min_area=3
    )
    wide = polygonize(
        classes, scheme=DUBAI, transform=Affine(2, 0, 0, 0, -1, 0), crs=UTM, min_area=3
    )
    assert burn(tall, (5, 5), Affine(1, 0, 0, 0, -2, 0))[2, 2] == 0
    assert burn(wide, (5, 5), Affine(2, 0, 0, 0, -1, 0))[2, 2] == 1


def test_holes_are_filled_but_never_nodata() -> None:
    classes = np.zeros((12, 20), np.uint8)
    classes[2:5, 2:5] = 1  # a hole of 9 with one in it
    classes[3, 3] = 2
    classes[2:4, 8:10] = NODATA_CLASS
    classes[7:10, 2:5] = 1  # 9 around nodata
    classes[8, 3] = NODATA_CLASS
    classes[8:11, 8:12] = 3  # 12
    classes[0, 15] = 4  # on the frame
    classes[5:7, 15] = 1  # two that touch
    classes[5:7, 16] = 2
    for limit in (0, 1.5, 10, 12.5):
        filled = burn(
            polygonize(classes, scheme=DUBAI, fill_holes=limit), classes.shape, Affine.identity()
        )
        expected = classes.copy()
        if limit == 1.5:
            expected[3, 3] = 1
        if limit >= 10:
            expected[2:5, 2:5] = 0
        if limit >= 12.5:
            expected[8:11, 8:12] = 0
        assert np.array_equal(filled, expected)


def test_a_building_with_its_courtyard_is_not_small() -> None:
    classes = np.ones((12, 12), np.uint8)
    classes[2:9, 2:9] = 0  # 24 pixels around a courtyard of 25
    classes[3:8, 3:8] = 1
    options: dict[str, Any] = {"scheme": DUBAI, "min_area": 24.5}
    assert polygonize(classes, **options).class_id.tolist() == [1]
    filled = polygonize(classes, fill_holes=26, **options)
    assert filled.area_px.tolist() == [144 - 49, 49]


# ---------------------------------------------------------------------------------------- columns


def test_columns() -> None:
    classes = np.array([[0, 0, 1], [NODATA_CLASS, 0, 1]], np.uint8)
    confidence = np.array([[51, 102, 255], [0, 102, 0]], np.uint8)
    polygons = polygonize(classes, scheme=DUBAI, confidence=confidence, transform=NORTH_UP, crs=UTM)
    assert list(polygons.columns) == [
        "class_id",
        "class_name",
        "area_m2",
        "area_px",
        "conf_mean",
        "colour",
        "geometry",
    ]
    assert polygons.class_id.tolist() == [0, 1]
    assert polygons.class_name.tolist() == ["building", "land"]
    assert polygons.area_m2.tolist() == pytest.approx([0.27, 0.18])
    assert polygons.area_px.tolist() == [3, 2]
    assert polygons.conf_mean.tolist() == pytest.approx([85 / 255, 127.5 / 255])
    assert polygons.colour.tolist() == ["#3C1098", "#8429F6"]
    assert polygons.crs.to_epsg() == 32640
    floats = polygonize(classes, scheme=DUBAI, confidence=confidence / 255.0)
    assert floats.conf_mean.tolist() == pytest.approx(polygons.conf_mean.tolist(), rel=1e-6)
    assert "area_m2" not in floats
    assert floats.crs is None


@pytest.mark.parametrize("classes", [np.full((3, 4), NODATA_CLASS, np.uint8)])
@pytest.mark.parametrize("simplify", [0.0, 2.0])
def test_no_polygons_still_have_columns(classes: np.ndarray, simplify: float) -> None:
    polygons = polygonize(
        classes, scheme=DUBAI, crs=UTM, transform=NORTH_UP, min_area=3, simplify=simplify
    )
    assert polygons.empty
    assert "area_m2" in polygons
    assert polygons.crs.to_epsg() == 32640


def densified_geodesic_areas(polygons: gpd.GeoDataFrame, step: float) -> list[float]:
    """Areas by Karney's geodesics between points so close that edges are followed."""
    geod = polygons.crs.get_geod()
    lonlat = gpd.GeoSeries(shapely.segmentize(polygons.geometry.values, step), crs=polygons.crs)
    return [
        abs(geod.geometry_area_perimeter(polygon)[0])
        for polygon in lonlat.to_crs(polygons.crs.geodetic_crs)
    ]


@pytest.mark.parametrize("latitude", [-80.0, -33.0, 0.0, 25.0, 71.0])
def test_areas_of_geographic_maps_are_those_on_the_ellipsoid(latitude: float) -> None:
    classes = smooth_map(1, (40, 50), sigma=2, nodata=True)
    options: dict[str, Any] = {"scheme": DUBAI, "crs": CRS.from_epsg(4326)}
    north_up = Affine(0.01, 0, 55, 0, -0.01, latitude)
    polygons = polygonize(classes, transform=north_up, **options)
    expected = densified_geodesic_areas(polygons, 1e-3)
    assert polygons.area_m2.tolist() == pytest.approx(expected, rel=1e-7)
    # slanted edges are straight in another plane than that of the CRS: kilometres long ones differ
    rotated = Affine(0.01, 0.001, 55, 0.0005, -0.01, latitude)
    for options["simplify"], off in ((0, 1e-5), (0.02, 3e-5)):  # simplified edges are longer
        polygons = polygonize(classes, transform=rotated, **options)
        expected = densified_geodesic_areas(polygons, 1e-3)
        assert polygons.area_m2.tolist() == pytest.approx(expected, rel=1e-3)
        assert polygons.area_m2.sum() == pytest.approx(sum(expected), rel=off)


@pytest.mark.parametrize(
    ("epsg", "unit"),
    [(32640, 1.0), (2263, 1200 / 3937)],  # metres; US survey feet
)
def test_areas_of_projected_maps_are_planar(epsg: int, unit: float) -> None:
    polygons = polygonize(
        np.zeros((4, 5), np.uint8),
        scheme=DUBAI,
        transform=Affine(10, 0, 500000, 0, -10, 300000),
        crs=CRS.from_epsg(epsg),
    )
    assert polygons.area_m2.tolist() == pytest.approx([2000 * unit**2])


def test_web_mercator_does_not_inflate_areas() -> None:
    classes = smooth_map(2, (30, 30), sigma=2, nodata=False)
    transform = Affine(10, 0, 1_100_000, 0, -10, 6_600_000)  # Germany, 50.9° north
    crs = CRS.from_epsg(3857)
    polygons = polygonize(classes, scheme=DUBAI, transform=transform, crs=crs)
    assert polygons.area_m2.tolist() == pytest.approx(
        densified_geodesic_areas(polygons, 5), rel=1e-6
    )
    assert polygons.area_m2.sum() < 0.42 * classes.size * 100
    dissolved = polygonize(classes, scheme=DUBAI, transform=transform, crs=crs, min_area=1000)
    assert dissolved.area_m2.min() >= 1000


def test_spacing_is_the_distance_between_samples(tmp_path: Path) -> None:
    classes = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]], np.uint8)
    cells = np.array([[0.25, 0.01, 0.04], [np.nan, 0.04, 0.04]], np.float32)
    (rows, cols), coarse, _ = coarse_grid(classes.shape, 2, NORTH_UP)
    with DensityRasterWriter(
        tmp_path / "d.tif", shape=(rows, cols), transform=coarse, crs=UTM, tags={}
    ) as writer:
        writer.write(Window(0, 0, cols, rows), cells)
    with ClassRasterWriter(
        tmp_path / "c.tif", shape=(3, 5), transform=NORTH_UP, crs=UTM, scheme=DUBAI, tags={}
    ) as labels:
        labels.write(Window(0, 0, 5, 3), classes)
    # class 0: four pixels of 0.25, two of 0.01; class 1: two of 0.01, five of 0.04, two unknown
    means = np.array([(4 * 0.25 + 2 * 0.01) / 6, (2 * 0.01 + 5 * 0.04) / 7])
    for rows_at_once in (1, 2, 3):
        metres = polygonize(
            tmp_path / "c.tif", density=tmp_path / "d.tif", block_rows=rows_at_once
        ).gsd_mean
        assert metres.tolist() == pytest.approx((0.3 / np.sqrt(means)).tolist(), rel=1e-5)
    pixels = polygonize(classes, scheme=DUBAI, density=cells)
    assert pixels.spacing_px.tolist() == pytest.approx((1 / np.sqrt(means)).tolist())
    assert pixels.observed_frac.tolist() == pytest.approx(means.tolist())
    whole = polygonize(classes, scheme=DUBAI, density=np.full((3, 5), 1.5))
    assert whole.observed_frac.tolist() == [1, 1]  # no pixel is seen more than once
    nothing = polygonize(classes, scheme=DUBAI, density=np.full((3, 5), np.nan))
    assert nothing.spacing_px.isna().all()


def test_a_density_of_another_scene_is_refused(tmp_path: Path) -> None:
    classes = class_file(tmp_path / "c.tif", np.zeros((9, 12), np.uint8))
    for name, shape, transform, crs in (
        ("cells", (3, 3), Affine(0.9, 0, 345678.9, 0, -0.9, 2345678.1), UTM),
        ("moved", (3, 4), Affine(0.9, 0, 345679.0, 0, -0.9, 2345678.1), UTM),
        ("zone", (3, 4), Affine(0.9, 0, 345678.9, 0, -0.9, 2345678.1), CRS.from_epsg(32641)),
        ("fraction", (6, 8), Affine(0.45, 0, 345678.9, 0, -0.45, 2345678.1), UTM),
    ):
        path = scene_file(
            tmp_path / f"{name}.tif", np.ones((1, *shape), np.float32), transform=transform, crs=crs
        )
        with pytest.raises(SceneError, match=rf"{name}\.tif .* does not fit .*c\.tif"):
            polygonize(classes, density=path)


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def rasters(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    classes = smooth_map(3, (150, 130), sigma=3, nodata=True)
    confidence = np.where(
        classes == NODATA_CLASS, 0, np.arange(classes.size).reshape(classes.shape) % 200 + 50
    ).astype(np.uint8)
    common: dict[str, Any] = {
        "shape": classes.shape,
        "transform": NORTH_UP,
        "crs": UTM,
        "tags": {},
    }
    with ClassRasterWriter(tmp_path / "map.tif", scheme=DUBAI, **common) as labels:
        labels.write(Window(0, 0, 130, 150), classes)
    with ConfidenceRasterWriter(tmp_path / "conf.tif", **common) as conf:
        conf.write(Window(0, 0, 130, 150), confidence)
    return tmp_path / "map.tif", tmp_path / "conf.tif", classes, confidence


def test_files_and_arrays_give_the_same(
    rasters: tuple[Path, Path, np.ndarray, np.ndarray],
) -> None:
    path, conf_path, classes, confidence = rasters
    from_files = polygonize(
        path, scheme=DUBAI, confidence=conf_path, min_area=1.0, simplify=0.4, block_rows=37
    )
    from_arrays = polygonize(
        classes,
        scheme=DUBAI,
        confidence=confidence,
        transform=NORTH_UP,
        crs=UTM,
        min_area=1.0,
        simplify=0.4,
    )
    assert from_files.equals(from_arrays)
    assert 0.2 < from_files.conf_mean.min() <= from_files.conf_mean.max() <= 1


def test_ground_control_points_place_the_polygons(tmp_path: Path) -> None:
    affine = Affine(0.3, 0.1, 345678.9, 0.07, -0.3, 2345678.1)
    points = [
        GroundControlPoint(row, col, *(affine @ (col, row)))
        for row, col in ((0, 0), (0, 40), (30, 0), (30, 40))
    ]
    classes = smooth_map(4, (30, 40), sigma=2, nodata=False)
    with ClassRasterWriter(
        tmp_path / "map.tif",
        shape=(30, 40),
        transform=None,
        crs=None,
        gcps=(points, UTM),
        scheme=DUBAI,
        tags={},
    ) as writer:
        writer.write(Window(0, 0, 40, 30), classes)
    placed = polygonize(tmp_path / "map.tif", scheme=DUBAI)
    expected = polygonize(classes, scheme=DUBAI, transform=affine, crs=UTM)
    assert placed.crs == expected.crs
    assert shapely.equals_exact(placed.geometry.values, expected.geometry.values, 1e-6).all()


def test_no_georeference_means_pixel_coordinates(tmp_path: Path) -> None:
    classes = np.array([[0, 1]], np.uint8)
    with ClassRasterWriter(
        tmp_path / "map.tif", shape=(1, 2), transform=None, crs=None, scheme=DUBAI, tags={}
    ) as writer:
        writer.write(Window(0, 0, 2, 1), classes)
    polygons = polygonize(tmp_path / "map.tif", scheme=DUBAI)
    assert polygons.crs is None
    assert polygons.total_bounds.tolist() == [0, 0, 2, 1]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    classes = np.zeros((4, 5), np.uint8)
    with pytest.raises(SceneError, match=r"missing\.tif cannot be read"):
        polygonize(tmp_path / "missing.tif", scheme=DUBAI)
    with pytest.raises(SceneError, match=r"does not fit The array .* of the same scene"):
        polygonize(classes, scheme=DUBAI, confidence=np.zeros((4, 4), np.uint8))
    with pytest.raises(SceneError, match="holds class 7, but there are only 5"):
        polygonize(classes + np.uint8(7), scheme=DUBAI)
    with pytest.raises(ValueError, match="negative"):
        polygonize(classes, scheme=DUBAI, min_area=-1)
    with rasterio.open(
        tmp_path / "x.tif",
        "w",
        driver="GTiff",
        height=4,
        width=5,
        count=1,
        dtype="float32",
        crs=UTM,
        transform=NORTH_UP,
    ):
        pass
    with pytest.raises(SceneError, match="is float32; a class raster holds whole numbers"):
        polygonize(tmp_path / "x.tif", scheme=DUBAI)


def class_file(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    return scene_file(path, pixels[None], transform=NORTH_UP, crs=UTM, **profile)


def test_a_file_without_a_scheme_has_its_own_names(
    rasters: tuple[Path, Path, np.ndarray, np.ndarray],
) -> None:
    path, _, _, _ = rasters
    assert polygonize(path, block_rows=40).equals(polygonize(path, scheme=DUBAI))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("nodata", [None, 0, 255])
def test_rasters_of_other_tools(tmp_path: Path, dtype: str, nodata: int | None) -> None:
    values = np.array([0, 11, 41, 255] if dtype == "uint8" else [0, 111, 255, 32000], dtype)
    kinds = smooth_map(3, (40, 50), sigma=2, nodata=True)
    kinds[kinds == NODATA_CLASS] = 3
    pixels = values[kinds]
    path = class_file(tmp_path / "map.tif", pixels, nodata=nodata)
    for rows in (40, 7):
        polygons = polygonize(path, block_rows=rows)
        burnt = rasterize(
            zip(polygons.geometry, polygons.class_id, strict=True),
            out_shape=pixels.shape,
            transform=NORTH_UP,
            fill=-1,
            dtype="int32",
        )
        expected = np.where(pixels == nodata, -1, pixels.astype(np.int64))
        assert np.array_equal(burnt, expected)
        assert polygons.class_name.tolist() == [f"class {k}" for k in polygons.class_id]
        assert polygons.groupby("class_id").colour.nunique().max() == 1
        assert polygons.colour.nunique() == len(np.unique(expected[expected >= 0]))


def test_masked_pixels_are_nodata(tmp_path: Path) -> None:
    pixels = smooth_map(3, (30, 40), sigma=2, nodata=False)
    valid = np.hypot(*np.mgrid[:30, :40]) < 35
    path = class_file(tmp_path / "map.tif", pixels)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(valid)
    for options in ({}, {"scheme": DUBAI}):
        polygons = polygonize(path, block_rows=9, **options)
        assert np.array_equal(
            burn(polygons, pixels.shape, NORTH_UP), np.where(valid, pixels, NODATA_CLASS)
        )


def test_values_far_apart_are_classes_too(tmp_path: Path) -> None:
    pixels = np.array([[-5, 7, 2_000_000_000], [-5, 7, 7]], np.int32)
    path = class_file(tmp_path / "map.tif", pixels, nodata=7)
    assert polygonize(path).class_id.tolist() == [-5, 2_000_000_000]
    many = class_file(tmp_path / "many.tif", np.arange(256, dtype=np.int16).reshape(16, 16))
    with pytest.raises(SceneError, match=r"many\.tif holds over 255 different values"):
        polygonize(many)
    with pytest.raises(ValueError, match="needs a scheme"):
        polygonize(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("crs", [UTM, None])
def test_polygons_are_written_and_read_back(
    tmp_path: Path, suffix: str, empty: bool, crs: CRS | None
) -> None:
    classes = smooth_map(5, (30, 40), sigma=2, nodata=True)
    if empty:
        classes[:] = NODATA_CLASS
    polygons = polygonize(
        classes, scheme=DUBAI, transform=NORTH_UP, crs=crs, confidence=np.ones(classes.shape)
    )
    path = tmp_path / f"polygons{suffix}"
    write_polygons(polygons, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    back = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
    assert len(back) == len(polygons)
    if not (empty and suffix == ".geojson"):  # GeoJSON has columns in its features only
        assert set(back.columns) == set(polygons.columns)
    if empty:
        pass
    elif crs is None and suffix == ".geojson":
        assert back.total_bounds.tolist() == pytest.approx(polygons.total_bounds.tolist())
    elif suffix == ".geojson":
        assert back.crs.to_epsg() == 4326
        if not empty:
            lonlat = polygons.to_crs(4326).total_bounds.tolist()
            assert back.total_bounds.tolist() == pytest.approx(lonlat, abs=1e-7)
    else:
        assert (back.crs is None) == (crs is None) or suffix == ".gpkg"
        if crs is not None:
            assert back.crs.to_epsg() == 32640
        if not empty:
            order = back.class_id.to_numpy() * 1e6 + back.area_px.to_numpy()
            assert (
                np.sort(order).tolist()
                == np.sort(
                    polygons.class_id.to_numpy() * 1e6 + polygons.area_px.to_numpy()
                ).tolist()
            )
            assert back.area.sum() == pytest.approx(polygons.area.sum())
            assert back.is_valid.all()


def test_formats_have_their_indexes(tmp_path: Path) -> None:
    polygons = polygonize(
        smooth_map(6, (60, 60), sigma=1, nodata=False), scheme=DUBAI, transform=NORTH_UP, crs=UTM
    )
    write_polygons(polygons, tmp_path / "p.gpkg")
    with sqlite3.connect(tmp_path / "p.gpkg") as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        indexed = database.execute("SELECT count(*) FROM rtree_polygons_geom").fetchone()[0]
    database.close()
    assert "polygons" in tables
    assert indexed == len(polygons)
    write_polygons(polygons, tmp_path / "p.parquet")
    meta = json.loads(pq.read_schema(tmp_path / "p.parquet").metadata[b"geo"])
    assert meta["version"] == "1.1.0"
    assert meta["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert meta["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    west = polygons.total_bounds[0]
    box = (west, polygons.total_bounds[1], west + 3, polygons.total_bounds[3])
    part = gpd.read_parquet(tmp_path / "p.parquet", bbox=box)
    assert 0 < len(part) < len(polygons)
    write_polygons(polygons, tmp_path / "p.geojson")
    text = json.loads((tmp_path / "p.geojson").read_text())
    assert "crs" not in text  # RFC 7946 has none: longitude and latitude
    ring = text["features"][0]["geometry"]["coordinates"][0]
    assert shapely.is_ccw(shapely.LinearRing(ring))


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_points_are_written(tmp_path: Path, suffix: str) -> None:
    points = gpd.GeoDataFrame(
        {"window": [0, 1]},
        geometry=gpd.points_from_xy([345678, 345679], [2345678, 2345670]),
        crs=32640,
    )
    write_points(points, tmp_path / f"s{suffix}")
    write_points(points.iloc[:0], tmp_path / f"s{suffix}", overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        write_points(points, tmp_path / f"s{suffix}")
    write_points(points, tmp_path / f"s{suffix}", overwrite=True)
    path = tmp_path / f"s{suffix}"
    back = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
    assert sorted(back.window) == [0, 1]
    assert np.allclose(back.to_crs(32640).geometry.x.sort_values(), [345678, 345679], atol=0.02)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    polygons = polygonize(np.zeros((2, 2), np.uint8), scheme=DUBAI)
    with pytest.raises(OutputError, match=r"must be one of \.gpkg, \.parquet, \.fgb, \.geojson"):
        write_polygons(polygons, tmp_path / "p.shp")
    (tmp_path / "p.gpkg").write_text("not a database")
    write_polygons(polygons, tmp_path / "p.gpkg", overwrite=True)
    assert len(gpd.read_file(tmp_path / "p.gpkg", layer="polygons")) == 1


MEMORY = """
import resource, sys
import numpy as np
from geodeform.classes import ClassScheme
from geodeform.geo.vector import polygonize

scheme = ClassScheme(("a", "b"), ((0, 0, 0), (9, 9, 9)))
polygonize(np.eye(64, dtype=np.uint8), scheme=scheme, min_area=5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
polygons = polygonize(sys.argv[1], scheme=scheme, min_area=5)
print(len(polygons), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_is_bounded_by_bands(tmp_path: Path) -> None:
    size = 16384  # 256 MiB as uint8, 1 GiB as component ids
    y, x = np.mgrid[:512, :size]
    classes = ((y // 100 + x // 150) % 2).astype(np.uint8)
    with ClassRasterWriter(
        tmp_path / "map.tif", shape=(size, size), transform=NORTH_UP, crs=UTM, scheme=DUBAI, tags={}
    ) as writer:
        for top in range(0, size, 512):
            writer.write(Window(0, top, size, 512), classes)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "map.tif")],
        capture_output=True,
        text=True,
        check=True,
    )
    count, mebibytes = map(int, run.stdout.split())
    assert count > 10_000
    assert mebibytes < 700
