"""The user's own folder: bands, scaling, blocks, split."""

from __future__ import annotations

import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from folder_files import LANDSAT, NAIP, cut, draw, expect, greenness, ids_to_classes, read, write
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from geodeform.errors import DatasetError
from geodeform.geo.scene import Scaling, Scene
from geodeform.training.datasets.base import DatasetOptions
from geodeform.training.datasets.folder import FolderScenes, rasters


def test_houston_as_it_is(shared_data, caplog):
    root = shared_data / "houston_uav"
    dataset = FolderScenes(root)
    assert dataset.items == ("6435", "6704")
    assert dataset.bands == ("red", "green", "blue")
    with Image.open(root / "masks/6435.png") as mask:
        ids = np.asarray(mask)
    found = (0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 14, 16, 22, 24, 26)  # in both masks
    assert dataset.classes.names == tuple(f"class {k}" for k in found)
    assert f"Nothing says what the ids in {root / 'masks'} mean" in caplog.text
    assert dataset.gsd_m is None  # one was flown twice as high as the other
    assert "of 0.0162 m (6435) to 0.032" in caplog.text
    scene = dataset.load("6435")
    assert scene.name == "6435"
    assert np.array_equal(scene.image, np.moveaxis(read(root / "images/6435.tif"), 0, -1))
    assert np.array_equal(scene.labels, ids_to_classes(ids, found))
    split = dataset.split()
    assert {split.train, split.val} == {("6435",), ("6704",)}
    assert dataset.split(["6704"]).val == ("6704",)
    assert dataset.published_split() is None
    assert dataset.files("6704") == (root / "images/6704.tif", root / "masks/6704.png")


def test_sixteen_bits_are_scaled_as_for_a_map(shared_data, tmp_path):
    window = Window(900, 700, 300, 260)
    raw = cut(shared_data / LANDSAT, tmp_path / "images/l.tif", window)
    mask = (raw[2] > np.median(raw[2])).astype(np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/l.png")
    scene = FolderScenes(tmp_path).load("l")
    low, high = np.percentile(raw.reshape(3, -1), [2, 98], axis=1)
    expected = 255 * (raw - low[:, None, None]) / (high - low)[:, None, None]
    assert np.abs(scene.image - np.moveaxis(expected.clip(0, 255), 0, -1)).max() <= 0.51
    with Scene.open(tmp_path / "images/l.tif", want=("band 1", "band 2", "band 3")) as same:
        values, _ = same.read(Window(0, 0, 300, 260))
        fed = Scaling.for_scene(same, 255.0, "auto").apply(values)
    assert np.array_equal(scene.image, np.moveaxis(np.rint(255 * fed), 0, -1))
    assert np.array_equal(scene.labels, mask)


def test_pixels_without_data_are_unknown(shared_data, tmp_path):
    raw = cut(shared_data / LANDSAT, tmp_path / "images/edge.tif", Window(100, 100, 300, 200))
    empty = (raw == 0).all(axis=0)
    assert 0.05 < empty.mean() < 0.9
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full(empty.shape, 1, np.uint8)).save(tmp_path / "masks/edge.png")
    assert (FolderScenes(tmp_path).load("edge").labels == 0).all()
    labels = FolderScenes(tmp_path, DatasetOptions(nodata=0)).load("edge").labels
    assert np.array_equal(labels == 255, empty)


def test_blocks_of_rows_give_the_same_and_bound_memory(shared_data, tmp_path, monkeypatch):
    # blocks of the real size first
    raw = cut(shared_data / LANDSAT, tmp_path / "images/l.tif", Window(400, 300, 1200, 1000))
    mask = (raw[1] > np.median(raw[1])).astype(np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/l.png")
    whole = FolderScenes(tmp_path).load("l")
    monkeypatch.setattr(rasters, "BLOCK_BYTES", 1 << 20)
    dataset = FolderScenes(tmp_path)
    dataset.load("l")  # imports and percentiles
    tracemalloc.start()
    scene = dataset.load("l")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(scene.image, whole.image)
    assert np.array_equal(scene.labels, whole.labels)
    result = scene.image.nbytes + scene.labels.nbytes
    assert result == 4 * 1200 * 1000
    assert peak < 2.5 * result  # all of it as float32 would be 3 times more


def test_all_bands_or_chosen_ones(naip):
    dataset = FolderScenes(naip)
    assert dataset.bands == ("band 1", "band 2", "band 3", "band 4")
    assert dataset.gsd_m == pytest.approx(5)
    scene = dataset.load("a")
    pixels = read(naip / "images/a.tif")
    assert (pixels != 0).any(axis=0).all()  # no nodata here
    assert np.array_equal(scene.image, np.moveaxis(pixels, 0, -1))
    assert np.array_equal(scene.labels, ids_to_classes(greenness(pixels)))
    assert dataset.classes.names == ("bare", "grass", "wood")
    assert dataset.classes.colours[0] == (0xAA, 0x55, 0)
    chosen = FolderScenes(naip, DatasetOptions(bands=(4, 1, 1)))
    assert chosen.bands == ("band 4", "band 1 (2)", "band 1 (3)")
    assert np.array_equal(chosen.load("a").image, np.moveaxis(pixels[[3, 0, 0]], 0, -1))


def test_bands_are_found_by_what_files_say(naip):
    orders = {"a": ("blue", "green", "red", "nir"), "b": ("nir", "red", "green", "blue")}
    numbers = {"red": 0, "green": 1, "blue": 2, "nir": 3}
    kinds = {name: ColorInterp[name] for name in ("red", "green", "blue")}
    pixels = {}
    for name, order in orders.items():
        path = naip / f"images/{name}.tif"
        with rasterio.open(path, "r+") as image:
            pixels[name] = image.read()
            image.write(pixels[name][[numbers[colour] for colour in order]])
            image.colorinterp = [kinds.get(colour, ColorInterp.undefined) for colour in order]
            image.descriptions = [colour if colour == "nir" else None for colour in order]
    dataset = FolderScenes(naip)
    assert dataset.bands == ("red", "green", "blue", "nir")
    for name in orders:
        assert np.array_equal(dataset.load(name).image, np.moveaxis(pixels[name], 0, -1))


def test_bands_that_cannot_be_found_again_stay_in_file_order(naip):
    for name in "ab":
        with rasterio.open(naip / f"images/{name}.tif", "r+") as image:
            image.descriptions = ("Blue", "B03", "B04", "Blue")
    dataset = FolderScenes(naip)
    assert dataset.bands == ("blue (1)", "green", "red", "Blue (4)")
    assert np.array_equal(dataset.load("b").image, np.moveaxis(read(naip / "images/b.tif"), 0, -1))


def test_images_whose_bands_have_no_names_are_warned_of(naip, caplog):
    with rasterio.open(naip / "images/a.tif", "r+") as image:
        image.descriptions = ("red", "green", "blue", "nir")
    dataset = FolderScenes(naip)
    assert dataset.bands == ("red", "green", "blue", "nir")
    assert "Bands of b are taken in file order, as nothing says which are red, green" in caplog.text


def test_palette_images_are_read_as_colours(shared_data, tmp_path):
    with Image.open(shared_data / "houston_uav/images/6704.tif") as source:
        picture = source.crop((1000, 1000, 1100, 1080)).quantize(32)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "images/p.png")
    picture.convert("RGB").save(tmp_path / "images/rgb.png")
    for name in ("p", "rgb"):
        Image.fromarray(np.eye(80, 100, dtype=np.uint8)).save(tmp_path / f"masks/{name}.png")
    dataset = FolderScenes(tmp_path)
    assert dataset.bands == ("red", "green", "blue")
    for name in ("p", "rgb"):
        assert np.array_equal(dataset.load(name).image, np.asarray(picture.convert("RGB")))


def test_virtual_rasters_and_pictures_are_images(naip):
    expected = FolderScenes(naip).load("a")
    (naip / "sources").mkdir()
    (naip / "images/a.tif").rename(naip / "sources/a.tif")
    rasterio.shutil.copy(naip / "sources/a.tif", naip / "images/a.vrt", driver="VRT")
    dataset = FolderScenes(naip)
    assert set(dataset.files("a")) >= {naip / "images/a.vrt", naip / "sources/a.tif"}
    assert np.array_equal(dataset.load("a").image, expected.image)
    for path in naip.glob("*/b.*"):
        path.unlink()
    (naip / "images/a.vrt").unlink()
    Image.fromarray(expected.image[..., :3]).save(naip / "images/a.png")
    dataset = FolderScenes(naip)  # without georeference; the mask is of its size
    assert np.array_equal(dataset.load("a").image, expected.image[..., :3])
    assert np.array_equal(dataset.load("a").labels, expected.labels)


def test_items_load_in_threads(naip):
    dataset = FolderScenes(naip)
    expected = {item: dataset.load(item) for item in dataset.items}
    fresh = FolderScenes(naip)
    with ThreadPoolExecutor(4) as pool:
        for scene in pool.map(fresh.load, ["a", "b"] * 6):
            assert np.array_equal(scene.image, expected[scene.name].image)
            assert np.array_equal(scene.labels, expected[scene.name].labels)


def test_twenty_percent_are_held_out_and_one_image_cannot_be(naip):
    for k in range(8):
        for kind in ("images", "masks"):
            shutil.copy(naip / kind / "a.tif", naip / kind / f"c{k}.tif")
    split = FolderScenes(naip).split(seed=1)
    assert (len(split.train), len(split.val), len(split.test)) == (8, 2, 0)
    for path in [*naip.glob("*/c*.tif"), *naip.glob("*/b.tif")]:
        path.unlink()
    alone = FolderScenes(naip)
    assert alone.load("a").labels.shape == (120, 150)
    for val_items in ((), ("a",)):
        with pytest.raises(DatasetError, match=r"one labelled image only, a, .*; add an image"):
            alone.split(val_items)


def test_wrong_images(naip, shared_data):
    path = naip / "images/b.tif"
    size = path.stat().st_size
    intact = path.read_bytes()
    path.write_bytes(intact[: size // 2])
    expect(f"{path} cannot be read at rows", naip)
    path.write_bytes(b"no raster")
    expect(f"{path} is not a raster that GDAL can read", naip)
    path.unlink()
    cut(shared_data / NAIP, path, Window(500, 300, 160, 130), indexes=[1, 2, 3])
    expect(f"{path} has 3 bands, but the first image a.tif has 4; give all images the same", naip)
    assert FolderScenes(naip, DatasetOptions(bands=(3, 1))).bands == ("band 3", "band 1")
    expect(f"{path} has 3 bands", naip, DatasetOptions(bands=(4, 1)))


def test_masks_here_and_polygons_there_need_a_file_of_classes(naip, tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    shutil.copytree(naip / "images", root / "train/images")
    shutil.copytree(naip / "masks", root / "train/masks")
    shutil.copytree(naip / "images", root / "val/images")
    draw(naip / "images/a.tif").to_file(root / "val/labels.gpkg")
    expect(f"{root} has masks in one part and polygons in another; list their classes in", root)
    shutil.copy(naip / "classes.csv", root)
    dataset = FolderScenes(root)
    assert dataset.items == ("train/a", "train/b", "val/a")
    assert set(np.unique(dataset.load("val/a").labels)) == {0, 1, 2, 255}


def test_images_that_do_not_say_their_resolution(naip, caplog):
    for name in "ab":
        pixels = read(naip / f"images/{name}.tif")
        write(naip / f"images/{name}.tif", pixels)
    assert FolderScenes(naip).gsd_m is None
    assert "says how large its pixels are on the ground" in caplog.text
