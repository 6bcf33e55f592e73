"""The fixed density: the plain mean over training windows, the same wherever it is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geodeform.config import LossConfig
from geodeform.deform.density import edge_target, mix_uniform, normalise
from geodeform.deform.sample import downsample_labels
from geodeform.models.spec import InputScaling
from geodeform.training import fixed_density
from geodeform.training.cache import CachedScene
from geodeform.training.fixed_density import measure_density
from geodeform.training.windows import TrainWindows, WindowSettings

SCALING = InputScaling(255.0, (0.5,), (0.25,))
SETTINGS = WindowSettings(
    window=(64, 64),
    scale=(1.0, 1.0),
    sizes=((16, 16),),
    low_res=(16, 16),
    batch_size=6,
    balance=0.5,
    flips="none",
    colour=0.0,
    uniform_share=0.0,
    seed=3,
    halved=False,
)


def scene(labels: np.ndarray, name: str) -> CachedScene:
    """A scene without anything to see in its image."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return CachedScene(name, np.zeros((1, *labels.shape), np.uint8), labels, counts)


def blocks(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Labels of three classes in blocks of 8 px, some unknown."""
    drawn = np.random.default_rng(seed).integers(0, 4, (shape[0] // 8, shape[1] // 8))
    labels = np.where(drawn == 3, 255, drawn).astype(np.uint8)
    return labels.repeat(8, 0).repeat(8, 1)


def windows_of(labels: list[np.ndarray], **changes) -> TrainWindows:
    scenes = [scene(one, str(number)) for number, one in enumerate(labels)]
    return TrainWindows(scenes, 3, SCALING, replace(SETTINGS, **changes))


@pytest.mark.parametrize("share", [0.0, 0.75])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 0.5, 2.0])])
def test_it_is_the_plain_mean_over_the_windows_that_training_draws(monkeypatch, share, weights):
    monkeypatch.setattr(fixed_density, "MEASURED_WINDOWS", 12)
    windows = windows_of([blocks(0, (128, 192)), blocks(1, (160, 128))], flips="all")
    loss = LossConfig(edge_share=share, edge_blur=0.7)
    found = measure_density(windows, (16, 16), 3, loss, class_weights=weights)
    wanted = []
    for step in range(2):
        for labels in windows[step]["groups"][0]["labels"]:  # each window by itself
            small = downsample_labels(labels[None], (16, 16))
            target = edge_target(small, 3, blur_sigma=0.7, class_weights=weights)
            density = normalise(target)
            wanted.append(mix_uniform(density, 0.25) if share else density)
    assert len(wanted) == 12
    torch.testing.assert_close(found, torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-7)
    assert found.dtype == torch.float32
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found.std()) > 1e-4


def test_borders_on_the_left_make_the_left_dense():
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 8:16] = 1
    found = measure_density(windows_of([labels], balance=0.0), (16, 16), 3, LossConfig())[0, 0]
    columns = found.sum(0)
    assert float(columns[:6].sum()) > 0.75
    assert float(columns[8:].max()) < 0.05
    assert float(columns[2:4].min()) > 3 / 16


def test_every_process_and_every_part_finds_the_same(monkeypatch):
    monkeypatch.setattr(fixed_density, "MEASURED_WINDOWS", 12)
    labels = [blocks(0, (128, 192))]
    alone = measure_density(windows_of(labels), (16, 16), 3, LossConfig())
    for rank in range(2):
        shared = windows_of(labels, accumulate=3)
        shared.share(rank, 2)
        assert torch.equal(measure_density(shared, (16, 16), 3, LossConfig()), alone)
        assert (shared.rank, shared.world) == (rank, 2)
    other = measure_density(windows_of(labels, seed=4), (16, 16), 3, LossConfig())
    assert not torch.equal(other, alone)


def test_whole_images_count_once_each():
    # five images in steps of three, each of its own shape, so each with a view of its own
    shapes = [(64, 128), (64, 96), (128, 64), (96, 96), (64, 64)]
    labels = [blocks(number, shape) for number, shape in enumerate(shapes)]
    whole = {"window": None, "balance": 0.0, "sizing": "sides", "batch_size": 3}
    found = measure_density(windows_of(labels, **whole), (16, 16), 3, LossConfig(edge_share=0.0))
    wanted = []
    for one, (h, w) in zip(labels, shapes, strict=True):
        short = 16 / max(h, w)
        size = (int(h * short), int(w * short))
        target = edge_target(downsample_labels(torch.from_numpy(one)[None], size), 3)
        fitted = torch.nn.functional.interpolate(normalise(target), (16, 16), mode="bilinear")
        wanted.append(fitted / fitted.sum())
    torch.testing.assert_close(found, torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-7)


def test_windows_without_a_border_ask_for_nothing():
    plain = measure_density(windows_of([np.zeros((64, 64), np.uint8)]), (8, 8), 3, LossConfig())
    torch.testing.assert_close(plain, torch.full((1, 1, 8, 8), 1 / 64))
