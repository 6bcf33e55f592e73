"""Affine transforms without the package's operators."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from scene_files import scene_file

from geodeform.geo.affine import apply, apply_to, compose, frame_of

ROTATED = compose(compose(Affine.translation(5e5, 4e6), Affine.rotation(30)), Affine.scale(2, -3))


def test_rotation_translation_and_scale_compose_to_matrix_products():
    angle = np.radians(30)
    expected = [
        [2 * np.cos(angle), 3 * np.sin(angle), 5e5],
        [2 * np.sin(angle), -3 * np.cos(angle), 4e6],
    ]
    assert np.allclose(np.reshape(ROTATED[:6], (2, 3)), expected, rtol=1e-12)
    points = np.array([[0.0, 0.0], [3.0, 7.0]])
    moved = apply_to(ROTATED, points)
    assert np.allclose(moved, [[r @ [x, y, 1] for r in np.array(expected)] for x, y in points])
    assert apply(ROTATED, 3.0, 7.0) == tuple(moved[1])
    assert np.allclose(apply_to(~ROTATED, moved), points, atol=1e-8)


def test_frames_are_those_of_the_file_or_fitted_to_its_points(tmp_path):
    crs = CRS.from_epsg(32640)
    pixels = np.zeros((1, 20, 30), np.uint8)
    points = [
        GroundControlPoint(row, col, *apply(ROTATED, col, row))
        for row, col in ((0, 0), (0, 30), (20, 0), (20, 30))
    ]
    plain = scene_file(tmp_path / "a.tif", pixels, crs=crs, transform=ROTATED)
    pinned = scene_file(tmp_path / "b.tif", pixels, crs=crs, gcps=points)
    with rasterio.open(plain) as raster:
        assert frame_of(raster) == (ROTATED, crs)
    with rasterio.open(pinned) as raster:
        transform, found = frame_of(raster)
    assert found == crs
    assert transform[:6] == pytest.approx(ROTATED[:6], abs=1e-6)
