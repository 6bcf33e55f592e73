"""The reverse map in torch against the one in numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from reverse_grids import softmax_scores, synthetic_grid

from geodeform.deform.coords import grid_to_pixels
from geodeform.deform.grid import uniform_grid
from geodeform.deform.kernels import torch_reverse
from geodeform.deform.kernels.torch_reverse import TorchReverse
from geodeform.deform.reverse import ReverseMap

Grid = NDArray[np.float32]
TIE = 1e-3  # px


def folded_grid() -> Grid:
    uniform = uniform_grid(1, (25, 25))[0].numpy()
    return uniform + 0.2 * np.sin(15 * uniform[..., ::-1]).astype(np.float32)


def assert_same(
    grid: Grid, size: tuple[int, int], device: str = "cpu", **block: tuple[int, int]
) -> None:
    """Same bits of C and D, same sample of B but for ties."""
    h, w = grid.shape[:2]
    expected = ReverseMap(grid, size)
    found = ReverseMap(grid, size, backend="torch", device=device)
    scores = softmax_scores(6, (h, w))
    np.testing.assert_array_equal(
        found.inverse_coordinates(**block), expected.inverse_coordinates(**block)
    )
    np.testing.assert_array_equal(
        found.interpolate_scores(scores, **block), expected.interpolate_scores(scores, **block)
    )
    for one, other in zip(
        found.reverse_scores(scores, **block), expected.reverse_scores(scores, **block), strict=True
    ):
        assert one.dtype == other.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
    assert_same_nearest(grid, size, found, expected, **block)


def assert_same_nearest(
    grid: Grid, size: tuple[int, int], found: ReverseMap, expected: ReverseMap, **block: Any
) -> None:
    one, other = found.nearest_index(**block), expected.nearest_index(**block)
    assert one.dtype == other.dtype == np.int32
    points = grid_to_pixels(grid.astype(np.float64), size).reshape(-1, 2)
    (y0, y1), (x0, x1) = block.get("rows", (0, size[0])), block.get("cols", (0, size[1]))
    y, x = np.mgrid[y0:y1, x0:x1] + 0.5
    distance = [np.hypot(points[k, 0] - x, points[k, 1] - y) for k in (one, other)]
    assert np.abs(distance[0] - distance[1])[one != other].max(initial=0) < TIE
    names = (np.arange(len(points)) % 200).astype(np.uint8).reshape(grid.shape[:2])
    np.testing.assert_array_equal(found.nearest_labels(names, **block), (one % 200))


CASES = {
    "noise": (synthetic_grid("strong noise", (40, 33)), (210, 305)),
    "peak": (synthetic_grid("sharp peak", (64, 64)), (333, 222)),
    "denser than pixels": (synthetic_grid("sharp peak", (90, 90)), (40, 50)),
    "folded": (folded_grid(), (150, 130)),
    "outside the frame": (1.5 * synthetic_grid("strong noise", (12, 15)), (60, 70)),
    "all at one place": (np.full((80, 90, 2), 0.3, np.float32), (64, 65)),
    "1 x 1": (np.full((1, 1, 2), 0.1, np.float32), (13, 17)),
    "1 x n": (uniform_grid(1, (1, 9))[0].numpy(), (33, 44)),
    "n x 1": (uniform_grid(1, (9, 1))[0].numpy(), (33, 44)),
    "window of 1 px": (uniform_grid(1, (9, 9))[0].numpy(), (1, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_same_as_numba(name: str) -> None:
    assert_same(*CASES[name])


def test_same_as_numba_in_blocks() -> None:
    grid, size = CASES["peak"]
    assert_same(grid, size, rows=(100, 171), cols=(3, 210))
    assert_same(grid, size, rows=(332, 333), cols=(221, 222))


def test_a_cluster_seen_from_afar() -> None:
    """10 000 samples within 5 × 5 px: the list of pairs must not grow without bound."""
    steps = np.linspace(0, 0.02, 100)
    grid = np.stack(np.meshgrid(steps - 0.3, steps + 0.2), -1).astype(np.float32)
    size = (500, 500)
    both = (ReverseMap(grid, size, backend="torch"), ReverseMap(grid, size))
    assert_same_nearest(grid, size, *both)


coordinates = st.integers(-9, 9).map(lambda k: np.float32(k / 8))


@settings(max_examples=30)
@given(
    npst.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
        lambda shape: npst.arrays(np.float32, (*shape, 2), elements=coordinates)
    ),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_same_as_numba_on_small_grids_of_any_shape(grid: Grid, size: tuple[int, int]) -> None:
    assert_same(grid, size)


@pytest.mark.parametrize("chunk_pixels", [1, 100, 5000])
def test_chunks_change_nothing(chunk_pixels: int) -> None:
    grid = torch.from_numpy(CASES["folded"][0])
    size = (20, 30) if chunk_pixels == 1 else (150, 130)
    scores = torch.from_numpy(softmax_scores(4, (25, 25)))
    whole, cut = TorchReverse(grid, size), TorchReverse(grid, size, chunk_pixels)
    assert torch.equal(cut.nearest_index(), whole.nearest_index())
    assert torch.equal(cut.inverse_coordinates(), whole.inverse_coordinates())
    assert torch.equal(cut.interpolate_scores(scores), whole.interpolate_scores(scores))
    for one, other in zip(cut.reverse_scores(scores), whole.reverse_scores(scores), strict=True):
        assert torch.equal(one, other)


def test_functions_are_the_methods() -> None:
    grid, size = torch.from_numpy(CASES["noise"][0]), CASES["noise"][1]
    back, block = TorchReverse(grid, size), {"rows": (3, 100), "cols": (10, 305)}
    scores = torch.from_numpy(softmax_scores(3, (40, 33)))
    names = scores.argmax(0).to(torch.uint8)
    index = torch_reverse.nearest_index(grid, size, **block)
    assert torch.equal(index, back.nearest_index(**block))
    assert index.dtype == torch.int32
    labels = torch_reverse.nearest_labels(grid, names, size, **block)
    assert torch.equal(labels, back.nearest_labels(names, **block))
    inverse = torch_reverse.inverse_coordinates(grid, size, **block)
    assert torch.equal(inverse, back.inverse_coordinates(**block))
    dense = torch_reverse.interpolate_scores(grid, scores, size, **block)
    assert torch.equal(dense, back.interpolate_scores(scores, **block))
    fused = torch_reverse.reverse_scores(grid, scores, size, **block)
    for one, other in zip(fused, back.reverse_scores(scores, **block), strict=True):
        assert torch.equal(one, other)


def test_ties_and_confidence() -> None:
    grid = uniform_grid(1, (3, 4))[0]
    back = TorchReverse(grid, (20, 30))
    labels, _ = back.reverse_scores(torch.full((4, 3, 4), 0.25))
    assert (labels == 0).all()
    for score, expected in ((-0.2, 0), (0.5, 128), (1.7, 255), (float("nan"), 0)):
        _, confidence = back.reverse_scores(torch.full((1, 3, 4), score))
        assert (confidence == expected).all()


def test_arguments_are_checked() -> None:
    grid = uniform_grid(1, (3, 4))[0]
    back = TorchReverse(grid, (30, 40))
    with pytest.raises(ValueError, match=r"\(h, w, 2\)"):
        TorchReverse(grid[0], (30, 40))
    with pytest.raises(ValueError, match="NaN"):
        TorchReverse(grid * torch.nan, (30, 40))
    with pytest.raises(ValueError, match="uint8"):
        back.nearest_labels(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\(C, 3, 4\)"):
        back.reverse_scores(torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="255"):
        back.reverse_scores(torch.zeros(256, 3, 4))
    with pytest.raises(ValueError, match="cols"):
        back.interpolate_scores(torch.zeros(2, 3, 4), cols=(0, 41))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_same_as_numba_on_cuda(name: str) -> None:
    assert_same(*CASES[name], device="cuda")
