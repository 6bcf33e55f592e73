"""The packaged model on all of Dubai tile 7, held out in training: accuracy and time.

Full-resolution mIoU, by the very call that users make, for learned and area-averaged uniform
sampling at the same budgets; the whole run's time over that of decoding and encoding the file; and
what 1.5 % of the pixels give beside every pixel of the same network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
import rioxarray  # noqa: F401 - .rio
import torch
import xarray as xr
from rasterio.transform import Affine
from scene_files import scene_file

import geodeform
from geodeform.evaluation.metrics import Confusion
from geodeform.training.datasets.base import LabelledScene
from geodeform.training.datasets.dubai import DubaiScenes

pytestmark = pytest.mark.benchmark
PLACE = Affine(1, 0, 316699, 0, -1, 2771636)


@pytest.fixture(scope="module")
def tile7(shared_data: Path) -> LabelledScene:
    logging.getLogger("geodeform").setLevel(logging.ERROR)
    return DubaiScenes(shared_data / "dubai").load("7")


@pytest.fixture(scope="module")
def path(tile7: LabelledScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_file(
        tmp_path_factory.mktemp("tile7") / "tile7.tif",
        np.moveaxis(tile7.image, 2, 0),
        transform=PLACE,
        crs="EPSG:32640",
        compress="DEFLATE",
    )


def test_full_resolution_miou(
    tile7: LabelledScene, path: Path, report: Callable[[str], None]
) -> None:
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


def test_whole_run_against_a_copy(
    path: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    """File to class raster, over file to COG with the class raster's compression."""
    model = geodeform.load_model()

    def copy() -> None:
        rasterio.shutil.copy(
            path, tmp_path / "copy.tif", driver="COG", COMPRESS="DEFLATE", NUM_THREADS="ALL_CPUS"
        )

    def run(**settings: Any) -> Callable[[], None]:
        return lambda: geodeform.segment_scene(
            path, model=model, output=tmp_path / "map.tif", overwrite=True, **settings
        )

    calls = {
        "copy": copy,
        "uniform": run(budget="1.5%", sampler="uniform"),
        "the model's own": run(budget="1.5%"),
    }
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(6):  # in turn, so that what slows the machine slows all; the first warms up
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - began)
    seconds = {name: float(np.median(times[1:])) for name, times in spent.items()}
    report(f"\nTile 7 whole, 1.5 %, {torch.get_num_threads()} threads, medians of 5")
    for name, value in seconds.items():
        report(f"{name:>16} {value:6.2f} s  {value / seconds['copy']:5.2f}x the copy")
    assert min(seconds.values()) > 0


def test_a_budget_against_every_pixel(
    tile7: LabelledScene, path: Path, report: Callable[[str], None]
) -> None:
    labels = xr.DataArray(tile7.labels, dims=("y", "x"))
    labels = labels.rio.write_crs("EPSG:32640").rio.write_transform(PLACE)
    curve = geodeform.budget_curve(path, budgets=["1.5%"], windows=None, labels=labels)
    table = curve.table.set_index("sampler")
    report("\nTile 7 whole, the packaged network")
    for name, row in table.iterrows():
        share = row["seconds"] / table.loc["every pixel", "seconds"]
        report(f"{name:>16} {row['sampled_share']:8.2%} mIoU {100 * row['miou']:5.1f} "
               f"{row['seconds']:6.1f} s {share:6.3f} of every pixel's")  # fmt: skip
    for note in curve.notes:
        report(note)
    assert len(table) == 3
