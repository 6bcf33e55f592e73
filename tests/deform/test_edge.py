"""Edge-based sampling against literal loops, a dense solve, and on real masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from geodeform.deform.edge import boundary_grid, minimise_energy, nearest_boundary, resize_grid
from geodeform.deform.grid import folded_cells, repair_folds, uniform_grid
from geodeform.deform.sample import sample_labels

UNKNOWN = 255


def uniform(size: tuple[int, int]) -> np.ndarray:
    """(h, w, 2), written out."""
    h, w = size
    return np.array(
        [[((2 * j + 1) / w - 1, (2 * i + 1) / h - 1) for j in range(w)] for i in range(h)]
    )


def blobs(size: tuple[int, int], seed: int, n_classes: int = 3) -> Tensor:
    """(1, H, W) labels in patches, a few of them unknown."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, n_classes, (1, 1, 4, 4), generator=generator).float()
    coarse[0, 0, 0, 1] = UNKNOWN
    return torch.nn.functional.interpolate(coarse, size=size)[:, 0].to(torch.uint8)


def literal_boundary(labels: np.ndarray) -> list[tuple[float, float]]:
    """Pixel (x, y) of the middles of the sides between known pixels of different classes."""
    h, w = labels.shape
    points = []
    for y in range(h):
        for x in range(w):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v == h or u == w or UNKNOWN in (labels[y, x], labels[v, u]):
                    continue
                if labels[y, x] != labels[v, u]:
                    points.append(((x + u + 1) / 2, (y + v + 1) / 2))
    return points


def energy(grid: np.ndarray, target: np.ndarray, weight: float) -> float:
    """Eq. 2 as it is written, each pair of neighbours once; (h, w, 2)."""
    h, w = grid.shape[:2]
    total = 0.0
    for i in range(h):
        for j in range(w):
            total += ((grid[i, j] - target[i, j]) ** 2).sum()
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < h and m < w:
                    total += weight * ((grid[i, j] - grid[k, m]) ** 2).sum()
    return total


def dense_minimum(target: np.ndarray, weight: float) -> np.ndarray:
    """Minimise :func:`energy` by a dense solve: one unknown per sample, fixed ones eliminated."""
    h, w = target.shape[:2]
    positions = uniform((h, w))
    matrix = np.eye(h * w)
    for i in range(h):
        for j in range(w):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < h and 0 <= m < w:
                    matrix[i * w + j, i * w + j] += weight
                    matrix[i * w + j, k * w + m] -= weight
    solved = positions.copy()
    for component in (0, 1):
        fixed = np.zeros((h, w), bool)
        if component == 0:
            fixed[:, [0, -1]] = True
        else:
            fixed[[0, -1]] = True
        fixed = fixed.ravel()
        known = positions[..., component].ravel()[fixed]
        right = target[..., component].ravel()[~fixed] - matrix[np.ix_(~fixed, fixed)] @ known
        solution = positions[..., component].ravel()
        solution[~fixed] = np.linalg.solve(matrix[np.ix_(~fixed, ~fixed)], right)
        solved[..., component] = solution.reshape(h, w)
    return solved


def real_labels(shared_data: Path, side: int) -> dict[str, Tensor]:
    """Square maps of class ids, side × side, of each kind of real mask that there is."""
    paths = {
        "camvid": sorted((shared_data / "camvid" / "trainannot").glob("*.png"))[::60],
        "dubai": sorted((shared_data / "dubai").glob("Tile */masks/image_part_00[15].png")),
        "deepglobe": sorted((shared_data / "deepglobe_sample").glob("*_mask.png")),
    }
    void = {"camvid": 11, "dubai": 0x9B9B9B, "deepglobe": 0}
    found = {}
    for name, files in paths.items():
        maps = []
        for path in files:
            pixels = np.asarray(Image.open(path)).astype(np.int64)
            if pixels.ndim == 3:
                pixels = (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]
            shortest = min(pixels.shape)
            pixels = pixels[:shortest, :shortest]
            ids = np.where(pixels == void[name], UNKNOWN, 1000 + pixels)  # any numbers serve as ids
            labels = torch.from_numpy(ids)[None]
            maps.append(sample_labels(labels, uniform_grid(1, (side, side))))
        found[name] = torch.cat(maps)
    return found


# --- the closest boundary point ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "frame"),
    [((9, 12), (9, 12), None), ((8, 8), (5, 11), (8, 24)), ((12, 7), (3, 4), (30, 10))],
)
def test_nearest_boundary_against_a_search_of_all_points(
    shape: tuple[int, int], size: tuple[int, int], frame: tuple[int, int] | None
) -> None:
    labels = torch.cat([blobs(shape, seed) for seed in range(3)])
    found = nearest_boundary(labels, size, frame=frame)
    unit = np.array((frame or shape)[::-1]) / 2  # of a normalised coordinate, (x, y)
    outermost = np.abs(uniform(size)[-1, -1])
    for one, nearest in zip(labels.numpy(), found, strict=True):
        points = np.array(literal_boundary(one)) * 2 / np.array(shape[::-1]) - 1
        assert len(points) > 5
        for i, row in enumerate(uniform(size)):
            for j, position in enumerate(row):
                distance = np.hypot(*((points - position) * unit).T)
                closest = points[distance < distance.min() + 1e-6].clip(-outermost, outermost)
                assert np.abs(closest - nearest[i, j]).sum(1).min() < 1e-12


def test_the_frame_decides_which_point_is_closest() -> None:
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    labels[:, :, 7:] = 1  # a boundary 2.5 pixels to the right of the middle
    labels[:, 8:, :7] = 2  # and one 3.5 pixels below
    middle = nearest_boundary(labels, (9, 9))[0, 4, 4]
    assert middle.tolist() == pytest.approx([5 / 9, 0])
    wide = nearest_boundary(labels, (9, 9), frame=(9, 18))[0, 4, 4]  # pixels twice as wide as high
    assert wide.tolist() == pytest.approx([0, 7 / 9])


def test_of_equally_close_points_all_samples_take_the_same_side() -> None:
    labels = torch.zeros(1, 16, 17, dtype=torch.uint8)
    labels[:, :, 6:11] = 1  # a road whose middle column is as far from either side
    targets = nearest_boundary(labels, (16, 17))
    np.testing.assert_allclose(targets[0, :, 8, 0], 12 / 17 - 1)
    np.testing.assert_allclose(targets[0, :, 9, 0], 22 / 17 - 1)
    np.testing.assert_allclose(targets[0, :, 8, 1], uniform((16, 17))[:, 8, 1])


# --- the minimum ---------------------------------------------------------------------------------


@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    weight=st.sampled_from([0.1, 1.0, 2.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_minimum_against_a_dense_solve(h: int, w: int, weight: float, seed: int) -> None:
    target = np.random.default_rng(seed).uniform(-1, 1, (2, h, w, 2))
    found = minimise_energy(target, weight)
    for one, minimum in zip(target, found, strict=True):
        np.testing.assert_allclose(minimum, dense_minimum(one, weight), atol=1e-12)


def test_no_grid_that_covers_has_less_energy() -> None:
    rng = np.random.default_rng(0)
    labels = blobs((7, 10), 1)
    target = nearest_boundary(labels, (7, 10))
    best = minimise_energy(target, 1.0)[0]
    least = energy(best, target[0], 1.0)
    assert least < 0.9 * energy(uniform((7, 10)), target[0], 1.0)
    for _ in range(20):
        change = 0.01 * rng.standard_normal((7, 10, 2))
        change[:, [0, -1], 0] = 0
        change[[0, -1], :, 1] = 0
        assert energy(best + change, target[0], 1.0) > least
    free = best.copy()
    free[0, :, 1] = target[0, 0, :, 1]  # without the constraint there would be less
    assert energy(free, target[0], 1.0) < least


def test_weight_goes_from_the_boundary_points_to_the_uniform_grid() -> None:
    target = np.random.default_rng(0).uniform(-1, 1, (1, 6, 8, 2))
    tight, loose = minimise_energy(target, 1e-9), minimise_energy(target, 1e9)
    np.testing.assert_allclose(tight[0, 1:-1, 1:-1], target[0, 1:-1, 1:-1], atol=1e-6)
    np.testing.assert_allclose(loose[0], uniform((6, 8)), atol=1e-6)


# --- grids of label maps -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(12, 20), (5, 9), (1, 6), (2, 2)])
def test_without_a_boundary_the_grid_is_uniform(size: tuple[int, int]) -> None:
    labels = torch.zeros(3, 12, 20, dtype=torch.uint8)
    labels[1] = UNKNOWN
    labels[2, :, 9:] = UNKNOWN
    labels[2, 3:5, 2:4] = UNKNOWN
    assert torch.equal(boundary_grid(labels, size), uniform_grid(3, size))


@given(st.integers(0, 1000), st.permutations(range(4)))
def test_only_borders_matter_not_the_ids(seed: int, order: list[int]) -> None:
    labels = blobs((16, 16), seed, 4)
    table = torch.arange(256)
    table[:4] = torch.tensor(order) + 40
    grid = boundary_grid(labels, (8, 8))
    assert torch.equal(boundary_grid(table[labels.long()], (8, 8)), grid)
    assert not torch.equal(grid, uniform_grid(1, (8, 8)))


def test_outermost_samples_cover_the_frame() -> None:
    grid, plain = boundary_grid(blobs((20, 30), 3), (10, 16)), uniform_grid(1, (10, 16))
    for edge in (0, -1):
        assert torch.equal(grid[:, edge, :, 1], plain[:, edge, :, 1])
        assert torch.equal(grid[:, :, edge, 0], plain[:, :, edge, 0])
    assert not torch.equal(grid[:, 0, :, 0], plain[:, 0, :, 0])  # along the edge they are free


def test_a_boundary_beyond_the_outermost_samples_does_not_fold_the_grid() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, 1:] = 1  # all boundary points lie one pixel from the top, samples start four below
    grid = boundary_grid(labels, (8, 8), repair=False)
    assert int(folded_cells(grid)) == 0
    assert float(grid[..., 1].min()) == float(uniform_grid(1, (8, 8))[..., 1].min())
    assert float(grid[0, 3, 3, 1]) < -0.8  # it went there, from −0.125


@pytest.mark.parametrize("side", [16, 64])
def test_grids_of_real_masks_are_sound_and_lie_at_the_boundaries(
    shared_data: Path, side: int
) -> None:
    folded = []
    for name, labels in real_labels(shared_data, 64).items():
        exact = boundary_grid(labels, (side, side), repair=False)
        grid = boundary_grid(labels, (side, side))
        assert int(folded_cells(grid).sum()) == 0
        sound = folded_cells(exact) == 0
        assert torch.equal(grid[sound], exact[sound])
        folded.append(~sound)
        target = torch.from_numpy(nearest_boundary(labels, (side, side)))
        before, after = (
            float((one - target).norm(dim=-1).mean())
            for one in (uniform_grid(1, (side, side)), grid)
        )
        assert after < 0.8 * before, name
    share = float(torch.cat(folded).double().mean())  # of the exact minima; see the module's head
    assert share < 0.1 if side == 16 else share > 0.3


def test_labels_may_be_of_any_integer_type() -> None:
    labels = blobs((16, 16), 0)
    expected = boundary_grid(labels, (8, 8))
    assert expected.dtype == torch.float32
    for dtype in (torch.int16, torch.int32, torch.int64):
        assert torch.equal(boundary_grid(labels.to(dtype), (8, 8)), expected)


def test_wrong_input_is_refused() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"labels must be \(B, H, W\) of an integer type, got \(4"):
        boundary_grid(labels[0], (2, 2))
    with pytest.raises(ValueError, match=r"got \(1, 4, 4\) torch.float32"):
        boundary_grid(labels.float(), (2, 2))
    with pytest.raises(ValueError, match=r"sizes must be positive, got a grid of \(0, 2\)"):
        boundary_grid(labels, (0, 2))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be positive"):
            boundary_grid(labels, (2, 2), weight=weight)


# --- grids of other sizes ------------------------------------------------------------------------


def literal_resize(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Displacements between the four nodes around each sample, (hd, wd, 2) → (h, w, 2)."""
    hd, wd = grid.shape[:2]
    displacement = grid - uniform((hd, wd))
    resized = uniform(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * hd / size[0] - 0.5, 0), hd - 1)
            x = min(max((j + 0.5) * wd / size[1] - 0.5, 0), wd - 1)
            for k in range(hd):
                for m in range(wd):
                    share = max(0, 1 - abs(y - k)) * max(0, 1 - abs(x - m))
                    resized[i, j] += share * displacement[k, m]
    return resized


@pytest.mark.parametrize("size", [(9, 14), (3, 3), (4, 6), (1, 1), (2, 31)])
def test_resize_against_the_definition(size: tuple[int, int]) -> None:
    grid = boundary_grid(blobs((16, 24), 5), (4, 6)).double()
    expected = literal_resize(grid[0].numpy(), size)
    np.testing.assert_allclose(resize_grid(grid, size)[0].numpy(), expected, atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_the_uniform_grid_stays_uniform_bit_for_bit(hd: int, wd: int, h: int, w: int) -> None:
    assert torch.equal(resize_grid(uniform_grid(2, (hd, wd)), (h, w)), uniform_grid(2, (h, w)))


def test_a_covering_grid_covers_at_any_size() -> None:
    nodes = boundary_grid(blobs((16, 24), 5), (8, 12))
    grid, plain = resize_grid(nodes, (30, 50)), uniform_grid(1, (30, 50))
    for edge in (0, -1):
        assert torch.equal(grid[:, edge, :, 1], plain[:, edge, :, 1])
        assert torch.equal(grid[:, :, edge, 0], plain[:, :, edge, 0])
    assert float((grid - plain).abs().max()) > 0.1


def test_the_result_stays_in_the_frame() -> None:
    nodes = uniform_grid(2, (4, 4), dtype=torch.float64)
    nodes[0] *= 1.3  # outermost nodes at ±0.975: finer samples beyond them would leave the frame
    for size in ((32, 32), (4, 4)):
        grid = resize_grid(nodes, size)
        assert float(grid.abs().max()) <= 1
        assert torch.equal(grid[1:], uniform_grid(1, size, dtype=torch.float64))
    finer = resize_grid(nodes, (32, 32))
    assert float(finer[0].amax()) == pytest.approx(1)  # squeezed just into it
    assert int(folded_cells(finer).sum()) == 0
    assert torch.equal(resize_grid(nodes, (4, 4)), nodes)


def test_resize_is_differentiable() -> None:
    nodes = boundary_grid(blobs((12, 12), 2), (3, 4)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda g: resize_grid(g, (5, 7)), nodes)
    assert torch.autograd.gradcheck(lambda g: resize_grid(g, (2, 2)), nodes)


def test_nodes_of_real_masks_make_sound_fine_grids(shared_data: Path) -> None:
    for labels in real_labels(shared_data, 64).values():
        fine = resize_grid(boundary_grid(labels, (16, 16)), (64, 64))
        assert int(folded_cells(repair_folds(fine)).sum()) == 0
        assert float((folded_cells(fine) > 0).double().mean()) < 0.2
        assert float(fine.abs().max()) < 1


def test_wrong_grids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the grid must be \(B, hd, wd, 2\), got \(1, 2, 3, 3\)"):
        resize_grid(torch.zeros(1, 2, 3, 3), (4, 4))
    with pytest.raises(ValueError, match="size must be positive"):
        resize_grid(torch.zeros(1, 2, 3, 2), (0, 4))
