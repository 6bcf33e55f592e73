"""What is planned: shares of cells, areas and rasters beside the map, windows without data."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from planned_scenes import UTM, model_of_equal_needs, noise_scene, plan_of
from rasterio.windows import Window
from scene_files import scene_file
from shapely.geometry import Polygon, box

import geodeform
from geodeform.errors import SceneError


@pytest.fixture(scope="module")
def model():
    return model_of_equal_needs()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return noise_scene(tmp_path_factory.mktemp("scene") / "noise.tif", 700, 1400)


def test_a_cell_is_inside_as_far_as_the_area_covers_it(scene, model):
    area = Polygon([UTM * p for p in ((50, 100), (1400, 350), (1400, 380), (50, 140))])
    plan = plan_of(scene, model, aoi=area)
    window = Window(100, 60, 512, 256)
    share = plan.inside_share(window, (4, 8))
    pixels = plan.inside(window).reshape(4, 64, 8, 64).mean((1, 3))
    np.testing.assert_allclose(share, pixels, atol=0.01)
    assert 0 < share.max() < 0.7
    assert plan_of(scene, model).inside_share(window, (4, 8)) is None


def test_a_focus_beside_what_is_mapped_is_an_error(scene, model, tmp_path):
    town = tmp_path / "town.gpkg"
    east = box(*UTM * (900, 600), *UTM * (1300, 100))
    gpd.GeoSeries([east], crs="EPSG:32640").to_crs(4326).to_file(town)
    plan = plan_of(scene, model, focus=town, bbox=(*UTM * (700, 700), *UTM * (1400, 0)))
    assert plan.priority.describe() == "town.gpkg counts 4 times"
    west = (*UTM * (0, 700), *UTM * (850, 0))
    for part in ({"bbox": west}, {"aoi": box(*west)}):
        with pytest.raises(
            SceneError, match=r"^What is mapped of noise\.tif lies outside .*town\.gpkg\.$"
        ):
            plan_of(scene, model, focus=town, **part)
    # inside the bounding box of an area of interest, not inside the area
    corner = Polygon([UTM * p for p in ((0, 0), (1400, 0), (0, 700))])
    with pytest.raises(SceneError, match=r"lies outside the focus area\.$"):
        plan_of(scene, model, aoi=corner, focus=box(*UTM * (1300, 690), *UTM * (1390, 600)))
    text = tmp_path / "text.gpkg"
    text.write_text("no polygons")
    with pytest.raises(SceneError, match=r"text\.gpkg cannot be read as the focus area"):
        plan_of(scene, model, focus=text)
    with pytest.raises(SceneError, match=r"text\.gpkg cannot be read as the area of interest"):
        plan_of(scene, model, aoi=text)
    with pytest.raises(SceneError, match=r"the focus area holds no polygon"):
        plan_of(scene, model, focus=gpd.GeoSeries([], crs="EPSG:32640"))


def test_a_priority_without_weights_in_what_is_mapped_is_an_error(scene, model, tmp_path):
    weights = np.full((1, 70, 140), -1, np.float32)
    weights[:, :, 100:] = 3  # from x = 1000
    path = scene_file(
        tmp_path / "weights.tif", weights, crs="EPSG:32640", nodata=-1,
        transform=UTM * UTM.scale(10),
    )  # fmt: skip
    assert plan_of(scene, model, priority=path).priority is not None
    touching = (*UTM * (0, 700), *UTM * (1020, 0))
    assert plan_of(scene, model, priority=path, bbox=touching).priority is not None
    west = (*UTM * (0, 700), *UTM * (950, 0))
    for part in ({"bbox": west}, {"aoi": box(*west)}):
        with pytest.raises(
            SceneError,
            match=r"^What is mapped of noise\.tif lies outside the data of .*weights\.tif\.$",
        ):
            plan_of(scene, model, priority=path, **part)


@pytest.mark.parametrize("allocation", ["even", "need"])
def test_what_empty_windows_leave_over_is_said(model, tmp_path, allocation):
    scene, out = noise_scene(tmp_path / "s.tif", 600, 2000, data_until=900), tmp_path / "map.tif"
    result = geodeform.segment_scene(
        scene, model=model, budget="1%", allocation=allocation, output=out, device="cpu",
        confidence=tmp_path / "confidence.tif",
    )  # fmt: skip
    windows = len(result.plan.active)
    assert 0 < result.facts.windows_skipped == len(result.plan.empty) < windows
    assert result.plan.share == result.facts.sampled_share < 0.008
    assert result.plan.sampled_pixels == result.facts.sampled_pixels
    (note,) = [note for note in result.summary()["notes"] if "no data" in note]
    assert note == (
        f"{len(result.plan.empty)} of {windows} windows have no data: they are skipped, and their "
        "part of the budget is not spent."
    )
    with rasterio.open(out) as raster:
        tags = raster.tags()
    assert float(tags["sampled_share"]) == pytest.approx(result.facts.sampled_share, abs=1e-6)
    seen = geodeform.density_map(
        scene, model=model, budget="1%", allocation=allocation, output=tmp_path / "density.tif"
    )
    assert seen.plan.share == result.plan.share
    for name in ("density.tif", "confidence.tif"):
        with rasterio.open(tmp_path / name) as raster:
            assert raster.tags()["sampled_share"] == tags["sampled_share"]


def test_a_scene_full_of_data_has_no_windows_to_skip(model, tmp_path):
    scene = tmp_path / "full.tif"
    scene_file(scene, np.full((3, 600, 900), 80, np.uint8), transform=UTM, crs="EPSG:32640")
    out = tmp_path / "map.tif"
    result = geodeform.segment_scene(
        scene, model=model, budget="1%", allocation="even", output=out, device="cpu"
    )
    assert result.plan.empty == frozenset()
    assert not any("no data" in note for note in result.plan.notes)
    with rasterio.open(out) as raster:
        share = float(raster.tags()["sampled_share"])
    assert share == pytest.approx(result.facts.sampled_share, abs=1e-6)
