"""SceneMapper: feeds predicted windows to the mosaic and finished rows to the rasters."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.deform.coords import pixels_to_grid
from geodeform.deform.reverse import ReverseMap
from geodeform.geo.ground import Ground
from geodeform.geo.mosaic import FieldMosaic, Mosaic
from geodeform.geo.raster import (
    NODATA_CONFIDENCE,
    ClassRasterWriter,
    ConfidenceRasterWriter,
    DensityRasterWriter,
    Gcps,
    coarse_grid,
)
from geodeform.geo.scene import Scene
from geodeform.geo.windows import WindowPlan
from geodeform.planning import SegmentationPlan
from geodeform.predict import Block, WindowPrediction, WindowPredictor
from geodeform.result import ClassArea

_LOOKUP_ROWS = 512  # rows of the class raster that are read at once
_SKETCH_POINTS = 12_000  # sampled positions kept for a picture


@dataclass(frozen=True)
class SampledPoints:
    """Sampled positions of one window.

    Attributes:
        window: Index of the window.
        xy: (n, 2) region pixel coordinates (x, y).
        class_id: (n,) predicted class of the sampled pixel.
        confidence: (n,) its probability, 0…1.
        magnification: (n,) sampled pixels per scene pixel there.
    """

    window: int
    xy: NDArray[np.float32]
    class_id: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    magnification: NDArray[np.float32]


class SceneMapper:
    """Runs a plan: predicts its windows, blends them, writes finished rows, counts.

    Args:
        scene: The open scene.
        predictor: Predicts the plan's windows.
        scheme: The model's classes.
    """

    def __init__(self, scene: Scene, predictor: WindowPredictor, scheme: ClassScheme) -> None:
        self.scene = scene
        self.plan: SegmentationPlan = predictor.plan
        self.scheme = scheme
        self.predicted = 0
        self.skipped = 0
        self.samples: list[SampledPoints] = []
        self.sketch: list[NDArray[np.float32]] = []
        self._predictor = predictor
        self._counts = np.zeros(256, np.int64)
        self._areas = np.zeros(256)
        self._row_areas = (
            Ground(self.plan.crs, self.plan.frame, self.plan.shape).row_areas_m2
            if self.plan.crs is not None
            else None
        )

    @property
    def sampled_pixels(self) -> int:
        """Pixels that the network saw."""
        return self.predicted * math.prod(self.plan.sample_size)

    @property
    def gcps(self) -> Gcps:
        """The scene's ground control points, counted from the region's corner."""
        points, crs = self.scene.gcps
        left, top = self.plan.region.col_off, self.plan.region.row_off
        moved = [
            GroundControlPoint(p.row - top, p.col - left, p.x, p.y, p.z, p.id, p.info)
            for p in points
        ]
        return (moved if (left, top) != (0, 0) else points), crs

    def run(
        self,
        rasters: Mapping[str, Path],
        tags: Mapping[str, str],
        *,
        keep_samples: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Write the rasters.

        Args:
            rasters: Where to write ``labels`` and, if named, ``confidence`` and ``density``.
            tags: Metadata of every raster.
            keep_samples: Whether every sampled point is kept (in memory) for a vector file.
            progress: Called with (windows done, windows in all).
        """
        plan = self.plan
        with ExitStack() as stack:
            place = {"transform": plan.transform, "crs": self.scene.crs, "gcps": self.gcps}
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
                    _DensityField(self.scene, plan, self.gcps, rasters["density"], tags)
                )
            painters = stack.enter_context(ThreadPoolExecutor(torch.get_num_threads()))
            mosaic = Mosaic(plan.windows, n_classes=len(self.scheme), executor=painters)

            def emit(final: bool) -> None:
                for window, labels, confidence in mosaic.close() if final else mosaic.finished():
                    self._hide(window, labels, confidence)
                    if field is not None:
                        field.mapped(window, labels)
                    labels_file.write(window, labels)
                    if confidence_file is not None:
                        confidence_file.write(window, confidence)

            thinning = self._sketch_step()
            for done, (index, prediction) in enumerate(self._predictor.predict(plan.active), 1):
                if prediction is None:
                    self.skipped += 1
                    mosaic.skip(index)
                else:
                    self.predicted += 1
                    mosaic.feed(index, prediction)
                    if field is not None:
                        field.feed(index, prediction)
                    self._keep(index, prediction, thinning, keep_samples)
                emit(final=False)
                if progress is not None:
                    progress(done, len(plan.active))
            emit(final=True)

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

    def sample_frame(self, class_raster: Path) -> gpd.GeoDataFrame:
        """The sampled points in the scene's CRS (pixels where it has none).

        Points on pixels that the class raster leaves without a class (no data, outside the area of
        interest) are left out.
        """
        kept = _on_classes(self.samples, class_raster)
        xy = np.concatenate([s.xy for s in kept]) if kept else np.empty((0, 2), np.float32)
        a, b, c, d, e, f = self.plan.frame[:6]
        x, y = xy[:, 0].astype(np.float64), xy[:, 1].astype(np.float64)

        def join(name: str, dtype: type) -> NDArray[np.generic]:
            parts = [getattr(s, name) for s in kept]
            return np.concatenate(parts) if parts else np.empty(0, dtype)

        class_id = join("class_id", np.uint8)
        names = np.array(self.scheme.names, dtype=object)
        return gpd.GeoDataFrame(
            {
                "window": np.repeat([s.window for s in kept], [len(s.xy) for s in kept]).astype(
                    int
                ),
                "class_id": class_id,
                "class_name": names[class_id],
                "confidence": join("confidence", np.float32),
                "magnification": join("magnification", np.float32),
            },
            geometry=shapely.points(a * x + b * y + c, d * x + e * y + f),
            crs=self.plan.crs.to_wkt() if self.plan.crs is not None else None,
        )

    def _hide(
        self, window: Window, labels: NDArray[np.uint8], confidence: NDArray[np.uint8]
    ) -> None:
        """Make pixels without data, or outside the area of interest, nodata; count the others."""
        mapped = np.flatnonzero((labels != NODATA_CLASS).any(0))
        if mapped.size:  # rows between empty windows need no second look at the scene
            left, right = int(mapped[0]), int(mapped[-1]) + 1
            part = Window(window.col_off + left, window.row_off, right - left, window.height)
            hidden = ~self.scene.valid_mask(self.plan.to_scene(part))
            inside = self.plan.inside(part)
            if inside is not None:
                hidden |= ~inside
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
        h, w = self.plan.sample_size
        return max(1, math.ceil(math.sqrt(len(self.plan.active) * h * w / _SKETCH_POINTS)))

    def _keep(self, index: int, prediction: WindowPrediction, step: int, every: bool) -> None:
        """Keep a few sampled positions for the picture, and all of them where asked for."""
        window = self.plan.windows[index]
        xy = prediction.sample_positions() + np.array(
            [window.col_off, window.row_off], np.float32
        )  # h,w,2
        self.sketch.append(xy[step // 2 :: step, step // 2 :: step].reshape(-1, 2))
        if every:
            self.samples.append(
                SampledPoints(
                    index,
                    xy.reshape(-1, 2),
                    prediction.probabilities.argmax(0).astype(np.uint8).ravel(),
                    prediction.probabilities.max(0).ravel(),
                    prediction.magnification.ravel(),
                )
            )


def _on_classes(samples: list[SampledPoints], class_raster: Path) -> list[SampledPoints]:
    """Keep the points whose pixel has a class."""
    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(class_raster) as raster:
            for points in samples:
                col, row = points.xy.astype(np.int64).T
                col, row = col.clip(0, raster.width - 1), row.clip(0, raster.height - 1)
                has_class = np.zeros(len(row), bool)
                for top in range(int(row.min()), int(row.max()) + 1, _LOOKUP_ROWS):
                    here = (row >= top) & (row < top + _LOOKUP_ROWS)
                    if not here.any():
                        continue
                    left, right = int(col[here].min()), int(col[here].max()) + 1
                    bottom = min(top + _LOOKUP_ROWS, raster.height)
                    block = raster.read(1, window=Window(left, top, right - left, bottom - top))
                    has_class[here] = block[row[here] - top, col[here] - left] != NODATA_CLASS
                kept.append(
                    SampledPoints(
                        points.window,
                        points.xy[has_class],
                        points.class_id[has_class],
                        points.confidence[has_class],
                        points.magnification[has_class],
                    )
                )
    return kept


@dataclass(frozen=True)
class _WindowField:
    """A window's magnification on the coarse grid; the field mosaic's one-channel scores."""

    reverse: ReverseMap
    values: NDArray[np.float32]  # 1,h,w
    n_classes: int = 1

    def scores(self, rows: Block, cols: Block) -> NDArray[np.float32]:
        return self.reverse.interpolate_scores(self.values, rows=rows, cols=cols)


class _DensityField:
    """The density raster: blended magnification on cells of about one sample's size.

    Where windows overlap the field blends as the scores do: it is the density that the prediction
    at a place rests on.
    """

    def __init__(
        self, scene: Scene, plan: SegmentationPlan, gcps: Gcps, path: Path, tags: Mapping[str, str]
    ) -> None:
        self._plan = plan
        self._factor = plan.density_factor
        self._known = _KnownCells(plan.shape, self._factor)
        self._pending: deque[tuple[Window, NDArray[np.float32]]] = deque()
        shape, transform, points = coarse_grid(plan.shape, self._factor, plan.transform, gcps)
        self._coarse = _coarse_plan(plan.windows, self._factor, shape)
        self._mosaic = FieldMosaic(self._coarse, n_classes=1)
        self._writer = DensityRasterWriter(
            path,
            shape=shape,
            transform=transform,
            crs=scene.crs,
            gcps=points,
            tags=tags,
            pixel_area_m2=scene.pixel_area_m2,
        )

    def __enter__(self) -> _DensityField:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._emit(final=True)
        self._writer.__exit__(*error)  # type: ignore[arg-type]

    def feed(self, index: int, prediction: WindowPrediction) -> None:
        """Add the magnification of a window."""
        fine, coarse = self._plan.windows[index], self._coarse[index]
        offset = np.array([fine.col_off, fine.row_off], np.float32)
        start = np.array([coarse.col_off, coarse.row_off], np.float32)
        pixels = (prediction.sample_positions() + offset) / self._factor - start
        size = (int(coarse.height), int(coarse.width))
        grid = pixels_to_grid(pixels, size).astype(np.float32)
        self._mosaic.feed(
            index, _WindowField(ReverseMap(grid, size), prediction.magnification[None])
        )
        self._emit(final=False)

    def mapped(self, window: Window, labels: NDArray[np.uint8]) -> None:
        """Take a finished block of the class raster: cells without any class become nodata."""
        self._known.add(int(window.row_off), labels != NODATA_CLASS)

    def _emit(self, *, final: bool) -> None:
        self._pending.extend(self._mosaic.close() if final else self._mosaic.finished())
        while self._pending:
            window, values = self._pending[0]
            top, bottom = int(window.row_off), int(window.row_off + window.height)
            if bottom > self._known.rows_done:
                return
            values[0][~self._known.take(top, bottom)] = np.nan
            self._writer.write(window, values[0])
            self._pending.popleft()


class _KnownCells:
    """Which cells of the coarse grid hold a pixel with a class; a few rows at a time."""

    def __init__(self, shape: tuple[int, int], factor: int) -> None:
        self._height = shape[0]
        self._factor = factor
        self._columns = np.arange(0, shape[1], factor)
        self._rows: dict[int, NDArray[np.bool_]] = {}
        self._pixel_rows = 0

    @property
    def rows_done(self) -> int:
        """Rows of cells that are complete."""
        if self._pixel_rows == self._height:
            return -(-self._height // self._factor)
        return self._pixel_rows // self._factor

    def add(self, top: int, known: NDArray[np.bool_]) -> None:
        """Add the next full-width block of pixels, (rows, W)."""
        cells = np.logical_or.reduceat(known, self._columns, axis=1)  # rows, wd
        for row in range(top // self._factor, -(-(top + len(known)) // self._factor)):
            part = cells[max(0, row * self._factor - top) : (row + 1) * self._factor - top]
            before = self._rows.get(row)
            any_known: NDArray[np.bool_] = np.logical_or.reduce(part, axis=0)
            self._rows[row] = any_known if before is None else before | any_known
        self._pixel_rows = top + len(known)

    def take(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """Return and forget rows of cells [top, bottom)."""
        return np.stack([self._rows.pop(row) for row in range(top, bottom)])


def _coarse_plan(windows: WindowPlan, factor: int, shape: tuple[int, int]) -> WindowPlan:
    """The same windows in cells of ``factor`` pixels, each covering all its cells in part."""
    lengths = [
        min(-(-n // factor) + 1, whole) for n, whole in zip(windows.window, shape, strict=True)
    ]
    starts = [
        tuple(min(start // factor, whole - length) for start in axis)
        for axis, length, whole in zip(
            (windows.row_starts, windows.col_starts), lengths, shape, strict=True
        )
    ]
    return WindowPlan(shape, (lengths[0], lengths[1]), windows.overlap, starts[0], starts[1])
