"""plan_windows covers every pixel with as few equal windows as possible."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from geodeform.errors import ConfigError
from geodeform.geo.windows import plan_windows


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int]:
    window = draw(st.integers(1, 60))
    return draw(st.integers(1, 120)), window, draw(st.integers(0, window - 1))


@settings(deadline=None)
@given(y=axes(), x=axes())
def test_windows_cover_the_scene_with_the_overlap_and_one_size(
    y: tuple[int, int, int], x: tuple[int, int, int]
) -> None:
    (H, h, oy), (W, w, ox) = y, x
    plan = plan_windows((H, W), (h, w), overlap=(oy, ox))
    covered = np.zeros((H, W), np.int32)
    windows = list(plan)
    for window in windows:
        assert (window.height, window.width) == (min(h, H), min(w, W)) == plan.window
        assert 0 <= window.row_off <= H - window.height
        assert 0 <= window.col_off <= W - window.width
        covered[
            window.row_off : window.row_off + window.height,
            window.col_off : window.col_off + window.width,
        ] += 1
    assert covered.min() >= 1
    assert len(windows) == len(plan) == len(plan.row_starts) * len(plan.col_starts)
    assert len({(v.row_off, v.col_off) for v in windows}) == len(windows)
    for starts, length, overlap in ((plan.row_starts, h, oy), (plan.col_starts, w, ox)):
        assert all(a < b <= a + length - overlap for a, b in pairwise(starts))


@settings(deadline=None)
@given(axis=axes())
def test_one_window_fewer_would_not_cover(axis: tuple[int, int, int]) -> None:
    size, window, overlap = axis
    count = len(plan_windows((size, 1), (window, 1), overlap=(overlap, 0)))
    # n windows of length w that overlap by o reach at most w + (n - 1)(w - o) pixels
    assert count == 1 or window + (count - 2) * (window - overlap) < size


def test_order_rows_and_positions() -> None:
    plan = plan_windows((100, 70), (40, 30), overlap=(10, 5))
    assert plan.row_starts == (0, 30, 60)
    assert plan.col_starts == (0, 25, 40)
    assert plan.grid_shape == (3, 3)
    assert plan[0] == Window(0, 0, 30, 40)
    assert plan[-1] == plan[8] == Window(40, 60, 30, 40)
    assert plan[2:4] == [Window(40, 0, 30, 40), Window(0, 30, 30, 40)]
    assert [w for row in plan.rows for w in row] == list(plan)
    assert all(len({w.row_off for w in row}) == 1 for row in plan.rows)
    for number, window in enumerate(plan):
        assert plan.position(window) == plan.position(number) == divmod(number, 3)


def test_strangers_are_not_in_the_plan() -> None:
    plan = plan_windows((100, 70), (40, 30))
    with pytest.raises(IndexError, match="window 9 of a plan of 9"):
        plan[9]
    with pytest.raises(ValueError, match="no number 9"):
        plan.position(9)
    for stranger in (Window(1, 0, 30, 40), Window(0, 0, 30, 41), Window(-5, -5, 30, 40)):
        with pytest.raises(ValueError, match="not a window of the plan"):
            plan.position(stranger)


def test_scenes_of_more_than_two_to_the_31_pixels() -> None:
    plan = plan_windows((3_000_000, 2_000_001), (1024, 1024), overlap=(128, 128))
    last = plan[len(plan) - 1]
    assert (last.row_off + last.height, last.col_off + last.width) == (3_000_000, 2_000_001)
    assert len(plan) == len(plan.row_starts) * len(plan.col_starts) > 7_000_000
    assert plan.position(last) == (len(plan.row_starts) - 1, len(plan.col_starts) - 1)


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        ((64, 64), (64, 0), "overlap along y .* less than the window's 64 pixels, got 64"),
        ((64, 64), (0, 100), "overlap along x .* got 100"),
        ((64, 64), (-1, 0), "overlap along y must be 0 or more"),
        ((0, 64), (0, 0), "at least 1 pixel along y"),
    ],
)
def test_impossible_plans_are_refused(
    window: tuple[int, int], overlap: tuple[int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_windows((100, 100), window, overlap=overlap)
    with pytest.raises(ConfigError, match="at least 1 pixel along x"):
        plan_windows((100, 0), (10, 10))
