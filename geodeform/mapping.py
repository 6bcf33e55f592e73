"""SceneMapper: feeds predicted windows to the mosaic and finished rows to the rasters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.density_field import DensityField
from geodeform.geo.ground import Ground
from geodeform.geo.mosaic import Mosaic
from geodeform.geo.raster import (
    NODATA_CONFIDENCE,
    ClassRasterWriter,
    ConfidenceRasterWriter,
)
from geodeform.geo.scene import Scene
from geodeform.planning import SegmentationPlan
from geodeform.predict import WindowPrediction, WindowPredictor
from geodeform.result import ClassArea
from geodeform.sampled_points import SampledPoints
from geodeform.trust import TrustField

_SKETCH_POINTS = 12_000  # sampled positions kept for a picture


class SceneMapper:
    """Runs a plan: predicts its windows, blends them, writes finished rows, counts.

    Args:
        scene: The open scene.
        predictor: Predicts the plan's windows.
        scheme: The model's classes.

    Attributes:
        predicted: Windows predicted so far.
        skipped: Windows without data.
        sampled_pixels: Pixels that the network saw.
        plan: The predictor's; after the run it also knows which windows have no data.
    """

    def __init__(self, scene: Scene, predictor: WindowPredictor, scheme: ClassScheme) -> None:
        self.scene = scene
        self.plan: SegmentationPlan = predictor.plan
        self.scheme = scheme
        self.predicted = 0
        self.sampled_pixels = self.plan.earlier_samples
        self.skipped = 0
        self.samples = SampledPoints(scene, self.plan)
        self.sketch: list[NDArray[np.float32]] = []
        self._predictor = predictor
        self._counts = np.zeros(256, np.int64)
        self._areas = np.zeros(256)
        self._row_areas = (
            Ground(self.plan.crs, self.plan.frame, self.plan.shape).row_areas_m2
            if self.plan.crs is not None
            else None
        )

    def run(
        self,
        rasters: Mapping[str, Path],
        tags: dict[str, str],
        *,
        keep_samples: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Write the rasters.

        Args:
            rasters: Where to write ``labels`` and, if named, ``confidence``, ``density`` and
                ``trust``.
            tags: Metadata of every raster; what only the run can tell is set in it.
            keep_samples: Whether every sampled point is kept (in memory) for a vector file.
            progress: Called with (windows done, windows in all).
        """
        plan = self.plan
        with ExitStack() as stack:
            place = {
                "transform": plan.transform,
                "crs": self.scene.crs,
                "gcps": plan.gcps(self.scene),
            }
            labels_file = stack.enter_context(
                ClassRasterWriter(
                    rasters["labels"], shape=plan.shape, scheme=self.scheme, tags=tags, **place
                )
            )
            confidence_file = None
            if "confidence" in rasters:
                confidence_file = stack.enter_context(
                    ConfidenceRasterWriter(
                        rasters["confidence"], shape=plan.shape, tags=tags, **place
                    )
                )
            field = None
            if "density" in rasters:
                field = stack.enter_context(
                    DensityField(self.scene, plan, rasters["density"], tags)
                )
            painters = stack.enter_context(ThreadPoolExecutor(torch.get_num_threads()))
            mosaic = Mosaic(plan.windows, n_classes=len(self.scheme), executor=painters)
            trust = None
            if "trust" in rasters:
                trust = stack.enter_context(
                    TrustField(
                        plan, self._predictor.model.spec, rasters["trust"],
                        place=place, tags=tags, executor=painters,
                    )
                )  # fmt: skip

            def emit(final: bool) -> None:
                for window, labels, confidence in mosaic.close() if final else mosaic.finished():
                    self._hide(window, labels, confidence)
                    if field is not None:
                        field.known(window, labels != NODATA_CLASS)
                    labels_file.write(window, labels)
                    if confidence_file is not None:
                        confidence_file.write(window, confidence)
                    if trust is not None:
                        trust.write(window, confidence, final=final)

            thinning = self._sketch_step()
            empty: list[int] = []
            for done, (index, prediction) in enumerate(self._predictor.predict(plan.active), 1):
                if prediction is None:
                    self.skipped += 1
                    empty.append(index)
                    mosaic.skip(index)
                    if trust is not None:
                        trust.skip(index)
                else:
                    self.predicted += 1
                    self.sampled_pixels += math.prod(self.plan.size_of(index))
                    mosaic.feed(index, prediction)
                    if field is not None:
                        field.feed(index, *(look.samples for look in prediction.looks))
                    if trust is not None:
                        trust.feed(index, prediction)
                    self._keep(index, prediction, thinning, keep_samples)
                emit(final=False)
                if progress is not None:
                    progress(done, len(plan.active))
            emit(final=True)
            if plan.empty is None:
                self.plan = plan.knowing_empty(empty)
                tags |= self.plan.share_tag

    def class_areas(self) -> tuple[ClassArea, ...]:
        """Pixels and area of every class of the scheme."""
        known = int(self._counts[: len(self.scheme)].sum())
        return tuple(
            ClassArea(
                id=k,
                name=name,
                pixels=int(self._counts[k]),
                share=float(self._counts[k] / known) if known else 0.0,
                area_m2=None if self._row_areas is None else float(self._areas[k]),
            )
            for k, name in enumerate(self.scheme.names)
        )

    def _hide(
        self, window: Window, labels: NDArray[np.uint8], confidence: NDArray[np.uint8]
    ) -> None:
        """Make pixels without data, or outside the area of interest, nodata; count the others."""
        mapped = np.flatnonzero((labels != NODATA_CLASS).any(0))
        if mapped.size:  # rows between empty windows need no second look at the scene
            left, right = int(mapped[0]), int(mapped[-1]) + 1
            part = Window(window.col_off + left, window.row_off, right - left, window.height)
            hidden = ~self.plan.known(self.scene, part)
            labels[:, left:right][hidden] = NODATA_CLASS
            confidence[:, left:right][hidden] = NODATA_CONFIDENCE
        self._count(window, labels)

    def _count(self, window: Window, labels: NDArray[np.uint8]) -> None:
        if self._row_areas is None:
            self._counts += np.bincount(labels.ravel(), minlength=256)
            return
        top = int(window.row_off)
        for row, area in zip(labels, self._row_areas[top : top + len(labels)], strict=True):
            line = np.bincount(row, minlength=256)
            self._counts += line
            self._areas += line * area

    def _sketch_step(self) -> int:
        return max(1, math.ceil(math.sqrt(self.plan.sampled_pixels / _SKETCH_POINTS)))

    def _keep(self, index: int, prediction: WindowPrediction, step: int, every: bool) -> None:
        """Keep a few sampled positions for the picture, and all of them where asked for."""
        window = self.plan.windows[index]
        for look in prediction.looks:
            samples = look.samples
            if every:
                self.samples.add(index, samples, look.probabilities)
            thinned = samples.positions[step // 2 :: step, step // 2 :: step].reshape(-1, 2)
            self.sketch.append(thinned + np.array([window.col_off, window.row_off], np.float32))
