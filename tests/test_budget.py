from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodeform.budget import Budget
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
