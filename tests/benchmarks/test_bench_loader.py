"""How fast a loader feeds a GPU: DeepGlobe-sized images, decoded at every read or from the cache.

The paper's batch is four images of 2448x2448 pixels; a GPU that takes N of them a second waits for
data unless the loader makes as many. Bytes travel; looking up their values is the device's work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from geodeform.models.spec import default_scaling
from geodeform.training.cache import SceneCache
from geodeform.training.datasets.deepglobe import DeepGlobeLandCover
from geodeform.training.windows import StepSampler, TrainWindows, WindowSettings

pytestmark = pytest.mark.benchmark

STEPS = 12
SETTINGS = WindowSettings(
    window=None,
    scale=(1.0, 1.0),
    sizes=((300, 300),),
    low_res=(300, 300),
    batch_size=4,
    balance=0.0,
    flips="horizontal",
    colour=0.0,
    uniform_share=0.0,
    seed=0,
    halved=False,
)


def test_decoding_and_loading(
    shared_data: Path,
    tmp_path: Path,
    report: Callable[[str], None],
    median_ms: Callable[..., float],
) -> None:
    dataset = DeepGlobeLandCover(shared_data / "deepglobe_sample")
    pairs = len(dataset.items)
    decode = median_ms(lambda: [dataset.load(item) for item in dataset.items]) / pairs
    cache = SceneCache(dataset, tmp_path)
    scenes = cache.scenes(dataset.items)
    again = median_ms(lambda: cache.scenes(dataset.items)) / pairs
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.npy")) / pairs
    report("\nDeepGlobe pairs of 2448x2448 px")
    report(f"decode one pair         {decode:8.1f} ms")
    report(f"open it from the cache  {again:8.1f} ms   {decode / again:.0f}x   {size / 1e6:.0f} MB")
    windows = TrainWindows(scenes, len(dataset.classes), default_scaling("hrnet_w48", 3), SETTINGS)
    assert windows.level == 0
    for workers in (0, 1, 2):
        loader = DataLoader(
            windows,
            batch_size=None,
            sampler=StepSampler(STEPS),
            num_workers=workers,
            collate_fn=_as_it_is,
            persistent_workers=workers > 0,
        )
        ms = median_ms(lambda: list(loader), 3) / (STEPS * SETTINGS.batch_size)  # noqa: B023
        report(
            f"loader, {workers} workers       {1000 / ms:8.1f} images/s, "
            f"{decode / ms:.1f}x one core that decodes"
        )


def _as_it_is(item: object) -> object:
    return item
