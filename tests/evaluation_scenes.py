"""Real labelled pixels for the tests of evaluation: cuts of the packaged scene."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import xarray as xr
from PIL import Image
from rasterio.features import rasterize
from rasterio.windows import Window, transform

import geodeform
from geodeform.evaluation.data import EvaluationData
from geodeform.training.cache import SceneCache
from geodeform.training.datasets.base import DatasetInfo, LabelledDataset, LabelledScene
from geodeform.training.datasets.dubai import DubaiScenes

VILLAS = Window(1536, 1024, 512, 512)  # all five classes
SHORE = Window(2100, 700, 700, 900)


@lru_cache(maxsize=8)
def demo_cut(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W, 3) and class ids (H, W), 255 unknown, of a part of the packaged scene."""
    with rasterio.open(geodeform.demo_scene()) as scene:
        pixels = np.moveaxis(scene.read(window=window), 0, -1)
        placed = transform(window, scene.transform)
    polygons = gpd.read_file(geodeform.demo_labels())
    names = [name.lower() for name in DubaiScenes.classes.names]
    column = next(c for c in polygons if polygons[c].astype(str).str.lower().isin(names).all())
    ids = [names.index(str(name).lower()) for name in polygons[column]]
    labels = rasterize(
        zip(polygons.geometry, ids, strict=True),
        pixels.shape[:2],
        fill=255,
        transform=placed,
        dtype="uint8",
    )
    return pixels, labels


def as_scene(pixels: np.ndarray) -> xr.DataArray:
    """Pixels (H, W, C) as a scene in memory."""
    return xr.DataArray(np.moveaxis(pixels, -1, 0), dims=("band", "y", "x"), name="cut")


class Cuts(LabelledDataset):
    """Cuts of the packaged scene as a dataset."""

    info = DatasetInfo("cuts", "", "", DubaiScenes.info.classes, "CC0-1.0", "", "")
    classes = DubaiScenes.classes
    gsd_m = 1.0

    def __init__(self, **scenes: tuple[np.ndarray, np.ndarray]) -> None:
        super().__init__("cuts")
        self.scenes = scenes
        self.items = tuple(scenes)

    def load(self, item: str) -> LabelledScene:
        return LabelledScene(item, *self.scenes[item])

    def files(self, item: str) -> tuple[Path, ...]:
        return ()


def data_of(**scenes: tuple[np.ndarray, np.ndarray]) -> EvaluationData:
    """Images (H, W, 3) and labels (H, W) by name, as data to evaluate on."""
    dataset = Cuts(**scenes)
    return EvaluationData(
        dataset="cuts",
        split="",
        items=dataset.items,
        classes=dataset.classes,
        bands=dataset.bands,
        gsd_m=dataset.gsd_m,
        crop=None,
        trained_on=(),
        cache=SceneCache(dataset, None),
    )


def write_dubai(root: Path, **tiles: Window) -> None:
    """Write parts of the packaged scene in the layout of the Dubai dataset, as tile1=Window(…)."""
    for name, window in tiles.items():
        pixels, labels = demo_cut(window)
        colours = np.array([*DubaiScenes.mask_colours, DubaiScenes.ignored_colours[0]], np.uint8)
        mask = colours[np.where(labels == 255, len(colours) - 1, labels)]
        folder = root / name.replace("tile", "Tile ")
        height, width = (n // 3 for n in labels.shape)
        for part in range(9):
            row, col = divmod(part, 3)
            area = (
                slice(row * height, (row + 1) * height),
                slice(col * width, (col + 1) * width),
            )
            for kind, array, suffix in (("images", pixels, "jpg"), ("masks", mask, "png")):
                path = folder / kind / f"image_part_{part + 1:03d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array[area]).save(path)
