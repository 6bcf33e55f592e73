"""Scenes that do not fit: memory follows the window rows, not the scene."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

import geodeform

UTM = Affine(1.0, 0.0, 300000.0, 0.0, -1.0, 2790000.0)

RUN = """
import json, sys, geodeform
from geodeform.device import peak_memory_bytes
scene, target, budget = sys.argv[1:]
geodeform.segment_scene(geodeform.demo_scene(), budget="0.2%", sampler="uniform",
                        bbox=(316699, 2770000, 317699, 2770996))  # compiles, loads everything
before = peak_memory_bytes()
result = geodeform.segment_scene(scene, output=target, budget=budget)
print(json.dumps({**result.summary(), "extra": peak_memory_bytes() - before}))
"""


def run(scene: Path, target: Path, budget: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(scene), str(target), budget],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def tall_scene(path: Path, repeats: int) -> Path:
    """A real cut of 2048x1024 px, repeated downwards."""
    with rasterio.open(geodeform.demo_scene()) as dataset:
        pixels = dataset.read(window=Window(600, 800, 2048, 1024))
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="uint8", height=1024 * repeats, width=2048,
        tiled=True, compress="DEFLATE", transform=UTM, crs="EPSG:32640",
    ) as out:  # fmt: skip
        for k in range(repeats):
            out.write(pixels, window=Window(0, 1024 * k, 2048, 1024))
    return path


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    # both larger than GDAL's cache of decoded blocks, which fills up to its 256 MiB
    short = run(tall_scene(tmp_path / "a.tif", 80), tmp_path / "a_map.tif", "0.4%")
    tall = run(tall_scene(tmp_path / "b.tif", 160), tmp_path / "b_map.tif", "0.4%")
    pixels = 2048 * 1024 * 80
    growth = int(str(tall["extra"])) - int(str(short["extra"]))
    assert growth < 0.5 * pixels  # not even the map's own byte a pixel
    assert tall["sampled_pixels"] > 1.9 * int(str(short["sampled_pixels"]))  # type: ignore[operator]


@pytest.mark.slow
def test_a_scene_beyond_two_to_the_31_pixels(tmp_path: Path) -> None:
    """Mostly empty, as big mosaics are; the data lie across the 2³¹st pixel."""
    height, width = 46400, 46400
    assert height * width > 2**31
    with rasterio.open(geodeform.demo_scene()) as dataset:
        pixels = np.maximum(dataset.read(window=Window(600, 800, 1500, 1400)), 1)
    at = Window(width - 1500, height - 1400, 1500, 1400)
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", count=3, dtype="uint8", height=height,
        width=width, tiled=True, blockxsize=512, blockysize=512, compress="DEFLATE", nodata=0,
        sparse_ok=True, bigtiff="YES", transform=UTM, crs="EPSG:32640",
    ) as out:  # fmt: skip
        out.write(pixels, window=at)
    told = run(tmp_path / "s.tif", tmp_path / "map.tif", "128")
    assert 4 <= int(str(told["windows"])) <= 9
    assert int(str(told["windows_skipped"])) > 2500
    assert int(str(told["extra"])) < 1500 << 20
    with rasterio.open(tmp_path / "map.tif") as out:
        assert out.shape == (height, width)
        assert out.transform == UTM
        labels = out.read(1, window=at)
        assert (labels != 255).all()
        assert (out.read(1, window=Window(0, 0, 3000, 3000)) == 255).all()
    assert sum(c["pixels"] for c in told["classes"]) == 1500 * 1400  # type: ignore[attr-defined]
