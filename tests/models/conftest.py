"""A small model that the tests of this folder share."""

from __future__ import annotations

import pytest
import torch

from geodeform.classes import ClassScheme
from geodeform.models.deform_segmenter import DeformSegmenter
from geodeform.models.spec import ModelSpec, default_scaling


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return ModelSpec(
        architecture="lite0",
        in_channels=3,
        classes=ClassScheme(("land", "wäter"), ((132, 41, 246), (226, 169, 41))),
        bands=("red", "green", "blue"),
        scaling=default_scaling("lite0", 3),
        window_px=(96, 128),
        low_res_size=(12, 16),
        sample_size=(32, 48),
        kernel_sigma=2.0,
        gsd_m=0.5,
        metrics={"miou": {"learned": 0.5}},
        description="für Tests",
    )


@pytest.fixture(scope="session")
def model(spec: ModelSpec) -> DeformSegmenter:
    """An untrained model in evaluation mode; tests must not change it."""
    torch.manual_seed(0)
    model = DeformSegmenter(spec)
    with torch.no_grad():  # running statistics as after some training, not 0 and 1
        model(torch.randn(4, 3, 96, 128))
    return model.eval()
