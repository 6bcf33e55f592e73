"""Scenes of noise and runs over them that end with the plan: for tests of what is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from needy_model import needy_model
from rasterio.transform import Affine
from scene_files import scene_file

import geodeform
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.planning import SegmentationPlan
from geodeform.run import begin_run

UTM = Affine(1.0, 0.0, 317000.25, 0.0, -1.0, 2771000.75)


def noise_scene(path: Path, height: int, width: int, *, data_until: int | None = None) -> Path:
    """Write noise of 1 m pixels, without data (0) right of a column."""
    pixels = np.random.default_rng(1).integers(1, 255, (3, height, width), dtype=np.uint8)
    pixels[:, :, data_until:] = 0 if data_until is not None else pixels[:, :, data_until:]
    return scene_file(path, pixels, transform=UTM, crs="EPSG:32640", nodata=0)


def model_of_equal_needs() -> DeformSegmenter:
    """Windows of 512 px, every cell of which has as many errors at as many samples."""
    model = needy_model(geodeform.load_model())

    def expected_errors(views: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
        errors = torch.tensor([8 / h for h, _ in sizes]).view(1, -1, 1, 1, 1)
        return errors.expand(len(views), -1, len(model.spec.classes), 4, 4)

    model.expected_errors = expected_errors  # type: ignore[method-assign]
    return model


def plan_of(scene: Path, model: DeformSegmenter, **settings: Any) -> SegmentationPlan:
    """The plan that a run begins with."""
    with begin_run(
        scene, **{"model": model, "device": "cpu", "bands": None, "nodata": None} | settings
    ) as run:
        return run.plan
