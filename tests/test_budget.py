from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodeform.budget import Budget, within_sides
from geodeform.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1.5%", "share", 0.015),
        ("100%", "share", 1.0),
        (0.02, "share", 0.02),
        ("128", "window", 128 * 128),
        ("128x96", "window", 128 * 96),
        ("2MP", "total", 2e6),
        ("500kP", "total", 5e5),
        ("0.5 MPx", "total", 5e5),
    ],
)
def test_parse_reads_the_three_ways(text: str | float, kind: str, value: float) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.value) == (kind, pytest.approx(value))


@pytest.mark.parametrize(
    "text", ["", "many", "-3%", "0%", "0", "101%", "12 px", "nan%", "1.5", "1", 1, "4x4"]
)
def test_parse_refuses_nonsense(text: str) -> None:
    with pytest.raises(ConfigError):
        Budget.parse(text)


@given(
    share=st.floats(0.002, 1.0),
    window=st.tuples(st.integers(64, 2048), st.integers(64, 2048)),
    windows=st.integers(1, 200),
)
def test_a_share_is_never_exceeded_and_keeps_the_aspect(
    share: float, window: tuple[int, int], windows: int
) -> None:
    H, W = window
    pixels = H * W * windows  # windows side by side, no overlap
    h, w = Budget("share", share).sample_size(
        window, full_window=window, windows=windows, scene_pixels=pixels
    )
    assert 1 <= h <= H
    assert 1 <= w <= W
    if min(h, w) > 8:  # the smallest size that a network gets may cost more than was asked
        assert h * w * windows <= share * pixels * (1 + 1e-6)
        assert h / w == pytest.approx(H / W, rel=0.3)


def test_overlapping_windows_share_the_budget() -> None:
    size = Budget.parse("1MP").sample_size(
        (1000, 1000), full_window=(1000, 1000), windows=25, scene_pixels=16_000_000
    )
    assert size == (200, 200)


def test_a_smaller_window_gets_its_part_of_a_window_budget() -> None:
    size = Budget.parse("128").sample_size(
        (512, 1024), full_window=(1024, 1024), windows=1, scene_pixels=512 * 1024
    )
    assert size == (64, 128)


@pytest.mark.parametrize("window", [(1, 1), (1, 9), (3, 500)])
def test_a_tiny_window_is_sampled_at_most_once_a_pixel(window: tuple[int, int]) -> None:
    h, w = Budget.parse("50%").sample_size(
        window, full_window=(1024, 1024), windows=1, scene_pixels=window[0] * window[1]
    )
    assert 1 <= h <= window[0]
    assert 1 <= w <= window[1]


@pytest.mark.parametrize(
    ("text", "said"), [("1.5%", "1.5%"), ("128", "128x128 a window"), ("2MP", "2MP")]
)
def test_it_prints_as_it_was_written(text: str, said: str) -> None:
    assert str(Budget.parse(text)) == said


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((368, 7986), (36, 800)),  # the paper's example
        ((7986, 368), (800, 36)),
        ((2000, 3386), (80, 135)),  # its least elongated: 1.69
        ((2000, 20440), (78, 800)),
        ((2000, 20000), (80, 800)),
        ((2000, 2000), (80, 80)),
        ((1, 9000), (1, 800)),
        ((40, 60), (40, 60)),  # never enlarged
    ],
)
def test_sizes_follow_the_papers_rule(shape, expected):
    assert within_sides(shape, (80, 800)) == expected
    assert within_sides(shape, (800, 80)) == expected


sides = st.integers(1, 30000)


@given(sides, sides, st.integers(1, 400), st.integers(1, 4000))
def test_sizes_keep_within_budget_and_aspect(height, width, first, second):
    size = within_sides((height, width), (first, second))
    assert within_sides((width, height), (first, second)) == size[::-1]
    assert min(size) <= min(first, second)
    assert max(size) <= max(first, second)
    assert size[0] <= height
    assert size[1] <= width
    # one side is met, the other is the largest whole number that keeps the aspect ratio
    short, long = sorted(size)
    lesser, greater = sorted((height, width))
    exact = min(min(first, second) / lesser, max(first, second) / greater, 1.0)
    assert short == max(1, int(lesser * exact + 1e-9))
    assert long == int(greater * exact + 1e-9)


def test_a_size_without_pixels_is_an_error():
    with pytest.raises(ConfigError, match="0 x 5 px cannot be sampled at 80 x 800"):
        within_sides((0, 5), (80, 800))
