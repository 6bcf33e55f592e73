from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from qgis_maps import GEOREFERENCES, PLACES, SCHEME, SHAPE, open_in_qgis, write_maps
from rasterio.crs import CRS

from geodeform.classes import to_hex
from geodeform.errors import OutputError
from geodeform.geo import affine
from geodeform.geo.outputs import OutputSet
from geodeform.geo.qgis_project import RasterLayer, map_layers, scene_layer, write_project
from geodeform.geo.style import scene_style

LEGEND = [[n, to_hex(c).lower()] for n, c in zip(SCHEME.names, SCHEME.colours, strict=True)]
UTM = CRS.from_epsg(32640)
STYLE = scene_style((1, 2, 3), [(0, 400)] * 3)
EVERYTHING = [
    ["Confidence and sampling", "Sampled points", False, False],
    ["Confidence and sampling", "Confidence", False, True],
    ["Confidence and sampling", "Sampling density", False, True],
    ["Land cover", "Polygons", True, True],
    ["Land cover", "Class raster", True, False],
    ["", "Scene (scene)", True, False],
]


def write_run(folder: Path, name: str, **files: str) -> list[str]:
    """Write the maps of a georeference and their project; return what was left out of it."""
    where = GEOREFERENCES[name]
    paths = write_maps(folder, where, **files)
    scenes = folder.parent / "scenes"
    scenes.mkdir(exist_ok=True)
    scene = paths.pop("scene").rename(scenes / f"{name}.tif")
    return write_project(
        folder / "map.qgz",
        map_layers(paths, SCHEME, scene=replace(scene_layer(scene, STYLE), name="Scene (scene)")),
        title=f"Map <{name}> & “more”",
        crs=where.crs,
        abstract="By a test",
    )


def xml_of(project: Path) -> ElementTree.Element:
    with zipfile.ZipFile(project) as archive:
        assert archive.namelist() == [project.with_suffix(".qgs").name]
        return ElementTree.fromstring(archive.read(archive.namelist()[0]))


def sources_of(project: Path) -> dict[str, str]:
    return {
        str(layer.findtext("layername")): str(layer.findtext("datasource"))
        for layer in xml_of(project).iter("maplayer")
    }


def test_a_project_of_staged_files_names_the_final_ones(tmp_path: Path) -> None:
    made, home = tmp_path / "made", tmp_path / "maps"
    made.mkdir()
    home.mkdir()
    paths = write_maps(made, GEOREFERENCES["projected"])
    scene = scene_layer(paths.pop("scene"), STYLE)
    with OutputSet() as outputs:
        staged = {
            kind: outputs.add(home / path.name, suffixes=(path.suffix,))
            for kind, path in paths.items()
        }
        for kind, path in paths.items():
            shutil.copy(path, staged[kind])
        project = outputs.add(home / "map.qgz", suffixes=(".qgz",))
        left_out = write_project(
            project, map_layers(staged, SCHEME, scene=scene), title="Map", crs=UTM
        )
    assert left_out == []
    assert sources_of(home / "map.qgz") == {
        "Sampled points": "./points.gpkg|layername=samples",
        "Confidence": "./confidence.tif",
        "Sampling density": "./density.tif",
        "Polygons": "./map.gpkg|layername=polygons",
        "Class raster": "./map.tif",
        "Scene (scene)": "../made/scene.tif",
    }
    text = ElementTree.tostring(xml_of(home / "map.qgz"), encoding="unicode")
    assert str(tmp_path) not in text
    assert ".geodeform-" not in text


def test_layers_and_groups_in_order(tmp_path: Path) -> None:
    write_run(tmp_path, "projected")
    root = xml_of(tmp_path / "map.qgz")
    tree = root.find("layer-tree-group")
    assert tree is not None
    listed = [
        [group.get("name", ""), node.get("name"), node.get("checked") == "Qt::Checked"]
        for group in [*tree.findall("layer-tree-group"), tree]
        for node in group.findall("layer-tree-layer")
    ]
    assert listed == [row[:3] for row in EVERYTHING]
    identifiers = [str(node.findtext("id")) for node in root.iter("maplayer")]
    assert identifiers == [str(n.get("id")) for n in tree.iter("layer-tree-layer")]
    assert len(set(identifiers)) == len(EVERYTHING)
    extent = root.find("mapcanvas/extent")
    assert extent is not None
    sides = [float(extent.findtext(s, "")) for s in ("xmin", "ymin", "xmax", "ymax")]
    assert sides == [316_000.0, 2_769_872.0, 316_192.0, 2_770_000.0]


def test_only_what_there_is(tmp_path: Path) -> None:
    paths = write_maps(tmp_path, GEOREFERENCES["projected"])
    layers = map_layers({"labels": paths["labels"], "quicklook": tmp_path / "map.png"}, SCHEME)
    assert [layer.name for layer in layers] == ["Class raster"]
    assert layers[0].expanded
    write_project(tmp_path / "a.qgz", layers, title="A", crs=UTM)
    assert sources_of(tmp_path / "a.qgz") == {"Class raster": "./map.tif"}


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        ("{here}/scene.tif", "./scene.tif"),
        ("{here}/../other/scene.tif", "../other/scene.tif"),
        ("/vsizip/{here}/scenes.zip/a/scene.tif", "/vsizip/./scenes.zip/a/scene.tif"),
        ("/vsizip//elsewhere/scenes.zip/scene.tif", "/vsizip//elsewhere/scenes.zip/scene.tif"),
        ("/vsicurl/https://example.org/s.tif", "/vsicurl/https://example.org/s.tif"),
        ("/vsizip/vsicurl/https://example.org/s.zip", "/vsizip/vsicurl/https://example.org/s.zip"),
        ("/vsizip/{{/vsicurl/x.zip}}/s.tif", "/vsizip/{{/vsicurl/x.zip}}/s.tif"),
        ("https://example.org/scene.tif", "https://example.org/scene.tif"),
        ('NETCDF:"scene.nc":red', 'NETCDF:"scene.nc":red'),
        ("<VRTDataset>" + 5000 * " " + "</VRTDataset>", None),
        ("/bin/sh", "/bin/sh"),  # no common folder: absolute, as QGIS has it
    ],
)
def test_names_of_scenes(tmp_path: Path, source: str, stored: str | None) -> None:
    home = tmp_path / "home"
    for folder in (home, tmp_path / "other"):
        folder.mkdir()
        (folder / "scene.tif").touch()
    name = source.format(here=home)
    layer = RasterLayer("Scene", name, STYLE)
    write_project(home / "map.qgz", [layer], title="Map", crs=UTM)
    wanted = name if stored is None else stored.format()
    assert sources_of(home / "map.qgz") == {"Scene": wanted}


def test_relative_scene_names_start_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("data", "maps"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "scene.tif").touch()
    monkeypatch.chdir(tmp_path)
    layers = [scene_layer("data/scene.tif", STYLE)]
    write_project("maps/map.qgz", layers, title="Map", crs=UTM)
    assert sources_of(Path("maps/map.qgz")) == {"Scene (scene)": "../data/scene.tif"}


def test_a_project_is_an_output_like_others(tmp_path: Path) -> None:
    layers = [RasterLayer("Map", tmp_path / "map.tif", STYLE)]
    target = tmp_path / "map.qgs"
    write_project(target, layers, title="Map", crs=UTM)
    assert ElementTree.parse(target).getroot().findtext("title") == "Map"
    with pytest.raises(OutputError, match=r"map\.qgs exists already"):
        write_project(target, layers, title="Map", crs=UTM)
    write_project(target, layers, title="Other", crs=UTM, overwrite=True)
    assert ElementTree.parse(target).getroot().findtext("title") == "Other"
    with pytest.raises(OutputError, match="suffix"):
        write_project(tmp_path / "map.prj", layers, title="Map", crs=UTM)


def test_the_same_run_gives_the_same_layer_ids(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "a", "b"):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_run(folder, "projected")
        ids.append([layer.findtext("id") for layer in xml_of(folder / "map.qgz").iter("maplayer")])
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])  # both can be opened in one QGIS


def test_without_georeference_vectors_are_turned_over(tmp_path: Path) -> None:
    assert write_run(tmp_path, "none") == ["Sampling density"]
    sources = sources_of(tmp_path / "map.qgz")
    assert sources["Polygons"].startswith("?layer=ogr:.%2Fmap.gpkg%7Clayername%3Dpolygons:source")
    extent = xml_of(tmp_path / "map.qgz").find("mapcanvas/extent")
    assert extent is not None
    assert [float(side.text or "") for side in extent] == [0, -SHAPE[0], SHAPE[1], 0]


# ---- in QGIS --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """What QGIS says of the project of each georeference, all of which have been moved."""
    made = tmp_path_factory.mktemp("made")
    left_out = {}
    for name in GEOREFERENCES:
        (made / name).mkdir()
        left_out[name] = write_run(made / name, name)
    moved = made.rename(made.with_name("moved here"))
    orders = []
    for name, where in GEOREFERENCES.items():
        drawn = ("Polygons", "Class raster", "Sampled points")
        extent, size = view_of(name)
        pictures = {
            str(moved / name / f"{layer}.png"): {"layers": [layer], "extent": extent, "size": size}
            for layer in drawn
        }
        if where.crs is not None:
            pictures[str(moved / name / "density.png")] = {
                "layers": ["Sampling density"],
                "extent": extent,
                "size": size,
            }
        orders.append({"project": str(moved / name / "map.qgz"), "draw": pictures})
    reports = dict(zip(GEOREFERENCES, open_in_qgis(orders, made.parent), strict=True))
    for name, report in reports.items():
        report.update(folder=moved / name, left_out=left_out[name])
    return reports


def corners_of(name: str) -> np.ndarray:
    height, width = SHAPE
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float)
    return places_on_map(name, corners)


def places_on_map(name: str, pixels: np.ndarray) -> np.ndarray:
    """Where QGIS draws pixel positions: without a georeference, y points down from 0."""
    xy = affine.apply_to(GEOREFERENCES[name].transform, pixels)
    return xy * (1, -1) if GEOREFERENCES[name].crs is None else xy


def view_of(name: str) -> tuple[list[float], list[int]]:
    """Extent of a map and the size of a picture of it, of the same shape."""
    (left, bottom), (right, top) = corners_of(name).min(0), corners_of(name).max(0)
    width = 480
    return [left, bottom, right, top], [width, round(width * (top - bottom) / (right - left))]


def seen(report: dict[str, Any], name: str, layer: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return the colour of a picture at each of the places."""
    picture = np.asarray(Image.open(report["folder"] / f"{layer}.png").convert("RGB"))
    (left, bottom, right, top), (width, height) = view_of(name)
    xy = places_on_map(name, np.array(list(PLACES), float))
    columns = ((xy[:, 0] - left) / (right - left) * width).astype(int)
    rows = ((top - xy[:, 1]) / (top - bottom) * height).astype(int)
    colours = picture[rows, columns]
    return {p: tuple(map(int, c)) for p, c in zip(PLACES, colours, strict=True)}


@pytest.mark.qgis
@pytest.mark.parametrize("name", GEOREFERENCES)
def test_qgis_opens_a_moved_project(opened: Mapping[str, dict[str, Any]], name: str) -> None:
    report, where = opened[name], GEOREFERENCES[name]
    assert report["read"]
    assert report["error"] == ""
    assert (report["title"], report["abstract"]) == (f"Map <{name}> & “more”", "By a test")
    lost = ["Sampling density"] if where.crs is None else []
    assert report["left_out"] == lost
    assert report["tree"] == [row for row in EVERYTHING if row[1] not in lost]
    layers = report["layers"]
    assert all(layer["valid"] for layer in layers.values())
    assert all(layer["crs_as_file"] for layer in layers.values())
    code = where.crs.to_epsg() if where.crs is not None else None
    assert report["authid"] == ("" if code is None else f"EPSG:{code}")
    assert {layer["authid"] for layer in layers.values()} == {report["authid"]}
    assert layers["Class raster"]["renderer"] == "paletted"
    assert layers["Class raster"]["legend"][1:] == LEGEND
    assert layers["Polygons"]["legend"] == layers["Sampled points"]["legend"] == LEGEND
    assert layers["Polygons"]["features"] == layers["Sampled points"]["features"] == 5
    assert layers["Confidence"]["renderer"] == "singlebandpseudocolor"
    assert layers["Scene (scene)"]["renderer"] == "multibandcolor"
    assert set(report["themes"]) == {"Land cover", "Scene", "Confidence", "Sampling"}
    assert report["themes"]["Land cover"] == ["Polygons", "Class raster", "Scene (scene)"]
    # the view holds the map, without much around it (a canvas has a shape of its own)
    (left, bottom), (right, top) = corners_of(name).min(0), corners_of(name).max(0)
    view = np.array(report["view"])
    slack = 0.02 * max(right - left, top - bottom)
    assert (view[:2] <= (left + slack, bottom + slack)).all()
    assert (view[2:] >= (right - slack, top - slack)).all()
    assert (view[2:] + view[:2]) / 2 == pytest.approx(
        ((left + right) / 2, (bottom + top) / 2), abs=slack
    )


@pytest.mark.qgis
@pytest.mark.parametrize("name", GEOREFERENCES)
def test_qgis_draws_every_layer_in_its_place(
    opened: Mapping[str, dict[str, Any]], name: str
) -> None:
    white = (255, 255, 255)
    wanted = {p: white if k is None else SCHEME.colours[k] for p, k in PLACES.items()}
    for layer in ("Class raster", "Polygons", "Sampled points"):
        assert seen(opened[name], name, layer) == wanted, layer
    if GEOREFERENCES[name].crs is not None:  # denser towards the end
        colours = [np.array(c) for c in seen(opened[name], name, "density").values()]
        assert colours[0][2] > colours[0][1]  # violet
        assert colours[-1][1] > colours[-1][2]  # green to yellow


@pytest.mark.qgis
def test_qgis_opens_other_formats(tmp_path: Path) -> None:
    write_run(tmp_path, "projected", polygons="map.fgb", samples="points.geojson")
    (report,) = open_in_qgis([{"project": str(tmp_path / "map.qgz")}], tmp_path)
    assert report["read"]
    layers = report["layers"]
    assert {name: layers[name]["valid"] for name in layers} == dict.fromkeys(layers, True)
    assert layers["Polygons"]["authid"] == "EPSG:32640"
    assert layers["Sampled points"]["authid"] == "EPSG:4326"
    assert layers["Sampled points"]["crs_as_file"]
    assert layers["Polygons"]["legend"] == layers["Sampled points"]["legend"] == LEGEND


@pytest.mark.qgis
def test_qgis_opens_a_scene_in_a_zip_file(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    paths = write_maps(made, GEOREFERENCES["projected"])
    with zipfile.ZipFile(made / "scenes.zip", "w") as archive:
        archive.write(paths["scene"], "deep/scene.tif")
    layers = [scene_layer(f"/vsizip/{made}/scenes.zip/deep/scene.tif", STYLE)]
    write_project(made / "map.qgz", layers, title="Map", crs=UTM)
    paths["scene"].unlink()
    moved = made.rename(tmp_path / "moved")
    (report,) = open_in_qgis([{"project": str(moved / "map.qgz")}], tmp_path)
    assert report["layers"]["Scene (scene)"]["valid"]
