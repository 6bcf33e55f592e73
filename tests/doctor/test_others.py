from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from geodeform.classes import ClassScheme
from geodeform.doctor import examine
from geodeform.doctor.findings import Level, Report
from geodeform.geo.qgis_project import map_layers, write_project


def codes(report: Report, *, least: Level = Level.HINT) -> set[str]:
    return {finding.code for finding in report.findings if finding.level >= least}


def examined(path: Path) -> Report:
    (report,) = examine([path])
    return report


# ---------------------------------------------------------------------------------- no map at all


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.tif", b"", "file.empty"),
        ("a.tif", b"this is no raster\n", "file.unknown"),
        ("a.gpkg", b"this is no database\n", "file.unknown"),
        ("a.json", b'{"a": 1}', "file.unknown"),
        ("a.zip", b"PK\x03\x04" + bytes(40), "file.unknown"),
        ("a.qgz", b"PK\x03\x04" + bytes(40), "project.damaged"),
        ("a.bin", bytes(range(256)) * 8, "file.unknown"),
        ("a.tif", b"II*\0" + bytes(200), "file.unknown"),
        ("a.qml", b"<qgis", "qml.malformed"),
    ],
)
def test_what_is_no_map_gets_one_sentence(
    tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    (finding,) = examined(path).findings
    assert (finding.code, finding.level) == (code, Level.ERROR)
    assert name in finding.message


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    assert codes(examined(tmp_path / "gone.tif")) == {"file.missing"}
    assert codes(examined(tmp_path)) == {"folder.empty"}


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(run: Path) -> None:
    (run / "map.tif").chmod(0)
    assert codes(examined(run / "map.tif")) == {"file.permission"}


def test_the_name_is_not_trusted(run: Path) -> None:
    shutil.copy(run / "map.gpkg", run / "map.data")
    assert examined(run / "map.data").kind == "GeoPackage"


def test_other_files_of_a_folder_are_passed_over(run: Path) -> None:
    (run / "notes.txt").write_text("made on Tuesday")
    reports = examine([run])
    assert max(r.worst for r in reports) < Level.WARNING


# ------------------------------------------------------------------------------ styles, projects


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<qgis version='3.22'/>", "qml.no-renderer"),
        ("<qgis><pipe><rasterrenderer type='paletted'/></pipe></qgis>", "qml.empty"),
        (
            "<qgis><rasterrenderer type='paletted'><paletteEntry value='1'/>"
            "<paletteEntry value='1'/></rasterrenderer></qgis>",
            "qml.duplicate-class",
        ),
        ("<qgis><rasterrenderer type='singlebandgray'/></qgis>", "qml.alone"),
    ],
)
def test_a_broken_style(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "a.qml").write_text(text)
    assert code in codes(examined(tmp_path / "a.qml"))


def project(run: Path) -> Path:
    scheme = ClassScheme(("a", "b", "c", "d"), ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)))
    outputs = {"labels": run / "map.tif", "polygons": run / "map.gpkg"}
    write_project(
        run / "map.qgz", map_layers(outputs, scheme), title="Map", crs=CRS.from_epsg(32640)
    )
    return run / "map.qgz"


def test_a_project_follows_its_folder(run: Path, tmp_path: Path) -> None:
    project(run)
    moved = run.rename(tmp_path / "moved")
    assert examined(moved / "map.qgz").worst == Level.OK
    (moved / "map.tif").unlink()
    assert codes(examined(moved / "map.qgz")) == {"project.missing-data"}


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("map.gpkg|layername=polygons", "map.gpkg|layername=gone", "project.missing-layer"),
        ("./map.tif", "{run}/map.tif", "project.absolute-path"),
        ("</qgis>", "", "project.damaged"),
    ],
)
def test_a_broken_project(run: Path, old: str, new: str, code: str) -> None:
    path = project(run)
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        text = archive.read(name).decode()
    assert old in text
    text = text.replace(old, new.format(run=run))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, text)
    assert code in codes(examined(path))
    plain = path.with_suffix(".qgs")
    plain.write_text(text)
    assert code in codes(examined(plain))


# --------------------------------------------------------------------------------------- reports


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<img src='data:image/png;base64,AA'><a href='https://example.org'>x</a>", set()),
        ("<script src='https://example.org/a.js'></script>", {"report.external"}),
        ("<link rel='stylesheet' href='//example.org/a.css'>", {"report.external"}),
        ("<style>@import 'https://example.org/a.css';</style>", {"report.external"}),
        ("<p style='background: url(https://example.org/a.png)'>", {"report.external"}),
        ("<img src='gone.png'>", {"report.missing-file"}),
        ("<img src='there.png'>", {"report.not-self-contained"}),
        ("<svg xmlns='http://www.w3.org/2000/svg'><use href='#a'/></svg>", set()),
    ],
)
def test_a_report_needs_nothing_else(tmp_path: Path, body: str, found: set[str]) -> None:
    (tmp_path / "there.png").write_bytes(b"x")
    (tmp_path / "a.html").write_text(f"<!DOCTYPE html><html><body>{body}</body></html>")
    assert codes(examined(tmp_path / "a.html")) == found


def test_a_cut_off_report(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<!DOCTYPE html><html><body><p>Areas")
    assert codes(examined(tmp_path / "a.html")) == {"report.truncated"}


# ------------------------------------------------------------------------------------------ STAC


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(item: dict[str, Any]) -> None:
        *way, last = keys
        for key in way:
            item = item[key]
        item[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda item: item.pop("links"), "stac.required"),
        (_set("bbox", value=[0, 0, 1, 1]), "stac.bbox"),
        (lambda item: item.pop("bbox"), "stac.bbox"),
        (_set("geometry", value=None), "stac.bbox"),
        (
            _set("geometry", value={"type": "Point", "coordinates": [3e5, 2.7e6]}),
            "stac.geometry",
        ),
        (_set("geometry", value={"type": "Blob"}), "stac.geometry"),
        (_set("properties", "datetime", value=None), "stac.datetime"),
        (_set("properties", "datetime", value="yesterday"), "stac.datetime"),
        (_set("properties", "datetime", value="2024-01-01T00:00:00"), "stac.datetime"),
        (_set("stac_extensions", value=[]), "stac.undeclared-extension"),
        (_set("assets", value={}), "stac.no-assets"),
        (_set("assets", "labels", "href", value="./gone.tif"), "stac.missing-asset"),
        (_set("assets", "labels", "proj:shape", value=[3, 4]), "stac.shape"),
        (_set("assets", "labels", "proj:transform", value=[1, 0, 0, 0, 1, 0]), "stac.transform"),
        (lambda item: item["assets"]["labels"]["classification:classes"].pop(0), "stac.classes"),
        (
            _set("assets", "labels", "classification:classes", 0, "title", value="sea"),  # type: ignore[arg-type]
            "stac.classes",
        ),
    ],
)
def test_a_broken_item(run: Path, change: Callable[[dict[str, Any]], None], code: str) -> None:
    path = run / "map.json"
    item = json.loads(path.read_text("utf-8"))
    change(item)
    path.write_text(json.dumps(item))
    assert code in codes(examined(path))


def test_an_item_that_cannot_be_moved(run: Path) -> None:
    path = run / "map.json"
    path.write_text(path.read_text("utf-8").replace("./map.tif", str(run / "map.tif")))
    assert codes(examined(path)) == {"stac.absolute-href"}


# -------------------------------------------------------------------------------------- together


def together(run: Path) -> Report:
    reports = examine([run])
    (report,) = (r for r in reports if r.kind == "together")
    return report


def _tagged(path: Path, **tags: str) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.update_tags(**tags)


def test_files_of_another_run(run: Path) -> None:
    _tagged(run / "map_confidence.tif", model="other")
    assert "run.mixed" in codes(together(run), least=Level.ERROR)


def test_a_map_that_was_moved(run: Path) -> None:
    with rasterio.open(run / "map_confidence.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as out:
        out.transform = rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 2.7e6)
    frame = gpd.read_file(run / "map.gpkg", layer="polygons")
    frame.geometry = frame.translate(1e4, 0)
    (run / "map.gpkg").unlink()
    frame.to_file(run / "map.gpkg", layer="polygons")
    found = [f for f in together(run).findings if f.code == "run.extent"]
    assert len(found) == 2


def test_polygons_that_are_missing_or_of_other_classes(run: Path) -> None:
    frame = gpd.read_file(run / "map.gpkg", layer="polygons")
    (run / "map.gpkg").unlink()
    frame.iloc[::2].to_file(run / "map.gpkg", layer="polygons")
    renamed = gpd.read_parquet(run / "map_polygons.parquet")
    renamed["class_name"] = renamed["class_name"].replace("land", "sand")
    renamed.to_parquet(run / "map_polygons.parquet")
    assert {"run.area", "run.class-names"} <= codes(together(run))


def test_an_edited_map(run: Path) -> None:
    with rasterio.open(run / "map.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        data = dataset.read(1)
        dataset.write(np.where(data == 3, 0, data).astype(np.uint8), 1)
    assert "run.class-area" in codes(together(run))


def test_files_of_several_scenes_are_compared_with_their_own(run: Path) -> None:
    for name in ("map.tif", "map.tif.aux.xml", "map_confidence.tif"):
        shutil.copy(run / name, run / name.replace("map", "other"))
    _tagged(run / "other.tif", source="other.tif")
    _tagged(run / "other_confidence.tif", source="other.tif")
    assert not codes(together(run), least=Level.WARNING)
