"""Mosaic: window predictions in, seamless full-width blocks of class and confidence out.

Where windows overlap, their class probabilities blend with linear ramps that sum to 1, so no seam
shows; where one window is alone its fused label path is taken. Predictions are kept compact and are
rasterised only when a block is emitted: memory depends on a few window rows, never on the scene.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from geodeform.classes import NODATA_CLASS
from geodeform.compiled import compiled
from geodeform.geo.windows import WindowPlan

_BLEND_FLOATS = 1 << 21  # class probabilities that one blending step holds at once (8 MiB)

Block = tuple[Window, NDArray[np.uint8], NDArray[np.uint8]]
"""A full-width block of the scene: window, labels (h, W), confidence (h, W) of 0…255."""


class WindowScores(Protocol):
    """The compact prediction of one window, rasterised on demand; coordinates are the window's.

    Both methods must give every pixel the same value whatever block it is asked in, and must be
    safe to call from several threads where the mosaic is given an executor.
    """

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        ...

    def scores(self, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.float32]:
        """(C, r, c) class probabilities of window rows [y0, y1) and columns [x0, x1)."""
        ...

    def labels(
        self, rows: tuple[int, int], cols: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(r, c) most probable class and (r, c) its probability as round(255·p)."""
        ...


class FieldScores(Protocol):
    """What a :class:`FieldMosaic` needs of a window's prediction: see :class:`WindowScores`."""

    @property
    def n_classes(self) -> int:
        """Number of fields C."""
        ...

    def scores(self, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.float32]:
        """(C, r, c) values of window rows [y0, y1) and columns [x0, x1)."""
        ...


Scores = TypeVar("Scores", bound=FieldScores)


class _Blender(Generic[Scores]):
    """Keeps the windows' predictions, knows which rows are final, and blends.

    The base of both mosaics.

    """

    def __init__(
        self,
        plan: WindowPlan,
        *,
        n_classes: int,
        block_rows: int = 256,
        executor: Executor | None = None,
    ) -> None:
        if not 1 <= n_classes <= NODATA_CLASS:
            raise ValueError(f"n_classes must be 1 to {NODATA_CLASS}, got {n_classes}.")
        if block_rows < 1:
            raise ValueError(f"block_rows must be positive, got {block_rows}.")
        self._plan = plan
        self._n_classes = n_classes
        self._block_rows = block_rows
        self._executor = executor
        self._y = _Axis(plan.row_starts, plan.window[0])
        self._x = _Axis(plan.col_starts, plan.window[1])
        self._live: dict[int, dict[int, Scores]] = {}
        self._decided: set[int] = set()  # columns of the current row that were fed or skipped
        self._row = 0  # the first window row that is not complete
        self._done = 0

    @property
    def rows_done(self) -> int:
        """Scene rows emitted so far: all rows above this one are final."""
        return self._done

    @property
    def rows_ready(self) -> int:
        """Scene rows that no later window can touch; :meth:`finished` emits up to here."""
        starts = self._plan.row_starts
        return starts[self._row] if self._row < len(starts) else self._plan.shape[0]

    @property
    def live_windows(self) -> int:
        """Number of predictions held."""
        return sum(len(row) for row in self._live.values())

    def feed(self, window: int | Window, scores: Scores) -> None:
        """Add the prediction of a window.

        Args:
            window: A window of the plan, or its number.
            scores: Its prediction; kept until the window's last row is emitted.

        Raises:
            ValueError: If the window is not in the plan, was fed or skipped already, lies in a row
                that is complete, or has another number of classes.
        """
        if scores.n_classes != self._n_classes:
            raise ValueError(
                f"The mosaic has {self._n_classes} classes, the window {scores.n_classes}."
            )
        row, col = self._decide(window)
        self._live.setdefault(row, {})[col] = scores

    def skip(self, window: int | Window) -> None:
        """Declare that a window has no prediction, so that its row can complete.

        Raises:
            ValueError: If the window is not in the plan, was fed or skipped already, or lies in a
                row that is complete.
        """
        self._decide(window)

    def _next_band(self) -> tuple[int, int] | None:
        """Return (top, bottom) of the next block if it is final."""
        bottom = min(self._done + self._block_rows, self._plan.shape[0])
        if self._done < bottom <= self.rows_ready:
            return self._done, bottom
        return None

    def _emitted(self, bottom: int) -> None:
        """Drop the windows that no row below ``bottom`` needs."""
        self._done = bottom
        for row in [r for r in self._live if self._y.end(r) <= bottom]:
            del self._live[row]

    def _close(self) -> None:
        """Declare every window that was not fed as skipped."""
        self._row = len(self._plan.row_starts)

    def _decide(self, window: int | Window) -> tuple[int, int]:
        row, col = self._plan.position(window)
        if row < self._row or (row == self._row and col in self._decided):
            raise ValueError(
                f"Window row {row}, column {col} was fed or skipped already, or its row is closed."
            )
        if row > self._row:
            self._row = row
            self._decided = set()
        self._decided.add(col)
        if len(self._decided) == len(self._plan.col_starts):
            self._row = row + 1
            self._decided = set()
        return row, col

    def _each(self, top: int, bottom: int, fill: Callable[[_Part[Scores]], None]) -> None:
        """Call ``fill`` for the parts of a block, in parallel where there is an executor."""
        parts = self._parts(top, bottom)
        if self._executor is None:
            for part in parts:
                fill(part)
        else:
            for _ in self._executor.map(fill, parts):
                pass

    def _parts(self, top: int, bottom: int) -> Iterator[_Part[Scores]]:
        """Split a block into rectangles inside which the same fed windows cover every pixel."""
        for rows, window_rows in self._y.bands(top, bottom):
            live = [(r, self._live[r]) for r in window_rows if r in self._live]
            if not live:
                continue
            wide = max(64, _BLEND_FLOATS // (self._n_classes * (rows[1] - rows[0])))
            for cols, window_cols in self._x.bands(0, self._plan.shape[1]):
                cover = [(r, c, held[c]) for r, held in live for c in window_cols if c in held]
                if len(cover) == 1:
                    yield _Part(rows, cols, cover)
                elif cover:
                    for left in range(cols[0], cols[1], wide):
                        yield _Part(rows, (left, min(left + wide, cols[1])), cover)

    def _blend(self, part: _Part[Scores]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weighted sum (C, r, c) over a rectangle's windows and the weights (r, c)."""
        shape = (part.rows[1] - part.rows[0], part.cols[1] - part.cols[0])
        total = np.zeros((self._n_classes, *shape), np.float32)
        weight = np.zeros(shape, np.float32)
        for row, col, scores in part.cover:
            _accumulate(
                total,
                weight,
                scores.scores(self._y.within(row, part.rows), self._x.within(col, part.cols)),
                self._y.weights(row, part.rows),
                self._x.weights(col, part.cols),
            )
        return total, weight


class Mosaic(_Blender[WindowScores]):
    """Blend window predictions and emit finished rows of class and confidence, top to bottom.

    Window rows are fed top to bottom; inside a row in any order. A row is complete once each of its
    windows was fed or skipped, or as soon as a window of a later row comes: what was not fed by
    then counts as skipped. Skipped windows weigh nothing, so their neighbours fill the overlap;
    pixels that no fed window covers get class 255 and confidence 0.

    Weights: along each axis a window rises linearly from 0 to 1 across its overlap with the window
    before, and falls across its overlap with the window after; the product of both axes is divided
    by the sum over the fed windows that cover the pixel. So weights sum to 1 everywhere, also at
    the scene's edges, where three windows overlap because the last was shifted inward, and beside
    skipped windows.

    Predictions held: those of two window rows, and of a third while the last window row, which is
    shifted inward, is fed (more only where the overlap exceeds half a window, or the windows are
    hardly higher than the blocks).

    One thread may feed and emit at a time; with an executor the blocks' parts are rasterised in
    parallel.

    Args:
        plan: The windows.
        n_classes: Number of classes C of every prediction.
        block_rows: Height of the blocks; each begins at a multiple of it and only the scene's last
            one is lower.
        executor: Runs the parts of a block in parallel; the caller's thread does if None.
    """

    def finished(self) -> Iterator[Block]:
        """Yield the blocks that are final and were not yielded before, top to bottom.

        Yields:
            Window of full width, (h, W) uint8 labels (255 where no window was fed) and (h, W) uint8
            confidence, round(255·probability) (0 where no window was fed).
        """
        width = self._plan.shape[1]
        while band := self._next_band():
            top, bottom = band
            labels = np.full((bottom - top, width), NODATA_CLASS, np.uint8)
            confidence = np.zeros((bottom - top, width), np.uint8)

            def fill(
                part: _Part[WindowScores],
                top: int = top,
                labels: NDArray[np.uint8] = labels,
                confidence: NDArray[np.uint8] = confidence,
            ) -> None:
                target = part.within(top)
                labels[target], confidence[target] = self._predict(part)

            self._each(top, bottom, fill)
            self._emitted(bottom)
            yield Window(0, top, width, bottom - top), labels, confidence

    def close(self) -> Iterator[Block]:
        """Declare every window that was not fed as skipped, and yield all remaining blocks.

        Yields:
            As :meth:`finished`.
        """
        self._close()
        yield from self.finished()

    def _predict(self, part: _Part[WindowScores]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return labels and confidence of one rectangle."""
        if len(part.cover) == 1:
            row, col, scores = part.cover[0]
            return scores.labels(self._y.within(row, part.rows), self._x.within(col, part.cols))
        total, weight = self._blend(part)
        labels = np.empty(weight.shape, np.uint8)
        confidence = np.empty(weight.shape, np.uint8)
        _decide(total, weight, labels, confidence)
        return labels, confidence


class FieldMosaic(_Blender[FieldScores]):
    """Blend continuous fields, such as the sampling density, by :class:`Mosaic`'s rules.

    The arguments are Mosaic's; ``n_classes`` is the number of fields C.
    """

    def finished(self) -> Iterator[tuple[Window, NDArray[np.float32]]]:
        """Yield the blocks that are final and were not yielded before, top to bottom.

        Yields:
            Window of full width and (C, h, W) float32 values, NaN where no window was fed.
        """
        width = self._plan.shape[1]
        while band := self._next_band():
            top, bottom = band
            values = np.full((self._n_classes, bottom - top, width), np.nan, np.float32)

            def fill(
                part: _Part[FieldScores], top: int = top, values: NDArray[np.float32] = values
            ) -> None:
                total, weight = self._blend(part)
                values[:, *part.within(top)] = total / weight

            self._each(top, bottom, fill)
            self._emitted(bottom)
            yield Window(0, top, width, bottom - top), values

    def close(self) -> Iterator[tuple[Window, NDArray[np.float32]]]:
        """Declare every window that was not fed as skipped, and yield all remaining blocks.

        Yields:
            As :meth:`finished`.
        """
        self._close()
        yield from self.finished()


@dataclass(frozen=True)
class _Part(Generic[Scores]):
    """A rectangle of the scene and the (window row, window column, prediction) that cover it."""

    rows: tuple[int, int]
    cols: tuple[int, int]
    cover: list[tuple[int, int, Scores]]

    def within(self, top: int) -> tuple[slice, slice]:
        """The rectangle inside a full-width block that begins at scene row ``top``."""
        (y0, y1), (x0, x1) = self.rows, self.cols
        return slice(y0 - top, y1 - top), slice(x0, x1)


class _Axis:
    """The windows' extents along one axis: who covers what, and with what weight."""

    def __init__(self, starts: tuple[int, ...], length: int) -> None:
        self._starts = starts
        self._length = length
        self._ends = tuple(s + length for s in starts)

    def end(self, index: int) -> int:
        """Where window ``index`` ends (exclusive)."""
        return self._ends[index]

    def within(self, index: int, span: tuple[int, int]) -> tuple[int, int]:
        """Turn a span of the scene into one of window ``index``."""
        start = self._starts[index]
        return span[0] - start, span[1] - start

    def bands(self, low: int, high: int) -> Iterator[tuple[tuple[int, int], range]]:
        """Split [low, high) where the set of covering windows changes.

        Yields:
            (span, indices of the windows that cover all of it).
        """
        first = bisect_right(self._ends, low)
        last = bisect_left(self._starts, high)
        breaks = {low, high}
        breaks.update(s for s in self._starts[first:last] if s > low)
        breaks.update(e for e in self._ends[first:last] if e < high)
        edges = sorted(breaks)
        for a, b in pairwise(edges):
            yield (a, b), range(bisect_right(self._ends, a), bisect_left(self._starts, b))

    def weights(self, index: int, span: tuple[int, int]) -> NDArray[np.float32]:
        """Return window ``index``'s ramp at the pixel centres of a span that it covers."""
        start, end = self._starts[index], self._ends[index]
        centre = np.arange(*span) + 0.5
        weight = np.ones(len(centre))
        if index > 0 and self._ends[index - 1] > start:
            weight = np.minimum((centre - start) / (self._ends[index - 1] - start), 1)
        if index + 1 < len(self._starts) and self._starts[index + 1] < end:
            weight *= np.minimum((end - centre) / (end - self._starts[index + 1]), 1)
        return weight.astype(np.float32)


@compiled
def _accumulate(total: Any, weight: Any, scores: Any, wy: Any, wx: Any) -> None:
    """Add wy·wx·scores to total (C, r, c), and wy·wx to weight (r, c)."""
    classes, height, width = scores.shape
    for y in range(height):
        for x in range(width):
            weight[y, x] += wy[y] * wx[x]
    for k in range(classes):
        for y in range(height):
            for x in range(width):
                total[k, y, x] += wy[y] * wx[x] * scores[k, y, x]


@compiled
def _decide(total: Any, weight: Any, labels: Any, confidence: Any) -> None:
    """Write the class of the largest total, and round(255·total/weight), at every pixel."""
    classes, height, width = total.shape
    best = np.empty(width, np.float32)
    for y in range(height):
        for x in range(width):
            best[x] = total[0, y, x]
            labels[y, x] = 0
        for k in range(1, classes):
            for x in range(width):
                more = total[k, y, x] > best[x]  # selections, not branches: these vectorise
                best[x] = total[k, y, x] if more else best[x]
                labels[y, x] = np.uint8(k) if more else labels[y, x]
        for x in range(width):
            scaled = np.float32(255) * best[x] / weight[y, x] + np.float32(0.5)
            confidence[y, x] = np.uint8(min(max(scaled, np.float32(0)), np.float32(255)))
