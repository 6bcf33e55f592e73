"""Labelled polygons: any CRS and format, their order, and wrong ones."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from folder_files import NAIP, burnt, centres, cut, draw, expect, read, write, write_classes
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

from geodeform.training.datasets.base import DatasetOptions
from geodeform.training.datasets.folder import FolderScenes, rasters

SORTED = ["bare", "grass", "wood"]


def test_polygons_on_a_rotated_grid_later_ones_win(rotated):
    polygons = draw(rotated / "images/a.tif")
    polygons.to_file(rotated / "labels.gpkg")
    dataset = FolderScenes(rotated)
    assert dataset.items == ("a",)
    assert dataset.classes.names == tuple(SORTED)
    assert dataset.files("a") == (rotated / "images/a.tif", rotated / "labels.gpkg")
    expected = burnt(
        rotated / "images/a.tif", polygons, [SORTED.index(k) for k in polygons["class"]], 255
    )
    assert len(np.unique(expected)) == 4
    assert np.array_equal(dataset.load("a").labels, expected)
    backwards = polygons.iloc[::-1]
    backwards.to_file(rotated / "labels.gpkg")
    assert not np.array_equal(FolderScenes(rotated).load("a").labels, expected)


@pytest.mark.parametrize("block_bytes", [64 << 20, 30_000])
@pytest.mark.parametrize(
    ("suffix", "crs"),
    [
        ("gpkg", 4326),
        ("parquet", 3857),
        ("fgb", "ESRI:102008"),
        ("geojson", 4326),
        ("shp", 32613),
    ],
)
def test_polygons_of_any_crs_and_format(rotated, monkeypatch, suffix, crs, block_bytes):
    monkeypatch.setattr(rasters, "BLOCK_BYTES", block_bytes)
    polygons = draw(rotated / "images/a.tif")
    (rotated / "labels").mkdir()
    path = rotated / f"labels/areas.{suffix}"
    moved = polygons.to_crs(crs)
    moved.to_parquet(path) if suffix == "parquet" else moved.to_file(path)
    dataset = FolderScenes(rotated)
    if suffix == "fgb":  # its spatial index sorts the polygons
        polygons = gpd.read_file(path).to_crs(polygons.crs)
    expected = burnt(
        rotated / "images/a.tif", polygons, [SORTED.index(k) for k in polygons["class"]], 255
    )
    # formats with seven decimals of a degree move edges by a centimetre
    assert (dataset.load("a").labels != expected).sum() <= 5
    assert all(file.is_file() for file in dataset.files("a"))
    assert len(dataset.files("a")) == (6 if suffix == "shp" else 2)


def test_a_polygon_around_the_world_has_curved_edges_and_no_corners_here(shared_data, tmp_path):
    # a parallel of latitude is curved in UTM: here by two pixels
    coarse = Affine(2000, 0, 340000, 0, -2000, 5300000)
    cut(shared_data / NAIP, tmp_path / "images/a.tif", Window(100, 100, 160, 140), transform=coarse)
    middle = centres(tmp_path / "images/a.tif", "EPSG:4326")[1].mean()
    halves = [shapely.box(-180, middle, 180, 90), shapely.box(-180, -90, 180, middle)]
    gpd.GeoDataFrame({"class": ["north", "south"]}, geometry=halves, crs=4326).to_file(
        tmp_path / "labels.gpkg"
    )
    labels = FolderScenes(tmp_path).load("a").labels
    _, latitude = centres(tmp_path / "images/a.tif", "EPSG:4326")
    assert np.array_equal(labels, np.where(latitude > middle, 0, 1))


def test_images_across_the_180th_meridian(tmp_path):
    crs, transform = CRS.from_epsg(32601), Affine(2000, 0, 100000, 0, -2000, 200000)
    (tmp_path / "images").mkdir()
    scene_file(
        tmp_path / "images/a.tif", np.ones((3, 80, 60), np.uint8), crs=crs, transform=transform
    )
    lon, lat = centres(tmp_path / "images/a.tif", "EPSG:4326")
    assert lon.min() < -179 or lon.max() > 179
    sides = [shapely.box(179, -2, 180, 3), shapely.box(-180, -2, -179, 3)]
    gpd.GeoDataFrame({"class": ["east", "west"]}, geometry=sides, crs=4326).to_file(
        tmp_path / "labels.gpkg"
    )
    labels = FolderScenes(tmp_path).load("a").labels
    expected = np.where(lon > 179, 0, np.where(lon < -179, 1, 255))
    assert set(np.unique(expected)) >= {0, 1}
    inside = (lat > -1.99) & (lat < 2.99)
    assert np.array_equal(labels[inside], expected[inside])


def test_images_at_a_pole(tmp_path):
    (tmp_path / "images").mkdir()
    transform = Affine(1000, 0, -2e4, 0, -1000, 3e4)
    scene_file(
        tmp_path / "images/a.tif", np.ones((3, 50, 60), np.uint8), crs=3413, transform=transform
    )
    halves = [shapely.box(-180, -90, 180, 90), shapely.box(0, 60, 180, 90)]
    gpd.GeoDataFrame({"class": ["all", "east"]}, geometry=halves, crs=4326).to_file(
        tmp_path / "labels.gpkg"
    )
    lon, _ = centres(tmp_path / "images/a.tif", "EPSG:4326")
    labels = FolderScenes(tmp_path).load("a").labels
    clear = np.minimum(np.abs(lon), 180 - np.abs(lon)) > 2  # not on the border
    assert np.array_equal(labels[clear], (lon > 0)[clear])
    assert (labels != 255).all()


def test_ids_background_and_ignored_polygons(rotated, caplog):
    polygons = draw(rotated / "images/a.tif", column="code")
    numbers = {"wood": 7, "bare": 2, "grass": 99}
    polygons["code"] = [numbers[name] for name in polygons["code"]]
    polygons.to_file(rotated / "labels.gpkg")
    write_classes(
        rotated, "id;name;ignore;background\n7;wood;;\n0;rest;no;yes\n2;bare;;\n99;?;1;\n"
    )
    dataset = FolderScenes(rotated, DatasetOptions(label_column="code"))
    assert dataset.classes.names == ("rest", "bare", "wood")  # by their ids
    assert dataset.items == ("a",)
    assert "no polygon touches 1 of 2 images, which are left out: b." in caplog.text
    classes = [{7: 2, 2: 1, 99: 255}[code] for code in polygons["code"]]
    expected = burnt(rotated / "images/a.tif", polygons, classes, 0)
    assert np.array_equal(dataset.load("a").labels, expected)
    assert rotated / "classes.csv" in dataset.files("a")
    (rotated / "classes.csv").unlink()
    plain = FolderScenes(rotated, DatasetOptions(label_column="code"))
    assert plain.classes.names == ("class 2", "class 7", "class 99")
    classes = [{7: 1, 2: 0, 99: 2}[code] for code in polygons["code"]]
    expected = burnt(rotated / "images/a.tif", polygons, classes, 255)
    assert np.array_equal(plain.load("a").labels, expected)


def test_numbers_with_gaps_and_labels_that_are_missing(rotated):
    polygons = draw(rotated / "images/a.tif", n=4)
    polygons["class"] = gpd.pd.array([4, 4, 11, 4], dtype="Int64")
    polygons.to_parquet(rotated / "labels.parquet")
    assert FolderScenes(rotated).classes.names == ("class 4", "class 11")
    polygons["class"] = [4.0, 4.0, 11.0, 2.5]
    polygons.to_parquet(rotated / "labels.parquet")
    assert FolderScenes(rotated).classes.names == ("11", "2.5", "4")
    for values in (gpd.pd.array([4, 4, None, 4], dtype="Int64"), [4, 4, np.nan, 4], [*"aa ", "b"]):
        polygons["class"] = values
        polygons.to_parquet(rotated / "labels.parquet")
        expect("labels.parquet, row 3, column 'class' is empty; give the polygon a class", rotated)


def test_crossing_outlines_and_rows_without_geometry(rotated):
    x, y = centres(rotated / "images/b.tif")
    left, right, low, high = x.min(), x.max(), y.min(), y.max()
    bow = shapely.Polygon([(left, low), (right, high), (right, low), (left, high)])
    assert not bow.is_valid
    frame = gpd.GeoDataFrame({"class": ["t", None, "u"]}, geometry=[bow, None, bow], crs=26914)
    for crs in (26914, 3857):
        frame.to_crs(crs).to_file(rotated / "labels.gpkg")
        labels = FolderScenes(rotated).load("b").labels
        assert labels[60, 5] == labels[60, -5] == 1
        assert labels[5, 75] == labels[-5, 75] == 255
        assert 0.45 < (labels == 1).mean() < 0.55


def test_wrong_polygons(rotated):
    good = draw(rotated / "images/a.tif")
    path = rotated / "labels.gpkg"

    def saved(frame, **options):
        path.unlink(missing_ok=True)
        frame.to_file(path, **options)

    saved(good.rename(columns={"class": "klass"}))
    expect(f"{path} has no column 'class' (did you mean 'klass'?) that could hold the", rotated)
    expect(
        "choose with data.label_column: it has klass, note.",
        rotated,
        DatasetOptions(label_column="kind"),
    )
    saved(good.assign(**{"class": [None, *good["class"][1:]]}))
    expect(f"{path}, row 1, column 'class' is empty; give the polygon a class, or delete", rotated)
    saved(good.iloc[:0])
    expect(f"{path} holds no polygon; draw some", rotated)
    lines = good.geometry.where(good.index != 3, good.geometry.boundary)
    saved(good.set_geometry(lines))
    expect(f"{path} holds a MultiLineString in row 4; keep polygons only", rotated)
    saved(good)
    good.to_file(path, layer="second")
    expect("it has 2 layers with geometries (labels, second); keep the one", rotated)
    path.write_bytes(b"no database")
    expect(f"{path} cannot be read as polygons (", rotated)
    path.unlink()
    parquet = path.with_suffix(".parquet")
    parquet.write_bytes(b"PAR1")
    expect(f"{parquet} cannot be read as polygons (", rotated)
    parquet.unlink()
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        good.set_crs(None, allow_override=True).to_file(path.with_suffix(".fgb"))
    expect("labels.fgb has no CRS, so its polygons lie nowhere; give it one", rotated)
    path.with_suffix(".fgb").unlink()
    saved(good.translate(1e6).to_frame("geometry").assign(**{"class": "x"}))
    expect(f"No polygon touches any image of {rotated} (a, b); check that the CRS", rotated)
    saved(good)
    write_classes(rotated, "name\nwoods\nbare\ngrass\n")
    expect(
        "column 'class', has the class 'wood', which is not listed in "
        f"{rotated / 'classes.csv'} (did you mean 'woods'?); listed are woods, bare, grass.",
        rotated,
    )


def test_polygons_need_images_with_a_crs(rotated):
    draw(rotated / "images/a.tif").to_file(rotated / "labels.gpkg")
    pixels = read(rotated / "images/b.tif")
    write(rotated / "images/b.tif", pixels)
    expect(f"{rotated / 'images/b.tif'} has no CRS, so the polygons of labels.gpkg cannot", rotated)
