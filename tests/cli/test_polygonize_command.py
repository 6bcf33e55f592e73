"""`geodeform polygonize` as a user meets it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner, Result
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

import geodeform
from geodeform.classes import ClassScheme
from geodeform.cli.main import main
from geodeform.geo.raster import (
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    coarse_grid,
)

PLACE = {"transform": Affine(1.0, 0.0, 317000.0, 0.0, -1.0, 2771000.0), "crs": "EPSG:32640"}
SCHEME = ClassScheme(("dark", "middle", "bright"), ((9, 9, 9), (120, 120, 120), (250, 250, 250)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class, confidence and density rasters of a part of a real scene."""
    folder = tmp_path_factory.mktemp("maps")
    window = Window(1200, 900, 300, 200)
    with rasterio.open(geodeform.demo_scene()) as dataset:
        grey = dataset.read(1, window=window)
    classes = np.digitize(grey, np.quantile(grey, [0.3, 0.6])).astype(np.uint8)
    crs = rasterio.crs.CRS.from_string(PLACE["crs"])
    shape, coarse, _ = coarse_grid(classes.shape, 8, PLACE["transform"])
    common = {"shape": classes.shape, "transform": PLACE["transform"], "crs": crs, "tags": {}}
    with ClassRasterWriter(folder / "map.tif", scheme=SCHEME, **common) as labels:
        labels.write(Window(0, 0, 300, 200), classes)
    with ConfidenceRasterWriter(folder / "conf.tif", **common) as confidence:
        confidence.write(Window(0, 0, 300, 200), np.maximum(grey, 1))
    with DensityRasterWriter(
        folder / "dens.tif", **{**common, "shape": shape, "transform": coarse}
    ) as density:
        density.write(Window(0, 0, shape[1], shape[0]), np.full(shape, 0.04, np.float32))
    scene_file(folder / "plain.tif", (10 * classes[None] + 11).astype(np.int16))
    return folder


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["polygonize", *map(str, args)])


def test_it_writes_polygons_and_says_what(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    done = run(
        folder / "map.tif", "-o", out, "--confidence", folder / "conf.tif",
        "--density", folder / "dens.tif", "--min-area", 6, "--fill-holes", 20, "--smooth", 4,
        "--simplify", 0.4,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert [p.name for p in tmp_path.iterdir()] == ["out.gpkg"]
    polygons = gpd.read_file(out, layer="polygons")
    assert f"{len(polygons):,} polygons in {out}" in done.stdout
    for name in SCHEME.names:
        assert name in done.stdout
    assert set(polygons.class_name) == set(SCHEME.names)
    assert polygons.gsd_mean.tolist() == pytest.approx([5.0] * len(polygons), rel=1e-5)
    assert polygons.conf_mean.between(0, 1).all()
    assert polygons.is_valid.all()
    assert shapely.coverage_is_valid(polygons.geometry.values)
    assert polygons.area_m2.sum() == pytest.approx(300 * 200, rel=1e-6)
    assert polygons.area_px.min() >= 6


def test_json_is_the_only_thing_on_standard_output(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.fgb"
    done = run(folder / "map.tif", "-o", out, "--json")
    told = json.loads(done.stdout)
    assert told["output"] == str(out)
    assert told["polygons"] == sum(entry["polygons"] for entry in told["by_class"])
    assert [entry["name"] for entry in told["by_class"]] == list(SCHEME.names)
    assert sum(entry["area_m2"] for entry in told["by_class"]) == pytest.approx(300 * 200)


def test_a_raster_of_another_tool_needs_nothing_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(folder / "plain.tif")
    assert done.exit_code == 0, done.output
    assert "class 21" in done.stdout
    assert " px" in done.stdout  # it has no CRS
    polygons = gpd.read_file(tmp_path / "plain_polygons.gpkg", layer="polygons")
    assert set(polygons.class_id) == {11, 21, 31}


def test_quiet_and_verbose(folder: Path, tmp_path: Path) -> None:
    done = run(folder / "map.tif", "-o", tmp_path / "a.gpkg", "-q", "--min-area", 9)
    assert (done.stdout, done.stderr) == ("", "")
    done = run(folder / "map.tif", "-o", tmp_path / "b.gpkg", "-v", "--min-area", 9)
    assert "after filling holes and dissolving small ones" in done.stderr
    assert logging.getLogger("geodeform").level == logging.NOTSET


def test_existing_outputs_are_refused_and_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    assert run(folder / "map.tif", "-o", out).exit_code == 0
    before = out.read_bytes()
    done = run(folder / "map.tif", "-o", out, "--smooth", 3)
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr
    assert out.read_bytes() == before
    assert run(folder / "map.tif", "-o", out, "--smooth", 3, "--overwrite").exit_code == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--smooth", "-1"],
        ["--smooth", "some"],
        ["--fill-holes", "-2"],
        ["--min-area", "x"],
        ["--simplify", "-0.1"],
        ["-o", "out.shp"],
        ["--nonsense"],
    ],
)
def test_usage_errors_exit_with_2(folder: Path, arguments: list[str]) -> None:
    done = run(folder / "map.tif", *arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.tif"], "missing.tif cannot be read"),
        (["{}/dens.tif"], "dens.tif is float32; a class raster holds whole numbers"),
        (["{}/map.tif", "--confidence", "{}/dens.tif"], "dens.tif (25 x 38 pixels) does not fit"),
        (["{}/map.tif", "--density", "missing.tif"], "missing.tif cannot be read"),
        (["{}/map.tif", "-o", "no/such/folder/out.gpkg"], "does not exist"),
        (["{}/plain.tif", "-o", "out.geojson"], "GeoJSON is WGS 84 and"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*(argument.format(folder) for argument in arguments))
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
