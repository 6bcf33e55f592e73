from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
import shapely.geometry
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

from geodeform.classes import ClassScheme
from geodeform.errors import OutputError
from geodeform.geo.outputs import OutputSet
from geodeform.geo.raster import ClassRasterWriter, ConfidenceRasterWriter
from geodeform.geo.stac import ModelFacts, write_model_stac, write_stac

SCHEME = ClassScheme(("building", "land & sand", "Straße"), ((60, 16, 152), (0, 255, 0), (9, 9, 9)))
SHAPE = (60, 80)
TAGS = {
    "TIFFTAG_SOFTWARE": "geodeform 0.1.0",
    "TIFFTAG_DATETIME": "2024:05:17 10:30:00",
    "source": "scene.tif",
    "model": "dubai",
    "sampler": "learned",
}
UTM = {"crs": CRS.from_epsg(32640), "transform": Affine(0.5, 0, 3e5, 0, -0.5, 2.7e6)}
MODEL = ModelFacts(
    name="run 3/model",
    architecture="lite0",
    classes=SCHEME,
    bands=("red", "green", "blue"),
    window=(1024, 1024),
    sample=(128, 128),
    max_value=255.0,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.1),
    gsd=1.0,
    framework_version="2.15.0+cpu",
    parameters=3_200_000,
    licence="Apache-2.0",
    training_data="tiles of Dubai",
    hyperparameters={"sampler": "learned"},
)


def class_raster(path: Path, **place: Any) -> Path:
    keywords = {"transform": None, "crs": None, **(place or UTM)}
    with ClassRasterWriter(path, shape=SHAPE, scheme=SCHEME, tags=TAGS, **keywords) as writer:
        writer.write(
            Window(0, 0, SHAPE[1], SHAPE[0]),
            (np.indices(SHAPE).sum(axis=0) % 3).astype(np.uint8),
        )
    return path


def item_of(path: Path) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return item


def written(folder: Path, **place: Any) -> dict[str, Any]:
    labels = class_raster(folder / "map.tif", **place)
    write_stac(folder / "map.json", assets={"labels": labels})
    return item_of(folder / "map.json")


def check_core(path: Path) -> None:
    """Validate against the core schema that pystac brings along; extensions' are not there."""
    pytest.importorskip("jsonschema")
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    JsonSchemaSTACValidator().validate_core(item_of(path), pystac.STACObjectType.ITEM, "1.1.0")


# ---------------------------------------------------------------------------------------- the map


def test_the_item_is_valid_and_pystac_reads_it(tmp_path: Path) -> None:
    written(tmp_path)
    check_core(tmp_path / "map.json")
    item = pystac.Item.from_file(str(tmp_path / "map.json"))
    assert item.id == "map"
    labels = item.assets["labels"]
    assert labels.get_absolute_href() == str(tmp_path / "map.tif")
    assert labels.media_type == pystac.MediaType.COG
    (band,) = pystac.extensions.raster.RasterExtension.ext(labels).bands or ()
    assert (band.nodata, band.scale, band.spatial_resolution) == (255, 1.0, 0.5)
    classes = pystac.extensions.classification.ClassificationExtension.ext(labels).classes or ()
    assert [(c.value, c.title, c.color_hint) for c in classes if not c.nodata] == [
        (0, "building", "3C1098"),
        (1, "land & sand", "00FF00"),
        (2, "Straße", "090909"),
    ]
    assert all(c.name and c.name.isascii() for c in classes)
    projection = pystac.extensions.projection.ProjectionExtension.ext(item)
    assert projection.code == "EPSG:32640"
    assert labels.extra_fields["proj:shape"] == [60, 80]
    assert labels.extra_fields["proj:transform"] == [0.5, 0, 3e5, 0, -0.5, 2.7e6]


def test_every_extension_that_is_used_is_declared_and_no_other(tmp_path: Path) -> None:
    item = written(tmp_path)
    bearers = [item["properties"], *item["assets"].values()]
    used = {key.split(":")[0] for bearer in bearers for key in bearer if ":" in key}
    assert used == {"proj", "raster", "classification", "processing"}
    declared = {uri.split("/")[3] for uri in item["stac_extensions"]}
    assert declared == {"projection", "raster", "classification", "processing"}


def test_how_the_map_was_made(tmp_path: Path) -> None:
    properties = written(tmp_path)["properties"]
    assert properties["processing:level"] == "L4"
    assert properties["processing:software"] == {"geodeform": "0.1.0"}
    assert "model dubai; sampler learned" in properties["processing:lineage"]


def test_the_confidence_has_its_scale(tmp_path: Path) -> None:
    labels = class_raster(tmp_path / "map.tif")
    with ConfidenceRasterWriter(tmp_path / "c.tif", shape=SHAPE, tags={}, **UTM) as writer:
        writer.write(Window(0, 0, SHAPE[1], SHAPE[0]), np.full(SHAPE, 99, np.uint8))
    write_stac(tmp_path / "map.json", assets={"labels": labels, "confidence": tmp_path / "c.tif"})
    (band,) = item_of(tmp_path / "map.json")["assets"]["confidence"]["raster:bands"]
    assert band["scale"] == pytest.approx(1 / 255)
    assert band["nodata"] == 0


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    folder = tmp_path / "my maps"
    folder.mkdir()
    labels = class_raster(folder / "my map.tif")
    scene = scene_file(tmp_path / "scene.tif", np.ones((1, 8, 8), np.uint8), **UTM)
    write_stac(folder / "map.json", assets={"labels": labels}, scene=scene)
    assert str(tmp_path) not in (folder / "map.json").read_text("utf-8")
    item = item_of(folder / "map.json")
    assert item["assets"]["labels"]["href"] == "./my%20map.tif"
    assert [(link["rel"], link["href"]) for link in item["links"]] == [
        ("derived_from", "../scene.tif")
    ]


def test_staged_files_are_named_as_they_will_be(tmp_path: Path) -> None:
    with OutputSet() as outputs:
        labels = class_raster(outputs.add(tmp_path / "map.tif", suffixes=(".tif",)))
        write_stac(outputs.add(tmp_path / "map.json", suffixes=(".json",)),
                   assets={"labels": labels})  # fmt: skip
    assert item_of(tmp_path / "map.json")["assets"]["labels"]["href"] == "./map.tif"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.json", "map.tif", "map.tif.aux.xml"]


# ------------------------------------------------------------------------------------------ dates


def test_the_scenes_own_date_is_the_date(tmp_path: Path) -> None:
    labels = class_raster(tmp_path / "map.tif")
    scene = scene_file(tmp_path / "scene.tif", np.ones((1, 8, 8), np.uint8), **UTM)
    with rasterio.open(scene, "r+") as dataset:
        dataset.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2021-03-04T05:06:07+02:00")
    write_stac(tmp_path / "map.json", assets={"labels": labels}, scene=scene)
    properties = item_of(tmp_path / "map.json")["properties"]
    assert properties["datetime"] == "2021-03-04T03:06:07Z"
    assert "acquisition" not in properties["description"]


@pytest.mark.parametrize(
    ("tag", "value", "expected"),
    [
        ("DATE_ACQUIRED", "2020-07-01", "2020-07-01T00:00:00Z"),
        ("ACQUISITIONDATE", "20200701", "2020-07-01T00:00:00Z"),
        ("AcquisitionDateTime", "2020:07:01 10:11:12", "2020-07-01T10:11:12Z"),
    ],
)
def test_the_names_that_acquisition_dates_have(
    tmp_path: Path, tag: str, value: str, expected: str
) -> None:
    labels = class_raster(tmp_path / "map.tif")
    scene = scene_file(tmp_path / "scene.tif", np.ones((1, 8, 8), np.uint8), **UTM)
    with rasterio.open(scene, "r+") as dataset:
        dataset.update_tags(**{tag: value})
    write_stac(tmp_path / "map.json", assets={"labels": labels}, scene=scene)
    assert item_of(tmp_path / "map.json")["properties"]["datetime"] == expected


def test_without_one_the_date_is_that_of_the_map_and_says_so(tmp_path: Path) -> None:
    properties = written(tmp_path)["properties"]
    assert properties["datetime"] == properties["created"]
    assert datetime.fromisoformat(properties["datetime"]).tzinfo is not None
    assert "no acquisition date" in properties["description"]


def test_an_acquisition_date_needs_a_zone(tmp_path: Path) -> None:
    labels = class_raster(tmp_path / "map.tif")
    with pytest.raises(ValueError, match="time zone"):
        write_stac(tmp_path / "a.json", assets={"labels": labels}, acquired=datetime(2020, 1, 1))
    write_stac(
        tmp_path / "a.json", assets={"labels": labels}, acquired=datetime(2020, 1, 1, tzinfo=UTC)
    )
    assert item_of(tmp_path / "a.json")["properties"]["datetime"] == "2020-01-01T00:00:00Z"


# -------------------------------------------------------------------------------------- footprint


def test_the_footprint_of_the_demo_scene(tmp_path: Path) -> None:
    item = written(tmp_path)
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.is_valid
    assert item["bbox"] == pytest.approx(shape.bounds, abs=1e-9)
    assert shapely.is_ccw(shape.exterior)
    assert len(shape.exterior.coords) < 20  # nearly straight edges need no points


def test_a_rotated_footprint_is_turned(tmp_path: Path) -> None:
    turned = Affine(0.3, 0.4, 3e5, 0.4, -0.3, 2.7e6)
    item = written(tmp_path, crs=CRS.from_epsg(32640), transform=turned)
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.area < 0.6 * shape.envelope.area
    assert item["bbox"] == pytest.approx(shape.bounds)


def test_ground_control_points_place_a_map(tmp_path: Path) -> None:
    points = [
        GroundControlPoint(r, c, 55 + c * 1e-3, 25 - r * 1e-3)
        for r, c in ((0, 0), (0, 80), (60, 0), (60, 80))
    ]
    item = written(tmp_path, gcps=(points, CRS.from_epsg(4326)))
    assert item["bbox"] == pytest.approx([55, 24.94, 55.08, 25], abs=1e-6)
    assert "proj:transform" not in item["assets"]["labels"]
    assert item["properties"]["proj:code"] == "EPSG:4326"


def test_across_the_180th_meridian(tmp_path: Path) -> None:
    item = written(
        tmp_path, crs=CRS.from_epsg(32701), transform=Affine(1e3, 0, 1.5e5, 0, -1e3, 8e6)
    )
    check_core(tmp_path / "map.json")
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.geom_type == "MultiPolygon"
    assert len(shape.geoms) == 2
    west, _, east, _ = item["bbox"]
    assert west > 170
    assert east < -170
    assert sum(p.envelope.area for p in shape.geoms) < 1.0


def test_around_the_pole(tmp_path: Path) -> None:
    item = written(
        tmp_path, crs=CRS.from_epsg(3413), transform=Affine(5e4, 0, -2e6, 0, -5e4, 1.5e6)
    )
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.is_valid
    assert shape.covers(shapely.Point(0, 89.9))
    assert shape.covers(shapely.Point(170, 89.9))
    assert item["bbox"][0] == -180
    assert item["bbox"][2:] == [180, 90]


def test_no_place_without_a_crs(tmp_path: Path) -> None:
    item = written(tmp_path, transform=None)
    check_core(tmp_path / "map.json")
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["proj:code"] is None


def test_a_crs_without_a_code_is_told_in_full(tmp_path: Path) -> None:
    odd = CRS.from_proj4("+proj=laea +lat_0=24.5 +lon_0=55 +ellps=GRS80 +units=m")
    properties = written(tmp_path, crs=odd, transform=Affine(1, 0, 0, 0, -1, 0))["properties"]
    assert properties["proj:code"] is None
    assert properties["proj:wkt2"].startswith("PROJCRS")


# --------------------------------------------------------------------------------------- the model


def test_the_model_has_an_item_of_its_own(tmp_path: Path) -> None:
    write_model_stac(tmp_path / "model.json", MODEL, href="./model.safetensors")
    check_core(tmp_path / "model.json")
    item = item_of(tmp_path / "model.json")
    properties = item["properties"]
    # what the schema of the extension requires, v1.4.0
    assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(
        properties
    )
    assert properties["mlm:name"] == "run-3-model"
    assert properties["mlm:framework_version"] == "2.15.0"
    assert [band["name"] for band in properties["bands"]] == ["red", "green", "blue"]
    assert item["stac_version"] == "1.1.0"  # "bands" is a field from there on
    assert "mlm:model" in item["assets"]["model"]["roles"]
    (taken,) = properties["mlm:input"]
    assert taken["input"]["shape"] == [-1, 3, 1024, 1024]
    assert len(taken["input"]["dim_order"]) == 4
    # (raw / 255 − 0.4) / 0.2 = (raw − 102) / 51
    assert taken["value_scaling"][1] == {
        "type": "z-score", "mean": pytest.approx(102), "stddev": pytest.approx(51)
    }  # fmt: skip
    (given,) = properties["mlm:output"]
    assert given["result"]["shape"] == [-1, 3, 1024, 1024]
    assert [c["value"] for c in given["classification:classes"]] == [0, 1, 2]


def test_the_map_names_its_model(tmp_path: Path) -> None:
    labels = class_raster(tmp_path / "map.tif")
    model = tmp_path / "model.json"
    write_model_stac(model, MODEL, href="./model.safetensors")
    write_stac(tmp_path / "map.json", assets={"labels": labels}, model_item=model)
    check_core(tmp_path / "map.json")
    item = item_of(tmp_path / "map.json")
    assert item["properties"]["processing:expression"] == {
        "format": "stac-mlm", "expression": "./model.json"
    }  # fmt: skip
    (link,) = item["links"]
    assert (link["rel"], link["href"], link["mlm:name"]) == (
        "derived_from",
        "./model.json",
        "dubai",
    )


# ----------------------------------------------------------------------------------------- errors


def test_an_existing_item_stays(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        write_stac(tmp_path / "map.json", assets={"labels": tmp_path / "map.tif"})
    with pytest.raises(OutputError, match=r"\.json"):
        write_stac(tmp_path / "map.txt", assets={"labels": tmp_path / "map.tif"})


def test_a_map_is_needed_and_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels"):
        write_stac(tmp_path / "map.json", assets={})
    shutil.copy(__file__, tmp_path / "map.tif")
    with pytest.raises(OutputError, match=r"map\.tif cannot be read"):
        write_stac(tmp_path / "map.json", assets={"labels": tmp_path / "map.tif"})
    assert not (tmp_path / "map.json").exists()
