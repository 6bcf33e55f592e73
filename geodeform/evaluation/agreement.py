"""Agreement: a run's map against other class ids on its grid, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS
from geodeform.errors import SceneError
from geodeform.evaluation.metrics import Confusion
from geodeform.geo.affine import compose, frame_of
from geodeform.geo.scene import Scene
from geodeform.planning import SegmentationPlan

Raster = str | Path | xr.DataArray

_BLOCK_PIXELS = 1 << 23
_OFF_GRID = 0.01  # pixels by which rasters of one grid may differ


def compare_maps(
    labels: Raster,
    truth: Raster,
    plan: SegmentationPlan,
    n_classes: int,
    *,
    mapped_only: bool = False,
) -> Confusion:
    """Count a run's map against other class ids of the same classes.

    Args:
        labels: The map.
        truth: (y, x) class ids on its grid, 255 unknown; may reach beyond its region.
        plan: Of the run.
        n_classes: Number of classes.
        mapped_only: Whether pixels that the map leaves out are no misses.

    Raises:
        SceneError: If a raster cannot be read, or the truth lies on another grid, does not cover
            the map, or has ids that are no classes.
    """
    counts = Confusion(n_classes)
    with (
        Scene.open(labels, bands=[1]) as mapped,
        Scene.open(truth, bands=[1]) as known,
    ):
        left, top = region_offset(known, plan)
        for block in _blocks(mapped.shape):
            true = _class_ids(known, _moved(block, left, top), n_classes)
            ours = read_ids(mapped, block)
            if mapped_only:
                true = np.where(ours == NODATA_CLASS, NODATA_CLASS, true)
            counts.add(true, ours)
    return counts


def check_truth(truth: Raster, plan: SegmentationPlan, n_classes: int) -> None:
    """Find what :func:`compare_maps` would find wrong with the truth, before anything is mapped.

    Raises:
        SceneError: As there.
    """
    with Scene.open(truth, bands=[1]) as known:
        left, top = region_offset(known, plan)
        for block in _blocks(plan.shape):
            _class_ids(known, _moved(block, left, top), n_classes)


def _blocks(shape: tuple[int, int]) -> Iterator[Window]:
    """Full-width blocks of a raster (H, W), from the top."""
    H, W = shape
    step = max(1, _BLOCK_PIXELS // W)
    for row in range(0, H, step):
        yield Window(0, row, W, min(step, H - row))


def _moved(block: Window, left: int, top: int) -> Window:
    return Window(block.col_off + left, block.row_off + top, block.width, block.height)


def _class_ids(scene: Scene, window: Window, n_classes: int) -> NDArray[np.uint8]:
    ids = read_ids(scene, window)
    strange = ids[(ids >= n_classes) & (ids != NODATA_CLASS)]
    if strange.size:
        raise SceneError(
            f"{scene.name} has the id {strange[0]}, and the model's classes are 0 to "
            f"{n_classes - 1}: give labels of its classes, 255 where they are unknown."
        )
    return ids


def read_ids(scene: Scene, window: Window) -> NDArray[np.uint8]:
    """Class ids of a window, 255 where there is no data."""
    values, valid = scene.read(window)
    ids: NDArray[np.uint8] = np.where(valid, values[0], NODATA_CLASS).astype(np.uint8)
    return ids


def region_offset(labels: Scene, plan: SegmentationPlan) -> tuple[int, int]:
    """Column and row of the labels at which a plan's region begins.

    Raises:
        SceneError: If the labels are on another grid, or do not cover the region.
    """
    frame, crs = frame_of(labels)
    a, b, c, d, e, f = compose(~frame, plan.frame)[:6]
    left, top = round(c), round(f)
    H, W = plan.shape
    drift = max(abs(a - 1) * W, abs(b) * H, abs(d) * W, abs(e - 1) * H, abs(c - left), abs(f - top))
    if (crs is not None and plan.crs is not None and crs != plan.crs) or drift > _OFF_GRID:
        raise SceneError(
            f"{labels.name} does not lie on the grid of the map: bring it to the scene's CRS and "
            "pixels, for instance with gdalwarp -tap or rio warp --like."
        )
    if min(left, top) < 0 or left + W > labels.shape[1] or top + H > labels.shape[0]:
        raise SceneError(f"{labels.name} does not cover the map: give labels of its whole region.")
    return left, top
