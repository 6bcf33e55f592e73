"""One real run with every output: in QGIS, for the doctor, moved, and whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from qgis_maps import open_in_qgis
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

import geodeform
from geodeform.classes import NODATA_CLASS, ClassScheme, to_hex
from geodeform.doctor import examine
from geodeform.doctor.findings import Level
from geodeform.errors import ConfigError, OutputError, SceneError
from geodeform.geo.vector import polygonize_file
from geodeform.result import SegmentationResult
from geodeform.scene_report import find_run_files, write_report

PLACES: dict[str, dict[str, Any]] = {
    "projected": {"transform": Affine(1, 0, 317000.25, 0, -1, 2771000.75), "crs": "EPSG:32640"},
    "rotated": {"transform": Affine(0.8, 0.6, 317000, 0.6, -0.8, 2771000), "crs": "EPSG:32640"},
    "geographic": {"transform": Affine(1e-5, 0, 55.2, 0, -9e-6, 25.03), "crs": "EPSG:4326"},
    "points": {
        "gcps": [
            GroundControlPoint(r, c, 317000 + c, 2771000 - r)
            for r, c in ((0, 0), (0, 700), (600, 0), (600, 700))
        ],
        "crs": "EPSG:32640",
    },
    "nowhere": {},
}


def run(folder: Path, place: str, **settings: Any) -> SegmentationResult:
    """Map a real suburb, part of it without data, into ``folder``."""
    with rasterio.open(geodeform.demo_scene()) as dataset:
        pixels = np.maximum(dataset.read(window=Window(1200, 900, 700, 600)), 1)
    pixels[:, :80, :120] = 0
    scene = folder / "suburb.tif"
    scene_file(scene, pixels, nodata=0, **PLACES[place])
    return geodeform.segment_scene(
        scene,
        output=folder / "map.tif",
        confidence=folder / "map_confidence.tif",
        density=folder / "map_density.tif",
        polygons=folder / "map.gpkg",
        samples=folder / "samples.fgb",
        quicklook=folder / "map.png",
        report=folder / "map.html",
        qgis=folder / "map.qgz",
        stac=folder / "map.json",
        min_area=20,
        fill_holes=30,
        simplify=0.5 if place != "geographic" else 5e-6,
        smooth=3,
        **settings,
    )


@pytest.mark.parametrize("place", PLACES)
def test_the_doctor_finds_nothing_wrong(place: str, tmp_path: Path) -> None:
    result = run(tmp_path, place)
    assert set(result.paths) >= {"report", "project", "stac"}
    assert all(path.is_file() for path in result.paths.values())
    # what a scene without a georeference cannot have
    allowed = {"nowhere": ("no-crs", "no-transform", "unlocated", "crs", "georeference")}
    for report in examine([tmp_path]):
        if report.path.name == "suburb.tif":
            continue  # a scene is no map
        for finding in report.findings:
            if finding.level >= Level.WARNING:
                known = any(word in finding.code for word in allowed.get(place, ()))
                assert known, f"{report.path.name}: {finding.code} {finding.message}"


def test_polygons_say_what_their_pixels_say(tmp_path: Path) -> None:
    run(tmp_path, "projected")
    polygons = gpd.read_file(tmp_path / "map.gpkg", layer="polygons")
    assert shapely.coverage_is_valid(polygons.geometry.to_numpy())
    assert polygons.gsd_mean.between(4, 30).all()
    assert polygons.conf_mean.between(0.2, 1).all()
    with rasterio.open(tmp_path / "map.tif") as raster:
        mapped = int((raster.read(1) != NODATA_CLASS).sum())
    assert polygons.area_px.sum() == mapped
    assert polygons.area_m2.sum() == pytest.approx(mapped, rel=1e-3)


@pytest.mark.qgis
@pytest.mark.parametrize("place", PLACES)
def test_qgis_opens_the_moved_run_styled(place: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    result = run(made, place)
    result.labels.load()
    moved = tmp_path / "moved"
    shutil.move(made, moved)
    labels, frame = result.labels.to_numpy(), result.labels.rio.bounds()
    drawn = tmp_path / "drawn.png"
    order: dict[str, Any] = {"project": str(moved / "map.qgz")}
    if place == "projected":  # a pixel of the picture is one of the map
        size = [labels.shape[1], labels.shape[0]]
        order["draw"] = {
            str(drawn): {"layers": ["Class raster"], "extent": list(frame), "size": size}
        }
    (seen,) = open_in_qgis([order], tmp_path)
    assert seen["read"] is True
    assert seen["error"] == ""
    assert seen["title"] == "Land cover of suburb"
    layers = seen["layers"]
    names = {"Class raster", "Confidence", "Polygons", "Sampled points", "Scene (suburb)"}
    # without a georeference QGIS has no place for the density's coarser cells
    assert set(layers) == names | ({"Sampling density"} if place != "nowhere" else set())
    crs = {"geographic": "EPSG:4326", "nowhere": ""}.get(place, "EPSG:32640")
    assert seen["authid"] == crs
    for name, layer in layers.items():
        assert layer["valid"], name
        assert layer["authid"] == crs, name
    wanted = [
        [n, to_hex(c).lower()]
        for n, c in zip(result.classes.names, result.classes.colours, strict=True)
    ]
    for name in ("Class raster", "Polygons"):
        legend = [entry for entry in layers[name]["legend"] if entry[1] is not None]
        assert legend == wanted
    if "draw" in order:
        picture = np.asarray(Image.open(drawn).convert("RGB"))
        palette = result.classes.palette()
        palette[NODATA_CLASS] = 255
        assert (picture == palette[labels]).all(2).mean() > 0.999


def test_a_run_that_fails_at_the_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OutputError("No space left.")

    monkeypatch.setattr("geodeform.pipeline.write_run_stac", fail)
    with pytest.raises(OutputError, match="No space"):
        run(tmp_path, "projected")
    assert [path.name for path in tmp_path.iterdir()] == ["suburb.tif"]


def test_styles_of_others_are_not_overwritten_in_silence(tmp_path: Path) -> None:
    (tmp_path / "map.qml").write_text("mine")
    with pytest.raises(OutputError, match=r"map\.qml exists already"):
        run(tmp_path, "projected")
    assert (tmp_path / "map.qml").read_text() == "mine"


def test_what_needs_a_class_raster_says_so() -> None:
    with pytest.raises(ConfigError, match="give output"):
        geodeform.segment_scene(geodeform.demo_scene(), qgis="map.qgz")


def test_the_stac_items_name_each_other_and_the_files(tmp_path: Path) -> None:
    run(tmp_path, "projected", budget="1%")
    item = json.loads((tmp_path / "map.json").read_text())
    assert "stac" not in item["assets"]
    for asset in item["assets"].values():
        assert (tmp_path / asset["href"]).is_file(), asset["href"]
    classes = item["assets"]["labels"]["classification:classes"]
    assert [c["title"] for c in classes[:2]] == ["Building", "Land"]
    model = json.loads((tmp_path / "map_model.json").read_text())
    assert model["properties"]["mlm:name"] == "dubai"
    assert model["properties"]["mlm:hyperparameters"]["budget"] == "1%"
    assert (tmp_path / model["assets"]["model"]["href"]).resolve().is_file()


def test_a_report_takes_nothing_of_another_run(tmp_path: Path) -> None:
    """What an overwritten run left behind is not shown; given by name, it is an error."""
    run(tmp_path, "projected")
    settings = {"output": tmp_path / "map.tif", "budget": "0.5%", "overwrite": True}
    geodeform.segment_scene(tmp_path / "suburb.tif", **settings)
    found = find_run_files(tmp_path / "map.tif")
    assert found.confidence is None
    assert found.density is None
    assert len([note for note in found.notes if "is of another run" in note]) == 2
    for kind in ("confidence", "density"):
        with pytest.raises(SceneError, match=f"map_{kind}.tif does not lie on"):
            write_report(
                tmp_path / "other.html",
                labels=tmp_path / "map.tif",
                **{kind: tmp_path / f"map_{kind}.tif"},
            )
    assert not (tmp_path / "other.html").exists()


def test_polygons_and_samples_share_no_style(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"would share the style .*all\.qml"):
        geodeform.segment_scene(
            geodeform.demo_scene(), polygons=tmp_path / "all.fgb", samples=tmp_path / "all.geojson"
        )


def test_a_map_without_data_has_an_empty_file_of_polygons(tmp_path: Path) -> None:
    scene_file(tmp_path / "empty.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    geodeform.segment_scene(tmp_path / "empty.tif", output=tmp_path / "map.tif")
    polygons = polygonize_file(tmp_path / "map.tif", tmp_path / "map.fgb")
    assert polygons.empty
    assert (tmp_path / "map.fgb").is_file()
    assert (tmp_path / "map.qml").is_file()


@pytest.mark.qgis
def test_styles_of_one_stem_join_also_in_later_runs(tmp_path: Path) -> None:
    run(tmp_path, "projected")
    polygonize_file(tmp_path / "map.tif", tmp_path / "map.fgb")  # map.qml is the raster's so far
    settings = {"output": tmp_path / "map.tif", "budget": "0.5%", "overwrite": True}
    geodeform.segment_scene(tmp_path / "suburb.tif", **settings)  # map.fgb keeps its style
    files = [["gdal", str(tmp_path / "map.tif")], ["ogr", str(tmp_path / "map.fgb")]]
    (seen,) = open_in_qgis([{"files": files}], tmp_path)
    kinds = {Path(n).suffix: layer["renderer"] for n, layer in seen["layers"].items()}
    assert kinds == {".tif": "paletted", ".fgb": "categorizedSymbol"}
    with pytest.raises(OutputError, match="exists already"):
        polygonize_file(tmp_path / "map.tif", tmp_path / "map.geojson")  # map.fgb's style is there


def test_a_confidence_raster_holds_probabilities(tmp_path: Path) -> None:
    labels = np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8))
    with pytest.raises(SceneError, match="no confidence raster"):
        geodeform.polygonize(
            labels,
            scheme=ClassScheme(("a", "b"), ((0, 0, 0), (9, 9, 9))),
            confidence=np.full((16, 16), 7.0, np.float32),
        )


def test_metres_for_degrees_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, "geographic")
    assert "areas change much" not in caplog.text
    geodeform.polygonize(tmp_path / "map.tif", simplify=1.0)
    assert "areas change much" in caplog.text
