"""The density raster as a stream: how densely windows are sampled, blended as their scores are."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.deform.coords import pixels_to_grid
from geodeform.deform.reverse import ReverseMap
from geodeform.geo.ground import Ground
from geodeform.geo.mosaic import FieldMosaic
from geodeform.geo.raster import DensityRasterWriter, coarse_grid
from geodeform.geo.scene import Scene
from geodeform.geo.windows import WindowPlan
from geodeform.planning import SegmentationPlan
from geodeform.predict import Block, WindowSamples


@dataclass(frozen=True)
class _WindowField:
    """A window's magnification on the coarse grid; the field mosaic's one-channel scores."""

    looks: tuple[tuple[ReverseMap, NDArray[np.float32]], ...]  # magnification 1,h,w
    n_classes: int = 1

    def scores(self, rows: Block, cols: Block) -> NDArray[np.float32]:
        parts = (
            reverse.interpolate_scores(values, rows=rows, cols=cols)
            for reverse, values in self.looks
        )
        return reduce(np.add, parts)


class DensityField:
    """The density raster: blended magnification on cells of about one sample's size.

    Where windows overlap the field blends as the scores do: it is the density that the prediction
    at a place rests on.
    """

    def __init__(
        self, scene: Scene, plan: SegmentationPlan, path: Path, tags: Mapping[str, str]
    ) -> None:
        self._plan = plan
        self._factor = plan.density_factor
        self._known = _KnownCells(plan.shape, self._factor)
        self._pending: deque[tuple[Window, NDArray[np.float32]]] = deque()
        shape, transform, points = coarse_grid(
            plan.shape, self._factor, plan.transform, plan.gcps(scene)
        )
        self._coarse = _coarse_plan(plan.windows, self._factor, shape)
        self._mosaic = FieldMosaic(self._coarse, n_classes=1)
        self._writer = DensityRasterWriter(
            path,
            shape=shape,
            transform=transform,
            crs=scene.crs,
            gcps=points,
            tags=tags,
            pixel_areas_m2=_pixel_areas(plan, self._factor, shape),
        )

    def __enter__(self) -> DensityField:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._emit(final=True)
        self._writer.__exit__(*error)  # type: ignore[arg-type]

    def feed(self, index: int, *looks: WindowSamples) -> None:
        """Add a window with every look at it; their samples add up."""
        fine, coarse = self._plan.windows[index], self._coarse[index]
        offset = np.array([fine.col_off, fine.row_off], np.float32)
        start = np.array([coarse.col_off, coarse.row_off], np.float32)
        size = (int(coarse.height), int(coarse.width))
        fields = []
        for samples in looks:
            pixels = (samples.positions + offset) / self._factor - start
            grid = pixels_to_grid(pixels, size).astype(np.float32)
            fields.append((ReverseMap(grid, size), samples.magnification[None]))
        self._mosaic.feed(index, _WindowField(tuple(fields)))
        self._emit(final=False)

    def known(self, window: Window, known: NDArray[np.bool_]) -> None:
        """Take which pixels of the next full-width block have data: cells without any are nodata.

        Rows are written once they are known.
        """
        self._known.add(int(window.row_off), known)

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


def _pixel_areas(
    plan: SegmentationPlan, factor: int, shape: tuple[int, int]
) -> NDArray[np.float64] | None:
    """(hd,) m² of a scene pixel in each row of cells; None without a CRS."""
    if plan.crs is None:
        return None
    _, cells, _ = coarse_grid(plan.shape, factor, plan.frame)
    assert cells is not None
    return Ground(plan.crs, cells, shape).row_areas_m2 / factor**2


class _KnownCells:
    """Which cells of the coarse grid hold a pixel with data; a few rows at a time."""

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
