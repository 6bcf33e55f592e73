"""What reading through overviews costs in accuracy, on the packaged scene against its labels.

The scene's overviews are averages, in JPEG of quality 70.
"""

from __future__ import annotations

import geopandas as gpd
import pytest
import rasterio
from rasterio.features import rasterize

import geodeform
from geodeform.evaluation.metrics import Confusion
from geodeform.geo import scene as scene_module


def test_miou_by_how_much_finer_an_overview_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = gpd.read_file(geodeform.demo_labels())
    with rasterio.open(geodeform.demo_scene()) as dataset:
        labels = rasterize(
            zip(drawn.geometry, drawn.class_id, strict=True),
            dataset.shape,
            fill=255,
            transform=dataset.transform,
            dtype="uint8",
        )
    budgets = ("0.4%", "1%", "3%")
    print(f"\n{'pixels':>9}  " + "  ".join(f"{s[:7]:>7} {b:>4}" for s in ("uniform", "learned")
                                            for b in budgets))  # fmt: skip
    for factor in (1, 2, 3, 1e9):  # the last is full resolution
        monkeypatch.setattr(scene_module, "_LEVEL_PIXELS", 0.999 * factor)
        row = []
        for sampler in ("uniform", "learned"):
            for budget in budgets:
                result = geodeform.segment_scene(
                    geodeform.demo_scene(), budget=budget, sampler=sampler, allocation="even"
                )
                confusion = Confusion(len(result.classes))
                confusion.add(labels, result.labels.to_numpy())
                row.append(f"{100 * confusion.miou():12.1f}")
        print(f"{factor:9g}  " + "  ".join(row))
