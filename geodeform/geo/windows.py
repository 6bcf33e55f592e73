"""plan_windows: equal, overlapping windows that cover a scene."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from rasterio.windows import Window

from geodeform.errors import ConfigError


@dataclass(frozen=True)
class WindowPlan(Sequence[Window]):
    """Windows over a scene, row by row from the top left: a lazy sequence of rasterio windows.

    The windows are the product of one list of starts for each axis, so a plan takes a few numbers a
    row and a column, however many windows it has.

    Attributes:
        shape: (H, W) of the scene in pixels.
        window: (h, w) of every window; the scene's own size along an axis that is shorter.
        overlap: (y, x) pixels that neighbours share at least.
        row_starts: First scene row of each row of windows, increasing.
        col_starts: First scene column of each column of windows, increasing.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    overlap: tuple[int, int]
    row_starts: tuple[int, ...]
    col_starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.row_starts) * len(self.col_starts)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of a plan of {len(self)}")
        row, col = divmod(index % len(self), len(self.col_starts))
        return self.at(row, col)

    def at(self, row: int, col: int) -> Window:
        """Return the window of window row ``row`` and window column ``col``."""
        return Window(self.col_starts[col], self.row_starts[row], self.window[1], self.window[0])

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Number of window rows and window columns."""
        return len(self.row_starts), len(self.col_starts)

    @property
    def rows(self) -> Iterator[list[Window]]:
        """The windows by window row: lists of windows that share their y, top to bottom."""
        for row in range(len(self.row_starts)):
            yield [self.at(row, col) for col in range(len(self.col_starts))]

    def position(self, window: int | Window) -> tuple[int, int]:
        """Return (window row, window column) of a window or of its number in the plan.

        Raises:
            ValueError: If the plan has no such window.
        """
        if isinstance(window, int):
            if not 0 <= window < len(self):
                raise ValueError(f"The plan has {len(self)} windows, no number {window}.")
            row, col = divmod(window, len(self.col_starts))
            return row, col
        row = bisect_right(self.row_starts, window.row_off) - 1
        col = bisect_right(self.col_starts, window.col_off) - 1
        if row < 0 or col < 0 or self.at(row, col) != window:
            raise ValueError(f"{window} is not a window of the plan.")
        return row, col


def plan_windows(
    shape: tuple[int, int], window: tuple[int, int], *, overlap: tuple[int, int] = (0, 0)
) -> WindowPlan:
    """Cover a scene with as few equal windows as the overlap allows.

    Every pixel lies in at least one window, every window lies inside the scene and all have the
    same size. The last window of each axis is shifted inward, so it may overlap more than asked.

    Args:
        shape: (H, W) of the scene in pixels; any size from 1×1.
        window: (h, w) wanted; an axis on which the scene is shorter gets the scene's length.
        overlap: (y, x) pixels that neighbours share at least.

    Returns:
        The plan, a sequence of ``rasterio.windows.Window``.

    Raises:
        ConfigError: If a size is not positive, or an overlap is negative or not smaller than the
            window.
    """
    axes = [_axis_starts(*axis) for axis in zip("yx", shape, window, overlap, strict=True)]
    (height, row_starts), (width, col_starts) = axes
    return WindowPlan(
        (int(shape[0]), int(shape[1])),
        (height, width),
        (int(overlap[0]), int(overlap[1])),
        row_starts,
        col_starts,
    )


def _axis_starts(axis: str, size: int, window: int, overlap: int) -> tuple[int, tuple[int, ...]]:
    """Return the window length and the windows' starts along one axis."""
    size, window, overlap = int(size), int(window), int(overlap)
    if size < 1 or window < 1:
        raise ConfigError(
            f"Scene and windows need at least 1 pixel along {axis}, got {size} and {window}."
        )
    if not 0 <= overlap < window:
        raise ConfigError(
            f"The overlap along {axis} must be 0 or more and less than the window's {window} "
            f"pixels, got {overlap}."
        )
    window = min(window, size)
    if window == size:
        return window, (0,)
    step = window - overlap
    count = -((window - size) // step) + 1
    return window, (*(i * step for i in range(count - 1)), size - window)
