"""Folders of real images with masks or polygons, for the tests of the folder dataset."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from rasterio.windows import Window
from scene_files import scene_file

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import DatasetOptions
from geodeform.training.datasets.folder import FolderScenes

NAIP = "scenes/naip_5m_rgbn.tif"
LANDSAT = "scenes/landsat8_foz_2020_bgr_uint16.tif"
ROTATED = Affine.translation(486400, 5208700) * Affine.rotation(25) * Affine.scale(5, -5)
IDS = (3, 10, 40)


def cut(source: Path, target: Path, window: Window, **changes) -> np.ndarray:
    """Copy a window of a real scene to a GeoTIFF and return its pixels (bands, h, w)."""
    with rasterio.open(source) as scene:
        bands = changes.pop("indexes", None) or list(scene.indexes)
        pixels = scene.read(bands, window=window)
        profile = {
            "crs": scene.crs,
            "transform": scene.window_transform(window),
            "nodata": scene.nodata,
            **changes,
        }
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, pixels, **{k: v for k, v in profile.items() if v is not None})
    return pixels


def write(path: Path, pixels: np.ndarray, **profile) -> None:
    """Write (bands, h, w) pixels of which nobody says what they are."""
    if len(pixels) > 3:  # GDAL takes the fourth of four 8-bit bands for alpha
        profile |= {"photometric": "MINISBLACK", "alpha": "UNSPECIFIED"}
    scene_file(path, pixels, **profile)


def greenness(pixels: np.ndarray) -> np.ndarray:
    """Three classes of real shapes from red and infrared, as the ids 3, 10 and 40."""
    red, infrared = pixels[0].astype(float), pixels[3].astype(float)
    index = (infrared - red) / np.maximum(infrared + red, 1)
    return np.array(IDS, np.uint8)[np.digitize(index, np.percentile(index, [35, 70]))]


def write_classes(root: Path, text: str = "id,name,colour\n3,bare,#aa5500\n10,grass,\n40,wood,\n"):
    path = root / "classes.csv"
    path.write_text(text)
    return path


def read(path: Path, band: int | None = None) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(band)


def centres(path: Path, crs: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) x and y of the pixels' centres, in the raster's CRS or another."""
    with rasterio.open(path) as raster:
        t, own, (height, width) = raster.transform, raster.crs, raster.shape
    col, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
    if crs is None:
        return x, y
    change = pyproj.Transformer.from_crs(own.to_wkt(), crs, always_xy=True)
    return change.transform(x, y)


def ids_to_classes(ids: np.ndarray, known=IDS) -> np.ndarray:
    labels = np.full(ids.shape, 255, np.uint8)
    for k, number in enumerate(known):
        labels[ids == number] = k
    return labels


def draw(path: Path, n: int = 25, seed: int = 0, column: str = "class") -> gpd.GeoDataFrame:
    """Overlapping polygons with holes over an image, in its CRS, with two names in turn."""
    rng = np.random.default_rng(seed)
    x, y = centres(path)
    with rasterio.open(path) as image:
        crs, size = image.crs, np.hypot(image.transform.a, image.transform.d)
    shapes = []
    for _ in range(n):
        k = rng.integers(x.size)
        disc = shapely.Point(x.flat[k], y.flat[k]).buffer(size * rng.uniform(4, 25), 5)
        shapes.append(disc.difference(disc.centroid.buffer(size * 3)))
    names = ["wood", "bare", "grass"] * n
    return gpd.GeoDataFrame({column: names[:n], "note": "x"}, geometry=shapes, crs=crs.to_wkt())


def burnt(path: Path, polygons: gpd.GeoDataFrame, classes: list[int], fill: int) -> np.ndarray:
    """(H, W) classes by the pixels' centres, each tested against each polygon."""
    x, y = centres(path)
    points = shapely.points(x.ravel(), y.ravel())
    labels = np.full(x.size, fill, np.uint8)
    for shape, number in zip(polygons.geometry, classes, strict=True):
        labels[shapely.contains(shape, points)] = number
    return labels.reshape(x.shape)


def load_all(root: Path, options: DatasetOptions | None = None) -> None:
    dataset = FolderScenes(root, options)
    for item in dataset.items:
        dataset.load(item)


def expect(message: str, root: Path, options: DatasetOptions | None = None) -> None:
    """Opening or loading a folder fails with a message that has this text."""
    with pytest.raises(DatasetError) as caught:
        load_all(root, options)
    assert message in str(caught.value)


def with_points(path: Path) -> None:
    """Give an image of 150 x 120 px ground control points in place of its transform."""
    with rasterio.open(path) as image:
        pixels, t, crs = image.read(), image.transform, image.crs
    points = [
        GroundControlPoint(row, col, t.a * col + t.c, t.e * row + t.f)
        for row, col in ((0, 0), (0, 150), (120, 0), (120, 150))
    ]
    path.unlink()
    write(path, pixels, gcps=points, crs=crs)
