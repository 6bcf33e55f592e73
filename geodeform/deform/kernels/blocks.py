"""What both backends of the reverse map share: blocks and a few constants."""

from __future__ import annotations

from geodeform.deform.coords import Size

Span = tuple[int, int]
"""First row or column and one past the last."""

Block = tuple[int, int, int, int]
"""The part of a window that a call paints: (y0, y1, x0, x1) in pixels, ends excluded."""

MAX_CLASSES = 255
"""Labels are uint8, and 255 is no class."""

MIN_AREA = 1e-9
"""Twice the area (px²) below which a triangle counts as collapsed and takes its vertices' mean."""

MARGIN = 1e-6
"""px²: a sample is dropped only where its squared distance is greater by more than this, which is
above the rounding error in windows of up to 10⁵ px."""


def resolve_block(size: Size, rows: Span | None, cols: Span | None) -> Block:
    """Return the block that ``rows`` and ``cols`` select; None selects all.

    Args:
        size: (H, W) of the window.
        rows: (y0, y1) with 0 ≤ y0 ≤ y1 ≤ H.
        cols: (x0, x1) with 0 ≤ x0 ≤ x1 ≤ W.

    Raises:
        ValueError: If a range leaves the window.
    """
    return *_resolve("rows", rows, size[0]), *_resolve("cols", cols, size[1])


def _resolve(name: str, span: Span | None, size: int) -> Span:
    if span is None:
        return 0, size
    start, stop = span
    if not 0 <= start <= stop <= size:
        raise ValueError(f"{name} ({start}, {stop}) leave the window's 0…{size}")
    return int(start), int(stop)
