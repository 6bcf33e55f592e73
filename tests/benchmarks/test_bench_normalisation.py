"""Whether one model that serves every budget gains by batch normalisation of its own for each.

Tile 7 of Dubai, held out, with the packaged model: with its own statistics, which are the mean over
the sizes of its training, and with statistics taken anew from the training tiles at each size.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xarray as xr
from evaluation_scenes import as_scene
from torch import nn

import geodeform
from geodeform import run as runs
from geodeform.evaluation.metrics import Confusion
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.training.datasets.dubai import DubaiScenes

pytestmark = pytest.mark.benchmark

TRAINING = ("1", "2", "3", "5", "6", "8")


def with_own_statistics(
    model: DeformSegmenter, scenes: list[xr.DataArray], size: tuple[int, int], sampler: str
) -> DeformSegmenter:
    """The model, its segmenter's statistics those of whole batches of samples of one size."""
    own = copy.deepcopy(model)
    norms = [module for module in own.segmenter.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    seen: list[torch.Tensor] = []
    hook = own.segmenter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for scene in scenes:
        with (
            runs.begin_run(
                scene, model=own, device="cpu", bands=None, nodata=None, allocation="even",
                budget=f"{size[0]}x{size[1]}", sampler=sampler,
            ) as run,
            run.predictor() as predictor,
        ):  # fmt: skip
            for _ in predictor.predict(run.plan.active):
                pass
    hook.remove()
    images = torch.cat(seen)  # of all tiles, mixed as in training
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.inference_mode():
        for batch in images.split(16)[: len(images) // 16]:
            own.segmenter(batch)
    return own.eval()


@pytest.mark.parametrize("sampler", ["learned", "uniform"])
def test_statistics_of_each_size(
    shared_data: Path, report: Callable[[str], None], sampler: str
) -> None:
    logging.getLogger("geodeform").setLevel(logging.ERROR)
    dataset, model = DubaiScenes(shared_data / "dubai"), geodeform.load_model().eval()
    tile7 = dataset.load("7")
    scenes = [as_scene(dataset.load(tile).image) for tile in TRAINING]
    report(f"\nTile 7, {sampler} evenly: mIoU with the model's statistics, with those of the size")
    for side in (48, 64, 96, 128, 192, 256):
        shown = []
        for one in (model, with_own_statistics(model, scenes, (side, side), sampler)):
            result = geodeform.segment_scene(
                as_scene(tile7.image),
                model=one,
                budget=str(side),
                sampler=sampler,
                allocation="even",
            )
            confusion = Confusion(len(model.spec.classes))
            confusion.add(tile7.labels, result.labels.to_numpy())
            shown.append(100 * confusion.miou())
        report(f"{side:>4}x{side:<4} {shown[0]:6.1f} {shown[1]:6.1f}  {shown[1] - shown[0]:+.1f}")
        assert shown[0] != shown[1]
