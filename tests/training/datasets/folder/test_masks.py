"""Masks: warped, coloured, of any type, and wrong ones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
from folder_files import (
    IDS,
    NAIP,
    ROTATED,
    centres,
    cut,
    expect,
    greenness,
    ids_to_classes,
    read,
    with_points,
    write_classes,
)
from PIL import Image
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

from geodeform.errors import DatasetError
from geodeform.training.datasets.folder import FolderScenes


def nearest(path: Path, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of a raster's band 1 at points of its CRS; 255 outside."""
    with rasterio.open(path) as raster:
        values, t = raster.read(1), ~raster.transform
    col = np.floor(t.a * x + t.b * y + t.c).astype(int)
    row = np.floor(t.d * x + t.e * y + t.f).astype(int)
    inside = (col >= 0) & (col < values.shape[1]) & (row >= 0) & (row < values.shape[0])
    return np.where(
        inside, values[row.clip(0, values.shape[0] - 1), col.clip(0, values.shape[1] - 1)], 255
    )


@pytest.mark.parametrize(
    ("crs", "resampled"),
    [
        ("EPSG:26914", Affine(7, 0, 486390, 0, -6, 5208790)),
        ("EPSG:4326", Affine(0.00007, 0, -99.183, 0, -0.00005, 47.034)),
        (
            "EPSG:3857",
            Affine.translation(-11041000, 5951800) * Affine.rotation(-40) * Affine.scale(9),
        ),
    ],
)
@pytest.mark.parametrize(("rotated", "nodata"), [(False, 40), (True, 40), (True, None)])
def test_masks_of_another_grid_are_warped(shared_data, tmp_path, crs, resampled, rotated, nodata):
    frame = {"transform": ROTATED} if rotated else {}
    window = Window(100, 100, 160, 140)
    pixels = cut(shared_data / NAIP, tmp_path / "images/a.tif", window, **frame)
    ids = greenness(pixels)[:110, :120].copy()
    (tmp_path / "masks").mkdir()
    x, y = centres(tmp_path / "images/a.tif", crs)
    # pixel (40, 50) in the image's middle: the mask ends within the image
    t = Affine(*resampled[:2], 0, *resampled[3:5], 0)
    corner = (t.a * 40 + t.b * 50, t.d * 40 + t.e * 50)
    transform = Affine(t.a, t.b, x.mean() - corner[0], t.d, t.e, y.mean() - corner[1])
    placed = {"crs": crs, "transform": transform}
    if nodata is not None:
        placed["nodata"] = nodata
    ids[ids == 10] = 0  # what GDAL fills with, and a class here
    mask = scene_file(tmp_path / "masks/a.tif", ids[None], **placed)
    write_classes(tmp_path, "id,name\n3,bare\n0,grass\n40,wood\n")
    labels = FolderScenes(tmp_path).load("a").labels
    expected = ids_to_classes(nearest(mask, x, y), (0, 3) if nodata else (0, 3, 40))
    assert 0.3 < (expected != 255).mean() < 0.95
    assert (labels != expected).sum() <= 3  # centres on a pixel edge, to the last bit


def test_a_mask_shifted_by_half_a_pixel_is_warped_one_by_a_hair_is_not(naip):
    path = naip / "masks/a.tif"
    expected = FolderScenes(naip).load("a").labels
    with rasterio.open(path, "r+") as mask:
        mask.transform = mask.transform * Affine.translation(0.001, -0.001)
    assert np.array_equal(FolderScenes(naip).load("a").labels, expected)
    with rasterio.open(path, "r+") as mask:
        mask.transform = mask.transform * Affine.translation(0.55, 0)
    labels = FolderScenes(naip).load("a").labels
    assert np.array_equal(labels[:, 1:], expected[:, :-1])
    assert (labels[:, 0] == 255).all()


def test_coloured_masks_and_masks_with_alpha_are_warped(naip):
    rows = [("bare", 170, 85, 0), ("grass", 0, 255, 0), ("wood", 0, 100, 0)]
    table = np.zeros((256, 3), np.uint8)
    for number, (_, *colour) in zip(IDS, rows, strict=True):
        table[number] = colour
    expected = FolderScenes(naip).load("a").labels
    (naip / "classes.csv").unlink()
    with (naip / "class_dict.csv").open("w") as file:
        csv.writer(file).writerows([("name", "r", "g", "b"), *rows])
    for name in "ab":
        path = naip / f"masks/{name}.tif"
        with rasterio.open(path) as mask:
            ids, profile = mask.read(1), mask.profile
        alpha = np.full(ids.shape, 255, np.uint8)
        alpha[:20] = 0
        planes = np.concatenate([np.moveaxis(table[ids], -1, 0), alpha[None]])
        profile.update(count=4, nodata=None, photometric="RGB", alpha="YES")
        profile["transform"] = profile["transform"] * Affine.translation(2, 0)
        with rasterio.open(path, "w", **profile) as mask:
            mask.write(planes)
    dataset = FolderScenes(naip)
    assert dataset.classes.names == ("bare", "grass", "wood")
    labels = dataset.load("a").labels
    assert np.array_equal(labels[20:, 2:], expected[20:, :-2])
    assert (labels[:20] == 255).all()
    assert (labels[:, :2] == 255).all()


def test_masks_with_a_world_file_are_in_the_crs_of_their_image(naip):
    expected = FolderScenes(naip).load("a").labels
    with rasterio.open(naip / "masks/a.tif") as mask:
        ids, t = mask.read(1), mask.transform * Affine.translation(20, 10)
    (naip / "masks/a.tif").unlink()
    Image.fromarray(ids[10:, 20:]).save(naip / "masks/a.png")
    centre = t * Affine.translation(0.5, 0.5)
    lines = (t.a, t.d, t.b, t.e, centre.c, centre.f)
    (naip / "masks/a.pgw").write_text("\n".join(map(str, lines)))
    labels = FolderScenes(naip).load("a").labels
    assert np.array_equal(labels[10:, 20:], expected[10:, 20:])
    assert (labels[:10] == 255).all()


def test_a_mask_elsewhere_is_warned_of(naip, caplog):
    with rasterio.open(naip / "masks/a.tif", "r+") as mask:
        mask.transform = mask.transform * Affine.translation(5000, 0)
    labels = FolderScenes(naip).load("a").labels
    assert (labels == 255).all()
    assert f"no pixel has a label; check that {naip / 'masks/a.tif'} lies where" in caplog.text


def test_images_with_ground_control_points_take_georeferenced_masks_and_polygons(naip):
    expected = FolderScenes(naip).load("a").labels
    with_points(naip / "images/a.tif")
    with rasterio.open(naip / "masks/a.tif", "r+") as mask:
        mask.transform = mask.transform * Affine.translation(3, 2)
    assert np.array_equal(FolderScenes(naip).load("a").labels[2:, 3:], expected[:-2, :-3])


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32"])
def test_ids_of_any_type(naip, dtype):
    expected = FolderScenes(naip).load("a").labels.copy()
    path = naip / "masks/a.tif"
    large = {3: 0, 10: 111, 40: 30000}
    ids = np.vectorize(large.get)(read(path, 1)).astype(dtype)
    ids[:5] = 255
    ids[5:10] = 77
    if dtype == "float32":
        ids[10:15] = np.nan
    with rasterio.open(path) as mask:
        profile = {**mask.profile, "dtype": dtype, "nodata": 77}
    for folder in ("images", "masks"):
        (naip / folder / "b.tif").unlink()
    with rasterio.open(path, "w", **profile) as mask:
        mask.write(ids, 1)
    write_classes(naip, "id,name\n30000,wood\n0,bare\n111,grass\n")
    expected[: 15 if dtype == "float32" else 10] = 255
    dataset = FolderScenes(naip)
    assert dataset.classes.names == ("bare", "grass", "wood")
    assert np.array_equal(dataset.load("a").labels, expected)
    (naip / "classes.csv").unlink()
    dataset = FolderScenes(naip)
    assert dataset.classes.names == ("class 0", "class 111", "class 30000")
    assert np.array_equal(dataset.load("a").labels, expected)


def test_255_is_a_class_only_where_it_is_listed(naip, caplog):
    for name in "ab":
        with rasterio.open(naip / f"masks/{name}.tif") as mask:
            profile = {**mask.profile, "nodata": None}
            ids = np.where(mask.read(1) == 40, 255, 0).astype(np.uint8)
        with rasterio.open(naip / f"masks/{name}.tif", "w", **profile) as mask:
            mask.write(ids, 1)
    write_classes(naip, "id,name\n0,other\n255,wood\n")
    wood = read(naip / "masks/a.tif", 1) == 255
    assert np.array_equal(FolderScenes(naip).load("a").labels, wood.astype(np.uint8))
    (naip / "classes.csv").unlink()
    dataset = FolderScenes(naip)
    assert dataset.classes.names == ("class 0",)
    assert np.array_equal(dataset.load("a").labels, np.where(wood, 255, 0))
    assert "'class 0' is the only class, so there is nothing to tell apart" in caplog.text


def test_wrong_masks(naip):
    path = naip / "masks/a.tif"
    intact = path.read_bytes()
    with rasterio.open(path) as mask:
        profile, ids = mask.profile, mask.read(1)

    def rewrite(pixels, **changes):
        with rasterio.open(
            path, "w", **{**profile, "count": len(pixels), "dtype": pixels.dtype, **changes}
        ) as out:
            out.write(pixels)

    with rasterio.open(path, "r+") as mask:
        mask.write(np.where(ids == 40, 41, ids), 1)
    expect(
        f"{path} has pixels of the unlisted id 41; list it in {naip / 'classes.csv'}, as a", naip
    )
    with rasterio.open(path, "r+") as mask:
        mask.transform = mask.transform * Affine.translation(3, 3)
    with pytest.raises(DatasetError, match=rf"^{path} has pixels of the unlisted id 41; list"):
        FolderScenes(naip).load("a")
    rewrite(np.stack([ids] * 2))
    expect(f"{path} has 2 bands; a mask has one band of ids, or red, green and blue", naip)
    rewrite(np.stack([ids] * 3))
    expect(f"{path} is a coloured mask, but the class 'grass' has no colour in", naip)
    rewrite(np.stack([ids] * 3).astype(np.uint16))
    expect(f"{path} holds uint16 values in 3 bands; save ids as whole numbers", naip)
    rewrite(ids[None] + np.float32(0.5), nodata=None)
    expect(f"{path} holds 3.5 where a whole number, the id of a class, is", naip)
    path.write_bytes(intact[:200])
    expect(f"{path} cannot be read (", naip)
    path.unlink()
    Image.fromarray(ids[:-1]).save(path.with_suffix(".png"))
    expect(
        f"{path.with_suffix('.png')} is 150 x 119 px but its image is 150 x 120 px, and without",
        naip,
    )


def test_wrong_colours(naip):
    write_classes(naip, "name,r,g,b\nbare,3,3,3\ngrass,10,10,10\nwood,40,40,40\n")
    for name in "ab":
        ids = read(naip / f"masks/{name}.tif", 1)
        (naip / f"masks/{name}.tif").unlink()
        Image.fromarray(np.stack([ids] * 3, -1)).save(naip / f"masks/{name}.png")
    assert set(np.unique(FolderScenes(naip).load("b").labels)) == {0, 1, 2}
    path = naip / "masks/b.png"
    Image.fromarray(np.stack([ids + 1] * 3, -1)).save(path)
    expect(f"{path} has 20800 pixels of unlisted colours such as #", naip)
    Image.fromarray(ids).save(path)
    expect(f"{path} holds one band of ids, but its classes have colours only; add a column", naip)
    (naip / "classes.csv").unlink()
    expect(f"{naip / 'masks/a.png'} is a coloured mask, but nothing says what its colours", naip)
