"""Which files belong together, and what a wrong layout is told."""

from __future__ import annotations

import shutil

import geopandas as gpd
import numpy as np
import pytest
import shapely
from folder_files import draw, expect
from PIL import Image

from geodeform.errors import DatasetError
from geodeform.training.datasets.folder import FolderScenes


def test_subfolders_are_the_split(naip, tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for part in ("train", "val", "test"):
        shutil.copytree(naip / "images", root / part / "images")
        shutil.copytree(naip / "masks", root / part / "labels")
    shutil.copy(naip / "classes.csv", root)
    dataset = FolderScenes(root)
    assert dataset.items == ("test/a", "test/b", "train/a", "train/b", "val/a", "val/b")
    split = dataset.split()
    assert split == dataset.published_split()
    assert split.train == ("train/a", "train/b")
    assert split.val == ("val/a", "val/b")
    assert split.test == ("test/a", "test/b")
    labels = FolderScenes(naip).load("b").labels
    assert np.array_equal(dataset.load("val/b").labels, labels)
    shutil.rmtree(root / "val")
    with pytest.raises(DatasetError, match=r"No item is left for validation.*data\.val_items"):
        FolderScenes(root).split()


def test_one_file_of_polygons_may_serve_all_parts(rotated, tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for part, name in (("train", "a"), ("val", "b")):
        (root / part / "images").mkdir(parents=True)
        shutil.copy(rotated / f"images/{name}.tif", root / part / "images")
    polygons = gpd.GeoDataFrame(
        gpd.pd.concat([draw(rotated / "images/a.tif"), draw(rotated / "images/b.tif")])
    )
    polygons.to_file(root / "labels.gpkg")
    dataset = FolderScenes(root)
    assert dataset.split().to_dict() == {"train": ["train/a"], "val": ["val/b"], "test": []}
    for item in dataset.items:
        assert set(np.unique(dataset.load(item).labels)) == {0, 1, 2, 255}


def test_images_and_masks_without_partner_are_left_out_and_named(naip, caplog):
    shutil.copy(naip / "images/a.tif", naip / "images/c.TIF")
    shutil.copy(naip / "masks/a.tif", naip / "masks/d.tif")
    (naip / "images/._a.tif").write_bytes(b"what a Mac leaves")
    assert FolderScenes(naip).items == ("a", "b")
    assert f"Images without mask of the same name in {naip} are left out: c." in caplog.text
    assert f"Masks without image of the same name in {naip} are left out: d." in caplog.text


def test_wrong_layouts(naip, tmp_path):
    expect("(%s is not there)" % (naip / "absent"), naip / "absent")
    images, masks = naip / "images", naip / "masks"
    (naip / "train").mkdir()
    expect("it has both images/ and train/; keep one of them", naip)
    (naip / "train").rmdir()
    images.rename(naip / "pictures")
    expect("there is neither images/ nor train/.\nExpected:\n  images/NAME.tif", naip)
    (naip / "val").mkdir()
    expect("there is val/ but no train/", naip)
    (naip / "val").rmdir()
    images.mkdir()
    expect("'images/' holds no image (.tif, .tiff", naip)
    images.rmdir()
    (naip / "pictures").rename(images)
    shutil.copytree(masks, naip / "labels")
    expect("dataset: it has labels in masks/ and in labels/; keep one of them", naip)
    shutil.rmtree(naip / "labels")
    gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(naip / "aoi.geojson")
    expect("has labels in masks/ and in aoi.geojson; keep one of them", naip)
    (naip / "aoi.geojson").unlink()
    masks.rename(naip / "annotations")
    expect("dataset: it has neither masks nor labelled polygons", naip)
    masks.mkdir()
    shutil.copy(naip / "annotations/a.tif", masks / "a_mask.tif")
    expect("no mask in 'masks/' has the name of an image (a, for example)", naip)
    (masks / "a_mask.tif").unlink()
    Image.new("L", (150, 120)).save(masks / "a.jpg")
    expect("a.jpg is a JPEG, which changes ids and colours; save masks as PNG or GeoTIFF", naip)
    shutil.copy(images / "a.tif", images / "a.tiff")
    expect("a.tiff have the same name; remove one of them", naip)
