"""Ways to predict the windows of a scene: the samplers that users have, and the baselines.

All go through the pipeline of :func:`geodeform.segment_scene`: the same plan, reader, network,
reverse map and mosaic. A way only changes the plan (which windows, how many samples) or where a
window is sampled. Another one is an entry of :data:`WAYS`, or a :class:`Way` given to
:func:`geodeform.evaluation.evaluate.evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from geodeform.budget import Budget
from geodeform.errors import ConfigError
from geodeform.geo.windows import plan_windows
from geodeform.models.spec import ModelSpec, nearest_names
from geodeform.planning import SegmentationPlan, touches
from geodeform.predict import Look, WindowPredictor
from geodeform.run import Run

Labels = NDArray[np.uint8]

Placer = Callable[[list[int]], torch.Tensor]
"""Indices of B windows → where they are sampled, a grid (B, h, w, 2) on the model's device."""


class PlacedPredictor(WindowPredictor):
    """Predicts windows that are sampled where a function says, instead of the model.

    Args:
        run: Scene, model, device and plan.
        placer: Says where.
    """

    def __init__(self, run: Run, placer: Placer) -> None:
        super().__init__(run.scene, run.network, run.plan, run.device)
        self._placer = placer

    def look(self, indices: list[int], views: list[NDArray[np.float32]]) -> Look:
        """Put the samples where the function says."""
        # of a sampler that is none of its own, the base would sample evenly, from windows read at
        # full resolution, which the sampler averages itself
        look = super().look(indices, views)
        if not indices:
            return look
        with torch.inference_mode():
            return replace(look, grid=self._placer(indices))


@dataclass(frozen=True)
class Way:
    """A way to predict windows.

    Attributes:
        name: As ``--sampler`` takes it.
        title: What it does, a phrase.
        fits: Raises ConfigError where a model cannot be used so.
        plan: Changes what :func:`geodeform.planning.plan_segmentation` planned; takes the plan, the
            model's spec and the overlap.
        predictor: Makes what predicts the plan's windows, from the run and the labels (H, W) of the
            whole scene.
        planned_as: Sampler that the plan is made with; the model's first that needs no labels where
            None.
        overlap: Part of a window shared with each neighbour, unless the caller says otherwise.
        sees_labels: Whether labels decide where samples lie: an oracle.
        every_pixel: Whether the network sees every pixel, so that there is nothing to map back and
            no budget to choose.
    """

    name: str
    title: str
    fits: Callable[[ModelSpec], None]
    predictor: Callable[[Run, Labels], WindowPredictor] = lambda run, _: run.predictor()
    plan: Callable[[SegmentationPlan, ModelSpec, float], SegmentationPlan] = lambda plan, *_: plan
    planned_as: str | None = None
    overlap: float = 0.125
    sees_labels: bool = False
    every_pixel: bool = False

    def sampler_of_plan(self, spec: ModelSpec) -> str:
        """The sampler that the plan is made with."""
        if self.planned_as is not None:
            return self.planned_as
        return next(name for name in spec.samplers if name != "oracle")


def _trained_with(name: str) -> Callable[[ModelSpec], None]:
    """Check that a model was trained with a sampler."""

    def fits(spec: ModelSpec) -> None:
        if name not in spec.samplers:
            raise ConfigError(
                f"The model was trained without {name} sampling: use the sampler "
                f"'{' or '.join(spec.samplers)}'."
            )

    return fits


def _samples(spec: ModelSpec) -> None:
    """Check that a model samples windows at all."""
    if spec.downsampler == "resizer":
        raise ConfigError(
            "The model resizes whole windows, so labels cannot say where it samples: use the "
            f"sampler '{spec.samplers[0]}'."
        )


def _oracle_plan(plan: SegmentationPlan, spec: ModelSpec, overlap: float) -> SegmentationPlan:
    return replace(plan, sampler="oracle")


def _oracle(run: Run, labels: Labels) -> WindowPredictor:
    """Sample where the labels have edges (appendix A.5)."""
    plan, network = run.plan, run.network

    def place(indices: list[int]) -> torch.Tensor:
        windows = np.stack([window_of(labels, plan, index) for index in indices])
        grid: torch.Tensor = network.place_by_labels(
            torch.from_numpy(windows).to(run.device), plan.low_res_size, plan.size_of(indices[0])
        ).grid
        return grid

    return PlacedPredictor(run, place)


def _full_plan(plan: SegmentationPlan, spec: ModelSpec, overlap: float) -> SegmentationPlan:
    """Plan crops of as many pixels as the network was trained to see at once, each fed whole."""
    size = spec.sample_size
    windows = plan_windows(
        plan.shape, size, overlap=(math.floor(size[0] * overlap), math.floor(size[1] * overlap))
    )
    return replace(
        plan,
        windows=windows,
        active=tuple(
            k
            for k, window in enumerate(windows)
            if plan.aoi is None or touches(window, plan.frame, plan.aoi)
        ),
        sample_size=windows.window,
        low_res_size=windows.window,  # nothing looks at a view: this one is read without resampling
        sampler="uniform",
        budget=Budget("share", 1.0),
    )


WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way(
            "learned",
            "where the model's density or grid net says",
            _trained_with("learned"),
            planned_as="learned",
        ),
        Way("uniform", "evenly", _trained_with("uniform"), planned_as="uniform"),
        Way(
            "interpolation",
            "by the model's learned resizer",
            _trained_with("interpolation"),
            planned_as="interpolation",
        ),
        Way(
            "oracle",
            "where the labels have edges",
            _samples,
            predictor=_oracle,
            plan=_oracle_plan,
            sees_labels=True,
        ),
        Way(
            "full",
            "every pixel, in overlapping crops of the model's sampled size",
            lambda spec: None,
            plan=_full_plan,
            overlap=0.25,
            every_pixel=True,
        ),
    )
}
"""Ways to predict, by name."""


def find_way(name: str) -> Way:
    """Return a way by its name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in WAYS:
        raise ConfigError(
            f"There is no sampler '{name}'{nearest_names(name, list(WAYS))}; use one of "
            f"{', '.join(WAYS)}."
        )
    return WAYS[name]


def window_of(labels: Labels, plan: SegmentationPlan, index: int) -> Labels:
    """Labels (H, W) of a plan's window."""
    window = plan.scene_window(index)
    rows, cols = window.toslices()
    return np.ascontiguousarray(labels[rows, cols])
