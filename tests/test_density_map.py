"""density_map: where a scene would be sampled is where segment_scene samples it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rioxarray
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file
from shapely.geometry import box

import geodeform
import geodeform.xarray  # registers the accessor
from geodeform.errors import OutputError
from geodeform.geo.ground import Ground

UTM = Affine(1.0, 0.0, 317000.25, 0.0, -1.0, 2771000.75)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    with rasterio.open(geodeform.demo_scene()) as dataset:
        return dataset.read(window=Window(900, 700, 1500, 1300))


@pytest.fixture(scope="module")
def scene(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "cut.tif"
    return scene_file(path, pixels, transform=UTM, crs="EPSG:32640")


@pytest.fixture(scope="module")
def holed(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of which whole windows, parts of windows and slanted edges hold no data."""
    rows, cols = np.mgrid[:1300, :1500]
    missing = (rows + cols < 600) | (cols > 1490) | ((rows > 400) & (rows < 480))
    path = tmp_path_factory.mktemp("scenes") / "holed.tif"
    data = np.where(missing, 0, np.maximum(pixels, 1))
    return scene_file(path, data, transform=UTM, crs="EPSG:32640", nodata=0)


AOI = box(317200, 2770100, 317900, 2770700).difference(box(317400, 2770300, 317500, 2770400))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("scene", {}),
        ("scene", {"sampler": "uniform"}),
        ("scene", {"bbox": (317100, 2769900, 318000, 2770800), "budget": "1%"}),
        ("scene", {"aoi": AOI, "budget": "32"}),
        ("holed", {"budget": "48"}),
    ],
    ids=["whole", "uniform", "bbox", "aoi", "nodata"],
)
def test_density_and_points_are_those_of_a_whole_run(
    name: str, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    seen = geodeform.density_map(path, samples=True, **settings)
    run = geodeform.segment_scene(path, samples=True, **settings)
    np.testing.assert_array_equal(seen.density, run.density)
    assert seen.density.rio.transform() == run.density.rio.transform()
    assert seen.density.rio.crs == run.density.rio.crs
    assert len(seen.samples) > 300
    assert seen.samples.crs == run.samples.crs
    assert seen.samples.geometry.equals(run.samples.geometry)
    for column in ("window", "magnification"):
        np.testing.assert_array_equal(seen.samples[column], run.samples[column])


def test_points_lie_where_there_is_data(holed: Path) -> None:
    points = geodeform.density_map(holed, samples=True, budget="48").samples
    with rasterio.open(holed) as dataset:
        places = zip(points.geometry.x, points.geometry.y, strict=True)
        values = np.array([value[0] for value in dataset.sample(places)])
    assert (values > 0).all()


def test_files_hold_what_comes_back(scene: Path, tmp_path: Path) -> None:
    files = {"output": tmp_path / "density.tif", "samples": tmp_path / "samples.gpkg"}
    result = geodeform.density_map(scene, **files)
    assert result.paths == {"density": files["output"], "samples": files["samples"]}
    with rasterio.open(files["output"]) as dataset:
        np.testing.assert_array_equal(dataset.read(1), result.density)
        assert dataset.tags()["sampler"] == "learned"
        assert result.density.attrs["long_name"] == "sampling density"
        result.density.rio.to_raster(tmp_path / "again.tif")
        assert dataset.descriptions == ("sampling density", "samples per m²", "effective GSD")
        pixel = result.plan.transform.a
        area = Ground(dataset.crs, result.plan.frame, result.plan.shape).row_areas_m2.mean()
        assert math.sqrt(area) == pytest.approx(pixel, rel=0.02)
        gsd = dataset.read(3)
        np.testing.assert_allclose(gsd, math.sqrt(area) / np.sqrt(result.density), rtol=1e-3)
    assert len(gpd.read_file(files["samples"])) == len(result.samples)
    summary = json.loads(json.dumps(result.summary()))
    assert summary["outputs"]["density"] == str(files["output"])
    low, median, high = (summary["density"][k] for k in ("p01", "median", "p99"))
    known = np.sort(result.density.to_numpy(), axis=None)
    assert low < median < high
    assert median == pytest.approx(np.median(known))
    with pytest.raises(OutputError, match="exists already"):
        geodeform.density_map(scene, **files)


def test_points_of_a_scene_without_crs_are_no_geojson(
    pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = scene_file(tmp_path / "plain.tif", pixels[:, :300, :300])
    with pytest.raises(OutputError, match=r"write \.gpkg instead"):
        geodeform.density_map(path, samples=tmp_path / "points.geojson")
    assert [p.name for p in tmp_path.iterdir()] == ["plain.tif"]


def test_progress_counts_windows(scene: Path) -> None:
    seen: list[tuple[int, int]] = []
    geodeform.density_map(scene, progress=lambda *count: seen.append(count))
    assert seen == [(k, 4) for k in range(1, 5)]


def test_the_accessor_does_what_the_functions_do(scene: Path) -> None:
    area = gpd.GeoDataFrame(geometry=[AOI], crs="EPSG:32640")
    with rioxarray.open_rasterio(scene) as array:
        density = array.geodeform.density(budget="32")
        result = array.geodeform.segment(budget="32", aoi=area, polygons=True)
    np.testing.assert_array_equal(density, geodeform.density_map(scene, budget="32").density)
    direct = geodeform.segment_scene(scene, budget="32", aoi=area, polygons=True)
    np.testing.assert_array_equal(result.labels, direct.labels)
    assert isinstance(result.polygons, gpd.GeoDataFrame)
    assert result.polygons.equals(direct.polygons)
    assert result.labels.rio.crs == area.crs
