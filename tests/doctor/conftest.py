from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.windows import Window

from geodeform.classes import ClassScheme
from geodeform.geo.raster import (
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    coarse_grid,
)
from geodeform.geo.stac import write_stac
from geodeform.geo.style import class_raster_style, embed_style, polygon_style
from geodeform.geo.vector import polygonize, write_polygons

SCHEME = ClassScheme(
    ("building", "land", "road", "water"),
    ((214, 72, 62), (229, 206, 157), (92, 92, 100), (58, 124, 200)),
)
SHAPE = (700, 900)
TAGS = {"model": "dubai", "source": "scene.tif", "budget": "1.5%", "sampler": "learned"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good outputs, made by geodeform's own writers."""
    folder = tmp_path_factory.mktemp("finished")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    labels = (((y // 70) + (x // 90)) % 3).astype(np.uint8)
    labels[(y - 300) ** 2 + (x - 450) ** 2 < 150**2] = 3
    labels[:, :20] = 255
    place = {"transform": Affine(0.5, 0, 3e5, 0, -0.5, 2.7e6), "crs": CRS.from_epsg(32640)}
    whole = Window(0, 0, SHAPE[1], SHAPE[0])
    with ClassRasterWriter(
        folder / "map.tif", shape=SHAPE, scheme=SCHEME, tags=TAGS, **place
    ) as writer:
        writer.write(whole, labels)
    with ConfidenceRasterWriter(
        folder / "map_confidence.tif", shape=SHAPE, tags=TAGS, **place
    ) as writer:
        confidence = (100 + x % 150).astype(np.uint8)
        writer.write(whole, np.where(labels == 255, 0, confidence).astype(np.uint8))
    shape, transform, _ = coarse_grid(SHAPE, 8, place["transform"])
    with DensityRasterWriter(
        folder / "map_density.tif", shape=shape, transform=transform, crs=place["crs"], tags=TAGS
    ) as writer:
        writer.write(
            Window(0, 0, shape[1], shape[0]), np.full(shape, 0.02, np.float32) + np.float32(0.01)
        )
    polygons = polygonize(
        folder / "map.tif", scheme=SCHEME, confidence=folder / "map_confidence.tif"
    )
    write_polygons(polygons, folder / "map.gpkg")
    embed_style(folder / "map.gpkg", "polygons", polygon_style(SCHEME), name="map")
    for suffix in ("parquet", "fgb", "geojson"):
        write_polygons(polygons, folder / f"map_polygons.{suffix}")
    (folder / "map.qml").write_text(class_raster_style(SCHEME), encoding="utf-8")
    write_stac(
        folder / "map.json",
        assets={
            "labels": folder / "map.tif",
            "confidence": folder / "map_confidence.tif",
            "density": folder / "map_density.tif",
            "polygons": folder / "map.gpkg",
        },
    )
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the good outputs, to be broken."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
