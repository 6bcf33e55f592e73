"""The trust raster against the nearest sample by a tree, on real pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from evaluation_scenes import SHORE, VILLAS, demo_cut
from rasterio.transform import Affine
from scene_files import scene_file
from scipy.spatial import cKDTree

import geodeform
from geodeform.cli.main import main
from geodeform.models.deform_segmenter import DeformSegmenter


@pytest.fixture(scope="module")
def model() -> DeformSegmenter:
    return geodeform.load_model()


def scene_of(path: Path, pixels: np.ndarray) -> Path:
    where = Affine(1.0, 0.0, 3e5, 0.0, -1.0, 2.8e6)
    return scene_file(path, np.moveaxis(pixels, -1, 0), transform=where, crs="EPSG:32640", nodata=0)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        assert dataset.scales == (1 / 255,)
        return dataset.read(1)


@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_trust_is_confidence_times_support_by_the_nearest_sample(model, tmp_path, sampler):
    scene = scene_of(tmp_path / "villas.tif", np.maximum(demo_cut(VILLAS)[0], 1))
    files = {kind: tmp_path / f"{kind}.tif" for kind in ("confidence", "trust")}
    result = geodeform.segment_scene(
        scene, output=tmp_path / "map.tif", samples=True, budget="24", sampler=sampler, **files
    )
    points = result.samples.geometry
    x, y = points.x.to_numpy() - 3e5, 2.8e6 - points.y.to_numpy()
    rows, cols = np.indices((512, 512)) + 0.5
    away, _ = cKDTree(np.stack([x, y], 1)).query(np.stack([cols.ravel(), rows.ravel()], 1))
    support = np.exp(-(away.reshape(512, 512) ** 2) / (8 * 8.0**2))  # 1024 px at 128 samples
    confidence, trust = read(files["confidence"]), read(files["trust"])
    assert np.abs(trust - np.maximum(support * confidence, 1)).max() <= 1
    assert support.min() < 0.9  # 24 samples of 1024 px are far apart
    with rasterio.open(files["trust"]) as dataset:
        assert dataset.descriptions == ("trust",)
    done = CliRunner().invoke(main, ["doctor", str(files["trust"])])
    assert "trust raster" in done.output
    assert done.exit_code == 0, done.output


def test_windows_blend_and_pixels_without_data_have_no_trust(model, tmp_path):
    small = DeformSegmenter(replace(model.spec, window_px=(256, 256), sample_size=(48, 48)))
    small.load_state_dict(model.state_dict())
    pixels = np.maximum(demo_cut(SHORE)[0], 1)
    pixels[:260] = 0  # whole windows of it
    scene = scene_of(tmp_path / "shore.tif", pixels)
    files = {kind: tmp_path / f"{kind}.tif" for kind in ("confidence", "trust")}
    result = geodeform.segment_scene(
        scene, model=small.eval(), output=tmp_path / "map.tif", **files
    )
    assert result.facts.windows_skipped > 0
    confidence, trust = read(files["confidence"]), read(files["trust"])
    assert ((trust == 0) == (confidence == 0)).all()
    known = confidence > 0
    assert (trust[known] <= confidence[known]).all()
    # no place is farther from a sample than the model's own distance allows
    worst = math.exp(-(0.5 + 0.5) / 8) ** 2
    assert (trust[known] >= worst * confidence[known].astype(float) - 1).mean() > 0.95
