"""Small folders of real images."""

from __future__ import annotations

import pytest
import rasterio
from folder_files import NAIP, ROTATED, cut, greenness, write_classes
from rasterio.windows import Window


@pytest.fixture
def naip(shared_data, tmp_path):
    """Two cuts of NAIP with masks of the same grid, ids 3, 10 and 40, and their classes."""
    for name, window in (("a", Window(300, 200, 150, 120)), ("b", Window(500, 300, 160, 130))):
        pixels = cut(shared_data / NAIP, tmp_path / f"images/{name}.tif", window)
        cut(
            shared_data / NAIP,
            tmp_path / f"masks/{name}.tif",
            window,
            indexes=[1],
            nodata=255,
        )
        with rasterio.open(tmp_path / f"masks/{name}.tif", "r+") as mask:
            mask.write(greenness(pixels), 1)
    write_classes(tmp_path)
    return tmp_path


@pytest.fixture
def rotated(shared_data, tmp_path):
    cut(
        shared_data / NAIP, tmp_path / "images/a.tif", Window(100, 100, 160, 140), transform=ROTATED
    )
    cut(shared_data / NAIP, tmp_path / "images/b.tif", Window(300, 200, 150, 120))
    return tmp_path
