"""The reverse map in numba against slow, obvious references, on real and on degenerate grids."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from reverse_grids import SYNTHETIC, dubai_labels, real_grid, softmax_scores, synthetic_grid
from scipy.spatial import cKDTree

from geodeform.deform import reverse
from geodeform.deform.coords import grid_to_pixels, to_pixel
from geodeform.deform.density import softmax_density
from geodeform.deform.grid import GridKernel, density_to_grid, folded_cells, uniform_grid
from geodeform.deform.kernels import numba_raster
from geodeform.deform.reverse import ReverseMap
from geodeform.deform.sample import sample_image

Grid = NDArray[np.float32]
TIE = 1e-3  # px


def distances(grid: Grid, size: tuple[int, int], index: NDArray[np.int32]) -> NDArray[np.float64]:
    """From each pixel's centre to the sample it was given, in pixels."""
    points = grid_to_pixels(grid.astype(np.float64), size).reshape(-1, 2)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.hypot(points[index, 0] - x, points[index, 1] - y)


def assert_nearest(grid: Grid, size: tuple[int, int]) -> None:
    """Every pixel's sample is the KD-tree's, or exactly as near but for rounding."""
    index = reverse.nearest_index(grid, size)
    points = grid_to_pixels(grid.astype(np.float64), size).reshape(-1, 2)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    # Building scipy's tree takes a minute where 90 000 points are one: it gets each place once.
    places, first = np.unique(points, axis=0, return_index=True)
    least, expected = cKDTree(places).query(np.stack((x, y), -1))
    other = index != first[expected]
    assert index.dtype == np.int32
    assert np.abs(distances(grid, size, index) - least)[other].max(initial=0) < TIE


# B


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize(("n", "size"), [((150, 150), (700, 700)), ((40, 70), (333, 501))])
def test_nearest_is_the_kd_trees(name: str, n: tuple[int, int], size: tuple[int, int]) -> None:
    assert_nearest(synthetic_grid(name, n), size)


@pytest.mark.parametrize("tile", [1, 7])
def test_nearest_on_real_densities(shared_data: Path, tile: int) -> None:
    assert_nearest(real_grid(shared_data, tile, (300, 300)), (1024, 1024))
    assert_nearest(real_grid(shared_data, tile, (32, 32)), (1024, 1024))


@pytest.mark.slow
def test_nearest_on_a_large_window(shared_data: Path) -> None:
    assert_nearest(real_grid(shared_data, 7, (300, 300)), (2448, 2448))


def clustered(n: int, side: float, size: tuple[int, int]) -> Grid:
    """n × n samples within side × side pixels, not in the middle."""
    steps = np.linspace(0, side, n)
    x, y = np.meshgrid(steps + 0.3 * size[1], steps + 0.6 * size[0])
    return np.stack((2 * x / size[1] - 1, 2 * y / size[0] - 1), -1).astype(np.float32)


def degenerate_grids() -> dict[str, tuple[Grid, tuple[int, int]]]:
    rng = np.random.default_rng(0)
    frame = np.linspace(-1, 1, 12)
    edge = np.stack(np.meshgrid(frame, frame), -1).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 5000)
    uniform = uniform_grid(1, (30, 30))[0].numpy()
    twisted = uniform + 0.3 * np.sin(20 * uniform[..., ::-1]).astype(np.float32)
    return {
        "all at one place": (np.full((300, 300, 2), 0.3, np.float32), (600, 600)),
        "90 000 in 10 x 10 px": (clustered(300, 10, (1500, 1500)), (1500, 1500)),
        "almost one place": (
            (0.3 + 1e-6 * rng.standard_normal((50, 50, 2))).astype(np.float32),
            (300, 300),
        ),
        "two places in turn": (
            np.where(np.indices((100, 100)).sum(0)[..., None] % 2, -0.5, 0.5)
            .repeat(2, -1)
            .astype(np.float32),
            (200, 300),
        ),
        "cluster and one far away": (
            np.concatenate((clustered(60, 3, (500, 500)), np.full((1, 60, 2), 0.99, np.float32))),
            (500, 500),
        ),
        "circle": (
            0.8 * np.stack((np.cos(angle), np.sin(angle)), -1)[None].astype(np.float32),
            (301, 301),
        ),
        "line": (np.stack((frame, 0 * frame), -1)[None].astype(np.float32), (100, 80)),
        "on the frame": (edge, (90, 50)),
        "outside the frame": (1.4 * edge, (90, 50)),
        "all outside": (edge + np.float32(3), (40, 50)),
        "folded": (twisted, (200, 200)),
        "shuffled": (rng.uniform(-1, 1, (30, 30, 2)).astype(np.float32), (150, 250)),
        "1 x 1": (np.full((1, 1, 2), 0.1, np.float32), (70, 90)),
        "1 x n": (uniform_grid(1, (1, 9))[0].numpy(), (33, 44)),
        "n x 1": (uniform_grid(1, (9, 1))[0].numpy(), (33, 44)),
        "window of 1 px": (uniform, (1, 1)),
        "window of one row": (uniform, (1, 77)),
        "window of one column": (uniform, (77, 1)),
        "denser than pixels": (uniform_grid(1, (200, 300))[0].numpy(), (40, 30)),
    }


DEGENERATE = degenerate_grids()


@pytest.mark.parametrize("name", DEGENERATE)
def test_nearest_on_degenerate_grids(name: str) -> None:
    assert_nearest(*DEGENERATE[name])


def test_samples_at_one_place_give_the_first() -> None:
    grid = np.full((50, 60, 2), -0.25, np.float32)
    grid[3:, 7:] = 0.5
    assert set(np.unique(reverse.nearest_index(grid, (64, 64)))) == {0, 3 * 60 + 7}


def test_exact_ties_go_to_the_lower_index() -> None:
    grid = uniform_grid(1, (4, 4))[0].numpy()  # samples at 1.5, 4.5 …: no ties at 12 px
    grid[..., 0] = np.array([-0.75, -0.25, 0.25, 0.75])
    index = reverse.nearest_index(grid, (12, 20))  # x: 2.5, 7.5, 12.5, 17.5 → 5 is no centre
    assert (index[0] == np.repeat(np.arange(4), 5)).all()
    index = reverse.nearest_index(grid, (12, 8))  # x: 1, 3, 5, 7; no centre is tied either
    assert (index[0] == np.repeat(np.arange(4), 2)).all()
    index = reverse.nearest_index(grid, (12, 12))  # x: 1.5, 4.5 …
    assert (index[0] == np.repeat(np.arange(4), 3)).all()
    halves = np.array([[[-0.5, 0], [0, 0], [0.5, 0]]], np.float32)
    index = reverse.nearest_index(halves, (1, 12))  # x: 3, 6, 9: centre 4.5 is tied, and 7.5
    assert index[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


coordinates = st.integers(-9, 9).map(lambda k: np.float32(k / 8))


@settings(max_examples=60)
@given(
    grid=npst.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
        lambda shape: npst.arrays(np.float32, (*shape, 2), elements=coordinates)
    ),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.data(),
)
def test_small_grids_of_any_shape(grid: Grid, size: tuple[int, int], data: st.DataObject) -> None:
    """Collapsed, folded and outside samples alike, every method, whole and in blocks."""
    h, w = grid.shape[:2]
    y0 = data.draw(st.integers(0, size[0] - 1))
    y1 = data.draw(st.integers(y0 + 1, size[0]))
    x0 = data.draw(st.integers(0, size[1] - 1))
    x1 = data.draw(st.integers(x0 + 1, size[1]))
    block = {"rows": (y0, y1), "cols": (x0, x1)}
    part = np.s_[y0:y1, x0:x1]
    back = ReverseMap(grid, size)

    index = back.nearest_index()
    points = grid_to_pixels(grid.astype(np.float64), size).reshape(-1, 2)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    all_distances = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
    assert np.abs(distances(grid, size, index) - all_distances.min(-1)).max() < TIE
    np.testing.assert_array_equal(back.nearest_index(**block), index[part])
    names = np.arange(h * w, dtype=np.uint8).reshape(h, w)
    np.testing.assert_array_equal(back.nearest_labels(names), index)
    np.testing.assert_array_equal(back.nearest_labels(names // 5, **block), index[part] // 5)

    inverse = back.inverse_coordinates()
    assert (np.abs(inverse) <= 1 - 1 / np.array([w, h]) + 1e-6).all()
    np.testing.assert_array_equal(back.inverse_coordinates(**block), inverse[part])
    scores = np.random.default_rng(0).dirichlet(np.ones(3), (h, w)).astype(np.float32)
    scores = scores.transpose(2, 0, 1)
    dense = back.interpolate_scores(scores)
    np.testing.assert_allclose(dense.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(back.interpolate_scores(scores, **block), dense[:, *part])
    labels, confidence = back.reverse_scores(scores)
    assert_fused(labels, confidence, dense)
    for whole, cut in zip((labels, confidence), back.reverse_scores(scores, **block), strict=True):
        np.testing.assert_array_equal(cut, whole[part])


def assert_fused(
    labels: NDArray[np.uint8], confidence: NDArray[np.uint8], dense: NDArray[np.float32]
) -> None:
    """The fused answer is the dense one's arg-max and max, but for rounding."""
    assert labels.dtype == confidence.dtype == np.uint8
    chosen = np.take_along_axis(dense, labels[None].astype(np.int64), 0)[0]
    assert (dense.max(0) - chosen).max() < 1e-6
    expected = 255 * np.clip(dense.max(0).astype(np.float64), 0, 1)
    assert np.abs(confidence - expected).max() <= 0.5 + 1e-4


# Blocks


@pytest.mark.parametrize("tile", [7])
def test_blocks_join_bit_for_bit(shared_data: Path, tile: int) -> None:
    grid, size = real_grid(shared_data, tile, (90, 80)), (510, 643)
    scores = softmax_scores(7, (90, 80))
    names = scores.argmax(0).astype(np.uint8)
    whole = ReverseMap(grid, size)
    expected = (
        whole.nearest_index(),
        whole.nearest_labels(names),
        *whole.inverse_coordinates().transpose(2, 0, 1),
        *whole.reverse_scores(scores),
        *whole.interpolate_scores(scores),
    )
    rng = np.random.default_rng(0)
    for cuts_y, cuts_x in (([256], []), ([1, 2, 300], [17, 640]), (range(64, 510, 64), [320])):
        joined = [np.zeros_like(a) for a in expected]
        rows = [0, *cuts_y, size[0]]
        cols = [0, *cuts_x, size[1]]
        spans = [(r, c) for r in pairwise(rows) for c in pairwise(cols)]
        rng.shuffle(spans)
        for r, c in ((tuple(map(int, r)), tuple(map(int, c))) for r, c in spans):
            parts = (
                whole.nearest_index(rows=r, cols=c),
                whole.nearest_labels(names, rows=r, cols=c),
                *whole.inverse_coordinates(rows=r, cols=c).transpose(2, 0, 1),
                *whole.reverse_scores(scores, rows=r, cols=c),
                *whole.interpolate_scores(scores, rows=r, cols=c),
            )
            for target, part in zip(joined, parts, strict=True):
                target[r[0] : r[1], c[0] : c[1]] = part
        for found, wanted in zip(joined, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_blocks_from_several_threads() -> None:
    back = ReverseMap(synthetic_grid("peak", (60, 60)), (400, 500))
    scores = softmax_scores(5, (60, 60))
    strips = [(y, y + 25) for y in range(0, 400, 25)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rows: back.reverse_scores(scores, rows=rows), strips))
        index = list(pool.map(lambda rows: back.nearest_index(rows=rows), strips))
    for k, wanted in enumerate(back.reverse_scores(scores)):
        np.testing.assert_array_equal(np.concatenate([pair[k] for pair in found]), wanted)
    np.testing.assert_array_equal(np.concatenate(index), back.nearest_index())


def test_out_of_any_strides() -> None:
    back = ReverseMap(synthetic_grid("noise", (20, 20)), (90, 70))
    scores = softmax_scores(3, (20, 20))
    buffer = np.full((5, 100, 100), -1, np.float32)
    out = buffer[1:4, 10:40, 20:50]
    assert back.interpolate_scores(scores, rows=(5, 35), cols=(7, 37), out=out) is out
    np.testing.assert_array_equal(out, back.interpolate_scores(scores)[:, 5:35, 7:37])
    out[...] = -1
    assert (buffer == -1).all()


def test_empty_blocks() -> None:
    back = ReverseMap(synthetic_grid("noise", (20, 20)), (90, 70))
    scores = softmax_scores(3, (20, 20))
    assert back.nearest_index(rows=(4, 4)).shape == (0, 70)
    assert back.nearest_labels(np.zeros((20, 20), np.uint8), cols=(70, 70)).shape == (90, 0)
    assert back.inverse_coordinates(rows=(90, 90)).shape == (0, 70, 2)
    assert back.reverse_scores(scores, cols=(0, 0))[0].shape == (90, 0)
    assert back.interpolate_scores(scores, rows=(0, 0)).shape == (3, 0, 70)


# C


class Writes:
    """Stands in for an output array and counts how often each element is written."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.count = np.zeros(shape, np.int64)

    def __setitem__(self, key: tuple[int, int, int], value: float) -> None:
        self.count[key[1:]] += 1


def count_writes(grid: Grid, size: tuple[int, int]) -> NDArray[np.int64]:
    """How often the very code of the kernel, run as Python, writes each pixel."""
    setup = numba_raster.prepare_raster(grid, size)
    block = (0, size[0], 0, size[1])
    writes = Writes(size)
    channels = np.zeros((1, *grid.shape[:2]), np.float32)
    numba_raster._paint_channels.py_func(
        setup.x, setup.y, channels, *setup.cells(block), *block, writes
    )
    return writes.count


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize(("n", "size"), [((20, 15), (70, 90)), ((60, 60), (50, 61))])
def test_each_pixel_is_written_once(name: str, n: tuple[int, int], size: tuple[int, int]) -> None:
    grid = synthetic_grid(name, n)
    assert folded_cells(torch.from_numpy(grid)[None]) == 0
    assert (count_writes(grid, size) == 1).all()


def test_each_pixel_is_written_once_on_real_densities(shared_data: Path) -> None:
    assert (count_writes(real_grid(shared_data, 7, (40, 40), sigma=6.0), (150, 140)) == 1).all()


@pytest.mark.parametrize("name", ["on the frame", "1 x 1", "1 x n", "n x 1", "window of 1 px"])
def test_each_pixel_is_written_once_on_narrow_grids(name: str) -> None:
    assert (count_writes(*DEGENERATE[name]) == 1).all()


@pytest.mark.parametrize("name", set(DEGENERATE) - {"90 000 in 10 x 10 px", "all at one place"})
def test_no_holes_on_any_grid(name: str) -> None:
    grid, size = DEGENERATE[name]
    scores = np.ones((1, *grid.shape[:2]), np.float32)
    out = np.full((1, *size), np.nan, np.float32)
    reverse.interpolate_scores(grid, scores, size, out=out)
    np.testing.assert_allclose(out, 1, atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.floats(0, 6))
def test_written_once_for_random_densities(seed: int, h: int, w: int, strength: float) -> None:
    logits = torch.randn(1, 1, 12, 15, generator=torch.Generator().manual_seed(seed))
    grid = density_to_grid(softmax_density(strength * logits), (h, w), GridKernel(2.0))[0].numpy()
    assert (count_writes(grid, (23, 31)) == 1).all()


def indices(inverse: NDArray[np.float32], n: tuple[int, int]) -> NDArray[np.float64]:
    """Inverse coordinates as (x, y) index coordinates of the sampled image."""
    return np.stack([to_pixel(inverse[..., k].astype(float), n[1 - k]) - 0.5 for k in (0, 1)], -1)


def assert_back_at_samples(grid: Grid, size: tuple[int, int]) -> None:
    """Half a sampled pixel, reading the inverse at the pixel that holds each sample."""
    h, w = grid.shape[:2]
    x, y = np.moveaxis(grid_to_pixels(grid.astype(np.float64), size), -1, 0)
    inverse = indices(reverse.inverse_coordinates(grid, size), (h, w))
    col = np.clip(x.astype(int), 0, size[1] - 1)
    row = np.clip(y.astype(int), 0, size[0] - 1)
    error = inverse[row, col] - np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)
    assert np.abs(error).max() < 0.5


@pytest.mark.parametrize("name", SYNTHETIC)
def test_back_of_grid_is_within_half_a_sample(name: str) -> None:
    assert_back_at_samples(synthetic_grid(name, (64, 64)), (1024, 1024))


@pytest.mark.parametrize("tile", [1, 7])
def test_back_of_real_grid_is_within_half_a_sample(shared_data: Path, tile: int) -> None:
    assert_back_at_samples(real_grid(shared_data, tile, (128, 128)), (1024, 1024))


def test_inverse_of_the_uniform_grid_is_the_uniform_grid() -> None:
    size = (60, 84)
    inverse = reverse.inverse_coordinates(uniform_grid(1, (10, 12))[0].numpy(), size)
    identity = uniform_grid(1, size)[0].numpy()
    limit = 1 - 1 / np.array([12, 10], np.float32)
    np.testing.assert_allclose(inverse, np.clip(identity, -limit, limit), atol=1e-6)


def test_samples_at_pixel_centres_are_read_exactly() -> None:
    grid = uniform_grid(1, (9, 9))[0].numpy()
    inverse = reverse.inverse_coordinates(grid, (27, 27))[1::3, 1::3]
    np.testing.assert_allclose(inverse, grid, atol=1e-6)


# D


def affine_from_inverse(
    inverse: NDArray[np.float32], scores: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Interpolate scores by their definition: affine in each half of the cell that C names."""
    h, w = scores.shape[1:]
    x, y = np.moveaxis(indices(inverse, (h, w)), -1, 0)
    j, i = (
        np.clip(np.floor(x).astype(int), 0, max(w - 2, 0)),
        np.clip(np.floor(y).astype(int), 0, max(h - 2, 0)),
    )
    u, v = x - j, y - i
    j1, i1 = np.minimum(j + 1, w - 1), np.minimum(i + 1, h - 1)
    s = scores.astype(np.float64)
    s00, s01, s10, s11 = s[:, i, j], s[:, i, j1], s[:, i1, j], s[:, i1, j1]
    upper = s00 + u * (s01 - s00) + v * (s10 - s00)
    lower = s11 + (1 - u) * (s10 - s11) + (1 - v) * (s01 - s11)
    return np.where(u + v <= 1, upper, lower)


def assert_scores(grid: Grid, size: tuple[int, int], scores: NDArray[np.float32]) -> None:
    back = ReverseMap(grid, size)
    inverse = back.inverse_coordinates()
    dense = back.interpolate_scores(scores)
    labels, confidence = back.reverse_scores(scores)
    np.testing.assert_allclose(dense, affine_from_inverse(inverse, scores), atol=1e-4)
    assert_fused(labels, confidence, dense)
    # grid_sample is bilinear in a cell where this is affine in its halves. They differ by at most
    # a quarter of |s00 + s11 − s01 − s10|, in the middle of the cell.
    bilinear = F.grid_sample(
        torch.from_numpy(scores)[None],
        torch.from_numpy(inverse)[None],
        align_corners=False,
        padding_mode="border",
    )[0].numpy()
    twist = scores[:, :-1, :-1] + scores[:, 1:, 1:] - scores[:, :-1, 1:] - scores[:, 1:, :-1]
    assert np.abs(dense - bilinear).max() <= np.abs(twist).max(initial=0) / 4 + 1e-4
    assert (labels == bilinear.argmax(0)).mean() > 0.99
    assert np.abs(confidence / 255 - bilinear.max(0)).mean() < 0.01


@pytest.mark.parametrize("name", SYNTHETIC)
def test_scores_against_their_definition_and_grid_sample(name: str) -> None:
    assert_scores(synthetic_grid(name, (80, 60)), (400, 500), softmax_scores(7, (80, 60)))


def test_real_scores_against_their_definition_and_grid_sample(shared_data: Path) -> None:
    """Probabilities as sharp as a confident network's: blurred one-hot labels at the samples."""
    grid, size = real_grid(shared_data, 7, (128, 128)), (1000, 1000)
    labels = torch.from_numpy(dubai_labels(shared_data, 7)).long()
    one_hot = F.one_hot(torch.where(labels == 255, 1, labels), 5).movedim(-1, 0).float()
    blurred = F.avg_pool2d(one_hot[None], 15, 1, 7)
    scores = F.grid_sample(blurred, torch.from_numpy(grid)[None], align_corners=False)[0]
    assert_scores(grid, size, scores.numpy())


def test_one_class_after_another_wins_with_many_classes() -> None:
    """The classes that the kernel leaves out as beaten never win."""
    grid, size = synthetic_grid("peak", (40, 40)), (300, 300)
    noise = np.random.default_rng(0).standard_normal((60, 40, 40)).astype(np.float32)
    back = ReverseMap(grid, size)
    labels, confidence = back.reverse_scores(noise)
    assert_fused(labels, confidence, back.interpolate_scores(noise))
    assert len(np.unique(labels)) == 60


@pytest.mark.parametrize("name", SYNTHETIC)
def test_fields_affine_in_the_sampled_index_agree_with_grid_sample(name: str) -> None:
    h, w = 50, 40
    y, x = np.mgrid[:h, :w].astype(np.float32)
    fields = np.stack((x, y, 1 + 0.25 * x - 0.5 * y)) / 50
    back = ReverseMap(synthetic_grid(name, (h, w)), (300, 333))
    sampled = F.grid_sample(
        torch.from_numpy(fields)[None],
        torch.from_numpy(back.inverse_coordinates())[None],
        align_corners=False,
    )[0]
    np.testing.assert_allclose(back.interpolate_scores(fields), sampled.numpy(), atol=2e-5)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_constants_stay_constant(name: str) -> None:
    scores = np.broadcast_to(np.float32([0.1, 0.7, 0.2])[:, None, None], (3, 30, 20))
    back = ReverseMap(synthetic_grid(name, (30, 20)), (200, 333))
    for dense, value in zip(back.interpolate_scores(scores), (0.1, 0.7, 0.2), strict=True):
        assert (dense == np.float32(value)).all()
    labels, confidence = back.reverse_scores(scores)
    assert (labels == 1).all()
    assert (confidence == 178).all()  # 255 times float32's 0.7 is just below 178.5


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_ramp_comes_back_without_bias(name: str) -> None:
    """Sampling a ramp and reversing it: exact between the samples, half a spacing at the rim."""
    H, W, h, w = 400, 500, 40, 50
    grid = synthetic_grid(name, (h, w))
    y, x = np.mgrid[:H, :W].astype(np.float32) + np.float32(0.5)
    ramps = torch.from_numpy(np.stack((x, y)))[None]
    sampled = sample_image(ramps, torch.from_numpy(grid)[None], mode="bilinear")[0].numpy()
    error = reverse.interpolate_scores(grid, sampled, (H, W)) - np.stack((x, y))
    inverse = indices(reverse.inverse_coordinates(grid, (H, W)), (h, w))
    inside = ((inverse > 0) & (inverse < (w - 1, h - 1))).all(-1)
    assert inside.mean() > 0.85
    points = grid_to_pixels(grid, (H, W))
    # Samples within half a pixel of the frame read the outermost pixels' centres (spikes only).
    clamped = float(np.abs(points - np.clip(points, 0.5, (W - 0.5, H - 0.5))).max())
    assert clamped == 0 or name == "spikes"
    assert np.abs(error[:, inside]).max() < clamped + 2e-3
    assert abs(error[:, inside].mean()) < clamped + 1e-4
    rim = max(
        points[:, 0, 0].max(), W - points[:, -1, 0].min(),
        points[0, :, 1].max(), H - points[-1, :, 1].min(),
    )  # fmt: skip
    assert np.abs(error).max() <= rim
    if name == "uniform":
        assert np.abs(error).max() < 5  # half of the spacing of 10 px
        assert abs(error.mean()) < 1e-3


@pytest.mark.parametrize(("n", "size"), [((10, 12), (60, 84)), ((7, 5), (7, 5)), ((1, 4), (3, 8))])
def test_uniform_grid_agrees_with_interpolate_on_planes(
    n: tuple[int, int], size: tuple[int, int]
) -> None:
    y, x = np.mgrid[: n[0], : n[1]].astype(np.float32)
    planes = np.stack((x, y, 3 - 0.5 * x + 0.25 * y))
    expected = F.interpolate(
        torch.from_numpy(planes)[None], size, mode="bilinear", align_corners=False
    )[0]
    found = reverse.interpolate_scores(uniform_grid(1, n)[0].numpy(), planes, size)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_ties_go_to_the_lowest_class() -> None:
    grid, size = synthetic_grid("noise", (20, 30)), (100, 90)
    for n in (2, 5):
        labels, _ = reverse.reverse_scores(grid, np.full((n, 20, 30), 1 / n, np.float32), size)
        assert (labels == 0).all()
    scores = softmax_scores(3, (20, 30))
    labels, _ = reverse.reverse_scores(grid, np.concatenate((scores, scores)), size)
    np.testing.assert_array_equal(labels, reverse.reverse_scores(grid, scores, size)[0])


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0, 0), (1, 255), (1.7, 255), (-0.2, 0), (0.5, 128), (0.1, 26), (1 / 255, 1), (math.nan, 0)],
)
def test_confidence_is_rounded_and_clipped(score: float, expected: int) -> None:
    grid = uniform_grid(1, (2, 2))[0].numpy()
    _, confidence = reverse.reverse_scores(grid, np.full((1, 2, 2), score, np.float32), (5, 5))
    assert (confidence == expected).all()


def test_a_checkerboard_of_confident_samples_keeps_its_labels() -> None:
    grid = uniform_grid(1, (6, 6))[0].numpy()
    board = np.indices((6, 6)).sum(0) % 2
    labels, confidence = reverse.reverse_scores(
        grid, np.eye(2, dtype=np.float32)[:, board], (18, 18)
    )
    np.testing.assert_array_equal(labels[1::3, 1::3], board)
    assert (confidence[1::3, 1::3] == 255).all()


# The object


def test_arguments_are_checked() -> None:
    grid = uniform_grid(1, (3, 4))[0].numpy()
    back = ReverseMap(grid, (30, 40))
    with pytest.raises(ValueError, match=r"\(h, w, 2\)"):
        ReverseMap(grid[0], (30, 40))
    with pytest.raises(ValueError, match=r"\(h, w, 2\)"):
        ReverseMap(grid[:0], (30, 40))
    with pytest.raises(ValueError, match="NaN"):
        ReverseMap(grid * np.nan, (30, 40))
    with pytest.raises(ValueError, match="positive"):
        ReverseMap(grid, (0, 40))
    with pytest.raises(ValueError, match="'cuda'"):
        ReverseMap(grid, (30, 40), device="cuda")
    with pytest.raises(ValueError, match="'triton'"):
        ReverseMap(grid, (30, 40), backend="triton")  # type: ignore[arg-type]
    for rows in ((-1, 3), (3, 2), (0, 31)):
        with pytest.raises(ValueError, match="rows"):
            back.nearest_index(rows=rows)
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        back.nearest_labels(np.zeros((4, 3), np.uint8))
    with pytest.raises(ValueError, match="int64"):
        back.nearest_labels(np.zeros((3, 4), np.int64))
    for bad in (np.zeros((0, 3, 4)), np.zeros((3, 4)), np.zeros((2, 4, 3))):
        with pytest.raises(ValueError, match=r"\(C, 3, 4\)"):
            back.reverse_scores(bad)
    with pytest.raises(ValueError, match="255"):
        back.reverse_scores(np.zeros((256, 3, 4)))
    with pytest.raises(ValueError, match="out"):
        back.interpolate_scores(np.zeros((1, 3, 4)), out=np.zeros((1, 30, 40)))


def test_any_floating_type_read_only_or_not() -> None:
    grid = uniform_grid(1, (3, 4), dtype=torch.float64)[0].numpy()
    grid.flags.writeable = False
    scores = softmax_scores(3, (3, 4)).astype(np.float64)
    scores.flags.writeable = False
    back = ReverseMap(grid, (30, 40))  # type: ignore[arg-type]
    labels, _ = back.reverse_scores(scores)
    names = np.asfortranarray(scores.argmax(0).astype(np.uint8))
    names.flags.writeable = False
    assert back.grid.dtype == np.float32
    assert back.grid_size == (3, 4)
    assert (labels == back.nearest_labels(names)).mean() > 0.8


def test_functions_are_the_methods() -> None:
    grid, size = synthetic_grid("peak", (9, 8)), (40, 50)
    scores = softmax_scores(3, (9, 8))
    names = scores.argmax(0).astype(np.uint8)
    back, block = ReverseMap(grid, size), {"rows": (3, 30), "cols": (10, 50)}
    pairs = (
        (reverse.nearest_index(grid, size, **block), back.nearest_index(**block)),
        (reverse.nearest_labels(grid, names, size, **block), back.nearest_labels(names, **block)),
        (reverse.inverse_coordinates(grid, size, **block), back.inverse_coordinates(**block)),
        (reverse.reverse_scores(grid, scores, size, **block), back.reverse_scores(scores, **block)),
        (
            reverse.interpolate_scores(grid, scores, size, **block),
            back.interpolate_scores(scores, **block),
        ),
    )
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)


def test_the_grid_is_copied() -> None:
    grid = uniform_grid(1, (3, 4))[0].numpy()
    back = ReverseMap(grid, (30, 40))
    expected = reverse.nearest_index(grid, (30, 40))
    grid[...] = 0
    np.testing.assert_array_equal(back.nearest_index(), expected)


def test_kernels_compile_where_nothing_can_be_cached() -> None:
    """As in a container without a writable folder: numba then refuses ``cache=True``."""
    code = (
        "from geodeform.deform.kernels import numba_raster as r\n"
        "assert r._slope(0.0, 0.0, 1.0, 2.0) == 0.5"
    )
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}
    run = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert run.returncode == 0


def test_the_cpu_path_needs_no_torch() -> None:
    code = "import geodeform.deform.reverse, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
