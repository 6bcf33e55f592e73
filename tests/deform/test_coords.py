from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodeform.deform import coords

sizes = st.integers(1, 100_000)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@given(st.floats(-10, 1e5), sizes)
def test_normalising_and_back_is_the_identity(pixel: float, size: int) -> None:
    assert coords.to_pixel(coords.to_normalised(pixel, size), size) == pytest.approx(
        pixel, rel=1e-12, abs=1e-11 * size
    )


@given(sizes)
def test_the_frame_runs_from_minus_one_to_one_and_centres_lie_half_a_pixel_inside(n: int) -> None:
    assert coords.to_normalised(0.0, n) == -1
    assert coords.to_normalised(float(n), n) == pytest.approx(1)
    assert coords.to_normalised(0.5, n) == pytest.approx(-1 + 1 / n)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_points_are_x_then_y_and_sizes_y_then_x(kind: str) -> None:
    grid = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5]], np.float32)
    expected = np.array(
        [[0, 0], [20, 10], [10, 7.5]], np.float32
    )  # an image of 10 rows, 20 columns
    given_grid = grid if kind == "numpy" else torch.from_numpy(grid)
    pixels = coords.grid_to_pixels(given_grid, (10, 20))
    assert type(pixels) is type(given_grid)
    assert pixels.dtype == given_grid.dtype
    np.testing.assert_array_equal(np.asarray(pixels), expected)
    np.testing.assert_allclose(np.asarray(coords.pixels_to_grid(pixels, (10, 20))), grid, atol=1e-7)


def test_the_convention_is_that_of_grid_sample() -> None:
    """Reading at each pixel's centre gives that pixel: align_corners=False in our own numbers."""
    image = torch.rand(1, 1, 5, 7)
    y, x = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(7) + 0.5, indexing="ij")
    grid = coords.pixels_to_grid(torch.stack((x, y), -1), (5, 7)).unsqueeze(0)
    read = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(read, image)


@given(st.integers(1, 500), st.integers(1, 500))
def test_uniform_positions_agree_with_normalised_centres(n: int, n_source: int) -> None:
    through = coords.to_normalised(coords.uniform_positions(n, n_source) + 0.5, n_source)
    np.testing.assert_allclose(through, coords.uniform_normalised(n), atol=1e-12)


def test_uniform_positions_of_equal_sizes_are_the_integers() -> None:
    np.testing.assert_array_equal(coords.uniform_positions(9, 9), np.arange(9))


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, geodeform.deform.coords; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
