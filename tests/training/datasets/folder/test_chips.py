"""The folder for torchgeo's samplers."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
from folder_files import (
    LANDSAT,
    NAIP,
    cut,
    draw,
    greenness,
    read,
    with_points,
    write,
    write_classes,
)
from PIL import Image
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import DatasetOptions
from geodeform.training.datasets.folder import FolderScenes, torchgeo_dataset

# torchgeo 0.10 changes its index in place, which pandas 3.1 deprecates, and renames its samplers
from_torchgeo = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in GeoDataFrame",
    "ignore:Use (torchgeo|geopandas):DeprecationWarning",
)


def test_importing_the_module_imports_neither_torch_nor_torchgeo():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchgeo'] = None\n"
        "import geodeform.training.datasets.folder"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def chips_are_what_load_returns(dataset, scenes, queries, size):
    """Compare torchgeo's chips with the loaded items; return how many pixels were compared."""
    compared = 0
    loaded = {item: scenes.load(item) for item in scenes.items}
    for query in queries:
        sample = dataset[query]
        x, y = query[0], query[1]
        assert sample["image"].shape[-2:] == sample["mask"].shape == (size, size)
        for item, scene in loaded.items():
            with rasterio.open(scenes.image_path(item)) as image:
                t = image.transform
            left, top = round((x.start - t.c) / t.a), round((y.stop - t.f) / t.e)
            H, W = scene.labels.shape
            rows = slice(max(top, 0), min(top + size, H))
            cols = slice(max(left, 0), min(left + size, W))
            if rows.start >= rows.stop or cols.start >= cols.stop:
                continue
            here = (
                slice(rows.start - top, rows.stop - top),
                slice(cols.start - left, cols.stop - left),
            )
            labels = sample["mask"].numpy()[here]
            pixels = sample["image"].numpy()[:, here[0], here[1]]
            assert np.array_equal(labels, scene.labels[rows, cols])
            assert np.array_equal(pixels, np.moveaxis(scene.image[rows, cols], -1, 0))
            outside = np.ones((size, size), bool)
            outside[here] = False
            assert (sample["mask"].numpy()[outside] == 255).all()
            assert (sample["image"].numpy()[:, outside] == 0).all()
            compared += labels.size
    return compared


@pytest.fixture
def houston(shared_data, tmp_path):
    """Cuts of Houston as it is: pixels that are not square, masks without georeference."""
    for name, left, top in (("6435", 900, 700), ("6704", 1500, 1200)):
        window = Window(left, top, 150, 110)
        cut(shared_data / f"houston_uav/images/{name}.tif", tmp_path / f"images/{name}.tif", window)
        (tmp_path / "masks").mkdir(exist_ok=True)
        with Image.open(shared_data / f"houston_uav/masks/{name}.png") as mask:
            mask.crop((left, top, left + 150, top + 110)).save(tmp_path / f"masks/{name}.png")
    return tmp_path


@from_torchgeo
@pytest.mark.parametrize("kind", ["masks", "sixteen bits", "polygons"])
def test_torchgeo_samplers_see_what_load_returns(kind, shared_data, naip, tmp_path_factory):
    from torch import Generator, float32, int64
    from torchgeo.datasets import IntersectionDataset, RasterDataset
    from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

    root, options = naip, None
    if kind == "sixteen bits":
        root, options = tmp_path_factory.mktemp("landsat"), DatasetOptions(nodata=0)
        (root / "masks").mkdir()
        for name, left in (("a", 700), ("b", 1000)):
            raw = cut(
                shared_data / LANDSAT, root / f"images/{name}.tif", Window(left, 500, 140, 120)
            )
            mask = (raw[1] > np.median(raw[1])).astype(np.uint8) * 7
            Image.fromarray(mask).save(root / f"masks/{name}.png")  # no georeference
    if kind == "polygons":
        shutil.rmtree(naip / "masks")
        polygons = gpd.pd.concat([draw(naip / f"images/{k}.tif") for k in "ab"])
        polygons.to_crs(3857).to_file(naip / "labels.gpkg")
    dataset = torchgeo_dataset(root, options)
    assert isinstance(dataset, IntersectionDataset)
    assert all(isinstance(side, RasterDataset) for side in dataset.datasets)
    scenes = FolderScenes(root, options)
    random = list(RandomGeoSampler(dataset, 48, 20, generator=Generator().manual_seed(0)))
    assert chips_are_what_load_returns(dataset, scenes, random, 48) == 20 * 48 * 48
    grid = list(GridGeoSampler(dataset, 64, 50))
    assert len(grid) > 8
    whole = sum(scenes.load(item).labels.size for item in scenes.items)
    assert chips_are_what_load_returns(dataset, scenes, grid, 64) > whole
    sample = dataset[random[0]]
    assert sample["image"].dtype == float32
    assert sample["mask"].dtype == int64


@from_torchgeo
def test_torchgeo_dataset_of_some_items_travels_to_workers(houston):
    from torch.utils.data import DataLoader
    from torchgeo.datasets import stack_samples
    from torchgeo.samplers import GridGeoSampler

    dataset = torchgeo_dataset(houston, items=["6435"])
    assert len(dataset) == 1
    sampler = GridGeoSampler(dataset, 50)
    scenes = FolderScenes(houston)
    assert dataset.res == pytest.approx((1.6763806343078613e-07, 1.457241564422826e-07), rel=1e-12)
    queries = list(sampler)
    assert chips_are_what_load_returns(dataset, scenes, queries, 50) == 150 * 110
    copy = pickle.loads(pickle.dumps(dataset))
    assert chips_are_what_load_returns(copy, scenes, queries, 50) == 150 * 110
    loader = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=stack_samples)
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 3, 50, 50)
    assert batch["mask"].shape == (4, 50, 50)


@from_torchgeo
def test_torchgeo_chips_of_rotated_images_and_other_crs_are_warped(shared_data, tmp_path):
    cut(shared_data / NAIP, tmp_path / "images/a.tif", Window(300, 200, 150, 120))
    t = Affine.translation(951000, 5224000) * Affine.rotation(25) * Affine.scale(5, -5)
    other = {"crs": "EPSG:32613", "transform": t, "nodata": None}
    cut(shared_data / NAIP, tmp_path / "images/b.tif", Window(100, 100, 160, 140), **other)
    (tmp_path / "masks").mkdir()
    for name in "ab":
        pixels = read(tmp_path / f"images/{name}.tif")
        Image.fromarray(greenness(pixels)).save(tmp_path / f"masks/{name}.png")
    write_classes(tmp_path)
    dataset = torchgeo_dataset(tmp_path)
    change = pyproj.Transformer.from_crs(32613, 26914, always_xy=True)
    corners = [
        (t.a * c + t.b * r + t.c, t.d * c + t.e * r + t.f) for c in (0, 160) for r in (0, 140)
    ]
    x, y = change.transform(*np.transpose(corners))
    bounds = dataset.index.geometry.iloc[1].bounds
    assert bounds == pytest.approx((x.min(), y.min(), x.max(), y.max()), abs=0.5)
    n, left, top = 80, round(x.mean()) - 480.7, round(y.mean()) + 240.3
    sample = dataset[left : left + n * 5, top - n * 5 : top]
    x, y = np.meshgrid(left + 5 * (np.arange(n) + 0.5), top - 5 * (np.arange(n) + 0.5))
    x, y = pyproj.Transformer.from_crs(26914, 32613, always_xy=True).transform(x, y)
    col, row = (~t).a * x + (~t).b * y + (~t).c, (~t).d * x + (~t).e * y + (~t).f
    inside = (col >= 0) & (col < 160) & (row >= 0) & (row < 140)
    assert 0.7 < inside.mean() < 1
    col, row = np.floor(col).astype(int).clip(0, 159), np.floor(row).astype(int).clip(0, 139)
    scene = FolderScenes(tmp_path).load("b")
    expected = np.where(inside, scene.labels[row, col], 255)
    assert np.array_equal(sample["mask"].numpy(), expected)
    image = np.moveaxis(sample["image"].numpy(), 0, -1)
    assert (image % 1 != 0).mean() > 0.5  # interpolated
    error = np.abs(image - scene.image[row, col])[inside]
    spread = np.abs(scene.image[1:, 1:].astype(float) - scene.image[:-1, :-1]).mean()
    assert error.mean() < spread / 2  # nearer to its own pixel than a neighbour is


@from_torchgeo
def test_torchgeo_chips_of_another_resolution_see_beyond_their_rim(naip):
    dataset = torchgeo_dataset(naip, items=["a"])
    x, y, _ = dataset.bounds
    whole = dataset[x.start : x.start + 740 : 20, y.start : y.start + 600 : 20]["image"].numpy()
    assert whole.shape == (4, 30, 37)
    part = dataset[x.start + 200 : x.start + 400 : 20, y.start + 200 : y.start + 400 : 20]
    assert np.abs(part["image"].numpy() - whole[:, 10:20, 10:20]).max() < 1
    block = FolderScenes(naip).load("a").image[40:80, 40:80].reshape(10, 4, 10, 4, 4).mean((1, 3))
    smooth = np.moveaxis(part["image"].numpy(), 0, -1)
    assert np.abs(smooth - block).mean() < 5


@from_torchgeo
def test_torchgeo_first_image_with_data_wins_where_images_overlap(shared_data, tmp_path):
    for name, left in (("a", 0), ("b", 60)):
        raw = cut(
            shared_data / LANDSAT, tmp_path / f"images/{name}.tif", Window(left, 100, 300, 200)
        )
        mask = np.full(raw.shape[1:], 1 + (name == "b"), np.uint8)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    dataset = torchgeo_dataset(tmp_path, DatasetOptions(nodata=0))
    first, second = (FolderScenes(tmp_path, DatasetOptions(nodata=0)).load(k) for k in "ab")
    x, y, _ = dataset.bounds
    sample = dataset[x, y]
    labels, image = sample["mask"].numpy(), sample["image"].numpy()
    assert labels.shape == (200, 360)
    expected = np.full((200, 360), 255, np.uint8)
    expected[:, 60:] = second.labels
    has = first.labels != 255
    expected[:, :300][has] = first.labels[has]
    assert set(np.unique(expected)) == {0, 1, 255}
    assert np.array_equal(labels, expected)
    assert np.array_equal(image[:, :, :300][:, has], first.image[has].T)
    late = labels == 1
    assert np.array_equal(image[:, late], second.image[late[:, 60:]].T)


@from_torchgeo
def test_torchgeo_places_images_by_ground_control_points(naip):
    with_points(naip / "images/a.tif")
    dataset = torchgeo_dataset(naip, items=["a"])
    x, y, _ = dataset.bounds
    scene = FolderScenes(naip).load("a")
    sample = dataset[x, y]
    assert np.array_equal(sample["mask"].numpy(), scene.labels)
    assert np.array_equal(sample["image"].numpy(), np.moveaxis(scene.image, -1, 0))


def test_torchgeo_dataset_errors(naip):
    with pytest.raises(DatasetError, match=r"c is not in .*, which has a, b\."):
        torchgeo_dataset(naip, items=["c"])
    write(naip / "images/b.tif", read(naip / "images/b.tif"))
    with pytest.raises(DatasetError, match=r"b\.tif has no CRS, so torchgeo cannot place it"):
        torchgeo_dataset(naip)
