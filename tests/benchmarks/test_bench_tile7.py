"""The packaged model on all of Dubai tile 7, held out in training: accuracy and time.

Full-resolution mIoU, by the very call that users make, for learned and area-averaged uniform
sampling at the same budgets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine
from scene_files import scene_file

import geodeform
from geodeform.evaluation.metrics import Confusion
from geodeform.training.datasets import DubaiScenes, LabelledScene

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def tile7(shared_data: Path) -> LabelledScene:
    logging.getLogger("geodeform").setLevel(logging.ERROR)
    return DubaiScenes(shared_data / "dubai").load(7)


def test_full_resolution_miou(
    tile7: LabelledScene, tmp_path: Path, report: Callable[[str], None]
) -> None:
    path = scene_file(
        tmp_path / "tile7.tif",
        np.moveaxis(tile7.image, 2, 0),
        transform=Affine(1, 0, 316699, 0, -1, 2771636),
        crs="EPSG:32640",
        compress="DEFLATE",
    )
    model = geodeform.load_model()
    names = model.spec.classes.names
    geodeform.segment_scene(path, model=model, budget="0.1%")  # warm-up
    report(f"\nTile 7, {tile7.labels.shape[1]}x{tile7.labels.shape[0]} px, held out")
    report(f"{'budget':>8} {'sampler':>8} {'sampled':>8} {'mIoU':>6} {'acc':>6} {'s':>6}  "
           + " ".join(f"{n:>10}" for n in names))  # fmt: skip
    for budget in ("0.4%", "1%", "1.5%", "3%"):
        for sampler in ("learned", "uniform"):
            result = geodeform.segment_scene(path, model=model, budget=budget, sampler=sampler)
            confusion = Confusion(len(names))
            confusion.add(tile7.labels, np.asarray(result.labels))
            facts = result.facts
            report(
                f"{budget:>8} {sampler:>8} {facts.sampled_share:8.2%} {100 * confusion.miou():6.1f}"
                f" {100 * confusion.accuracy():6.1f} {facts.seconds:6.1f}  "
                + " ".join(f"{100 * v:10.1f}" for v in confusion.iou())
            )
            assert 0 < confusion.miou() < 1
