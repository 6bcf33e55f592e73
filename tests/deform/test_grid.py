from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from geodeform.deform import grid as gd
from geodeform.deform.coords import grid_to_pixels
from geodeform.deform.density import (
    edge_target,
    mix_uniform,
    normalise,
    softmax_density,
    uniform_density,
)
from geodeform.deform.grid import (
    GridKernel,
    density_to_grid,
    folded_cells,
    sample_spacing,
    uniform_grid,
)
from geodeform.deform.sample import sample_labels

DEFAULT = GridKernel(20.0)
DUBAI_TILES = (1, 2, 3, 5, 6, 7, 8)
DUBAI_COLOURS = (0x3C1098, 0x8429F6, 0x6EC1E4, 0xFEDD3A, 0xE2A929)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def dubai_labels(folder: Path, tile: int, size: tuple[int, int]) -> Tensor:
    path = folder / "dubai" / f"Tile {tile}" / "masks" / "image_part_005.png"
    rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.int64)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    labels = np.full(packed.shape, 255)
    for k, colour in enumerate(DUBAI_COLOURS):
        labels[packed == colour] = k
    return sample_labels(torch.from_numpy(labels)[None], uniform_grid(1, size))


def synthetic_densities(n: int = 300) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, n, n, generator=generator)
    y, x = torch.meshgrid(torch.arange(n) / n, torch.arange(n) / n, indexing="ij")
    spikes = torch.zeros(1, 1, n, n)
    spikes.view(-1)[torch.randint(0, n * n, (20,), generator=generator)] = 1
    corner = torch.zeros(1, 1, n, n)
    corner[..., 0, 0] = 1
    found = {"uniform": uniform_density(1, (n, n))}
    found |= {f"noise {t}": softmax_density(t * noise) for t in (1, 4)}
    for width in (0.02, 0.05, 0.1):
        blob = torch.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / (2 * width**2))
        found[f"peak {width}"] = normalise(blob[None, None])
    for share in (0.01, 0.1, 0.5):
        found[f"spikes + {share}"] = mix_uniform(normalise(spikes), share)
    return found | {"corner": normalise(corner)}


def real_densities(folder: Path, n: int = 300) -> dict[str, Tensor]:
    found = {}
    for tile in DUBAI_TILES:
        edge = normalise(edge_target(dubai_labels(folder, tile, (n, n)), len(DUBAI_COLOURS)))
        found |= {f"edge {tile}": edge, f"edge {tile} + 0.5": mix_uniform(edge, 0.5)}
    return found


def double_sum(
    density: NDArray[np.float64], kernel: GridKernel, y: float, x: float
) -> tuple[float, float]:
    """Eq. 3 for one output position, as it is written: returns (row, column) in index coordinates.

    numpy's own padding mirrors about the edges; the kernel counts where both distances are within
    its radius.
    """
    R = kernel.radius + 1
    mode = "symmetric" if kernel.padding == "reflect" else "edge"
    padded = np.pad(density, R, mode=mode)
    rows, columns = (np.arange(-R, n + R) for n in density.shape)
    keep_y, keep_x = np.abs(rows - y) <= kernel.radius, np.abs(columns - x) <= kernel.radius
    rows, columns = rows[keep_y, None], columns[None, keep_x]
    k = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * kernel.sigma**2))
    dk = padded[np.ix_(keep_y, keep_x)] * k
    return float((dk * rows).sum() / dk.sum()), float((dk * columns).sum() / dk.sum())


def index_positions(grid: Tensor, size: tuple[int, int]) -> NDArray[np.float64]:
    """(h, w, 2) index coordinates (row, column) in the density of a (1, h, w, 2) grid."""
    return grid_to_pixels(grid[0].double(), size).flip(-1).numpy() - 0.5


def worst_pixels(a: Tensor, b: Tensor, size: tuple[int, int]) -> float:
    return float((grid_to_pixels(a.double(), size) - grid_to_pixels(b.double(), size)).abs().max())


# --- eq. 3 against its double sum ----------------------------------------------------------------


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
@pytest.mark.parametrize(("sigma", "support"), [(1.7, 1.0), (2.0, 4.0), (1.3, 6.0), (8.0, 6.0)])
def test_every_position_of_a_small_map(sigma: float, support: float, padding: gd.Padding) -> None:
    """Radii 2 to 48 over 9 × 7 pixels: the widest is mirrored over and over."""
    kernel = GridKernel(sigma, support, padding)
    density = np.random.default_rng(1).random((9, 7)) ** 3
    grid = density_to_grid(torch.from_numpy(density)[None, None], (9, 7), kernel, repair=False)
    expected = [[double_sum(density, kernel, y, x) for x in range(7)] for y in range(9)]
    np.testing.assert_allclose(index_positions(grid, (9, 7)), expected, atol=1e-9)


@pytest.mark.parametrize("kernel", [DEFAULT, GridKernel(20.0, 4.0), GridKernel.paper(20)])
def test_synthetic_densities(kernel: GridKernel) -> None:
    check_against_double_sum(synthetic_densities(), kernel)


def test_real_densities(shared_data: Path) -> None:
    check_against_double_sum(real_densities(shared_data), DEFAULT)


def check_against_double_sum(densities: dict[str, Tensor], kernel: GridKernel) -> None:
    chosen = np.random.default_rng(2).integers(0, 300, (12, 2)).tolist()
    chosen += [[0, 0], [0, 299], [299, 150], [299, 299]]
    for name, density in densities.items():
        exact = density.double()
        grid64 = density_to_grid(exact, (300, 300), kernel, repair=False)
        grid32 = density_to_grid(density, (300, 300), kernel, repair=False)
        assert grid32.dtype == torch.float32
        found = index_positions(grid64, (300, 300))
        literal = [double_sum(exact[0, 0].numpy(), kernel, y, x) for y, x in chosen]
        np.testing.assert_allclose(
            [found[y, x] for y, x in chosen], literal, atol=1e-8, err_msg=name
        )
        assert worst_pixels(grid32, grid64, (300, 300)) < 5e-4, name


def test_sizes_that_differ_from_the_density() -> None:
    """Positions between the density's pixels: right by the double sum with a kernel not cut."""
    kernel = GridKernel(4.0, support=9.0)
    density = np.random.default_rng(3).random((23, 31)) ** 4
    size = (40, 17)
    grid = density_to_grid(torch.from_numpy(density)[None, None], size, kernel, repair=False)
    expected = [
        [
            double_sum(density, kernel, (a + 0.5) * 23 / 40 - 0.5, (b + 0.5) * 31 / 17 - 0.5)
            for b in range(17)
        ]
        for a in range(40)
    ]
    np.testing.assert_allclose(index_positions(grid, (23, 31)), expected, atol=1e-7)


def test_exponential_density_shifts_by_slope_times_variance() -> None:
    """For d = exp(s·x) eq. 3 has a closed form, g = x + s·σ², far from the border."""
    density = torch.exp(0.05 * torch.arange(200.0, dtype=torch.float64)).expand(1, 1, 50, 200)
    grid = density_to_grid(density, (50, 200), GridKernel(5.0, 9.0))
    found = index_positions(grid, (50, 200))[25, 50:150]
    np.testing.assert_allclose(found[:, 1], np.arange(50, 150) + 0.05 * 25, atol=1e-9)
    np.testing.assert_allclose(found[:, 0], 25, atol=1e-9)


def test_the_default_cut_is_not_felt() -> None:
    densities = synthetic_densities(100)
    for name in ("noise 1", "noise 4", "spikes + 0.01", "spikes + 0.5"):
        cut, whole = (
            density_to_grid(densities[name].double(), (130, 90), GridKernel(7.0, support))
            for support in (6.0, 12.0)
        )
        assert worst_pixels(cut, whole, (100, 100)) < 2e-3, name


# --- identity, frame, folds ----------------------------------------------------------------------

kernels = st.builds(
    GridKernel,
    sigma=st.floats(0.2, 40),
    support=st.floats(0.5, 6),
    padding=st.sampled_from(["reflect", "replicate"]),
)
lengths = st.integers(1, 40)


@settings(deadline=None, max_examples=150)
@given(kernels, lengths, lengths, lengths, lengths)
def test_uniform_density_gives_the_identity(
    kernel: GridKernel, hd: int, wd: int, h: int, w: int
) -> None:
    density = uniform_density(1, (hd, wd), dtype=torch.float64)
    exact = density_to_grid(density, (h, w), kernel, repair=False)
    identity = uniform_grid(1, (h, w), dtype=torch.float64)
    assert worst_pixels(exact, identity, (hd, wd)) < 1e-9
    single = density_to_grid(density.float(), (h, w), kernel, repair=False)
    assert worst_pixels(single, identity, (hd, wd)) < 1e-4


@pytest.mark.parametrize("kernel", [DEFAULT, GridKernel.paper(20), GridKernel.from_fwhm(25)])
@pytest.mark.parametrize("size", [(300, 300), (128, 128), (301, 77)])
def test_uniform_density_of_full_size_gives_the_identity(
    kernel: GridKernel, size: tuple[int, int]
) -> None:
    grid = density_to_grid(uniform_density(2, (300, 300)), size, kernel, repair=False)
    assert worst_pixels(grid, uniform_grid(2, size), (300, 300)) < 2e-5


@settings(deadline=None, max_examples=100)
@given(kernels, lengths, lengths, lengths, lengths, st.floats(0, 8), st.integers(0, 10_000))
def test_no_fold_and_no_sample_outside_whatever_the_density(
    kernel: GridKernel, hd: int, wd: int, h: int, w: int, contrast: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    density = softmax_density(contrast * torch.randn(2, 1, hd, wd, generator=generator))
    grid = density_to_grid(density, (h, w), kernel)
    assert grid.shape == (2, h, w, 2)
    assert folded_cells(grid).sum() == 0
    assert grid.abs().max() <= 1
    if kernel.padding == "reflect":  # inside without any repair
        assert density_to_grid(density, (h, w), kernel, repair=False).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("sigma", [10.0, 20.0, 25.0])
def test_the_default_kernel_folds_no_synthetic_density(sigma: float) -> None:
    check_no_fold_without_repair(synthetic_densities(), sigma)


@pytest.mark.parametrize("sigma", [10.0, 20.0, 25.0])
def test_the_default_kernel_folds_no_real_density(sigma: float, shared_data: Path) -> None:
    check_no_fold_without_repair(real_densities(shared_data), sigma)


def check_no_fold_without_repair(densities: dict[str, Tensor], sigma: float) -> None:
    for name, density in densities.items():
        for size in ((300, 300), (128, 128), (200, 331)):
            grid = density_to_grid(density, size, GridKernel(sigma), repair=False)
            assert folded_cells(grid).item() == 0, (name, size)
            assert grid.abs().max() < 1, (name, size)


def test_mirrored_density_gives_the_mirrored_grid() -> None:
    """No half-pixel bias to either side."""
    density = softmax_density(2 * torch.randn(1, 1, 40, 50, dtype=torch.float64))
    flip = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    for kernel in (GridKernel(4.0), GridKernel.paper(5), GridKernel(4.0, padding="replicate")):
        grid = density_to_grid(density, (33, 61), kernel, repair=False)
        mirrored = density_to_grid(density.flip(3), (33, 61), kernel, repair=False)
        torch.testing.assert_close(mirrored.flip(2) * flip, grid, atol=1e-9, rtol=0)
        turned = density_to_grid(density.mT, (61, 33), kernel, repair=False)
        torch.testing.assert_close(turned.transpose(1, 2).flip(-1), grid, atol=1e-12, rtol=0)


# --- repair --------------------------------------------------------------------------------------


def folding_and_sound() -> Tensor:
    """One density that folds under the paper's kernel and one that does not."""
    spikes = torch.zeros(1, 1, 60, 60)
    spikes[..., [5, 20, 41, 44, 50], [8, 33, 12, 40, 41]] = 1
    return torch.cat((normalise(spikes), softmax_density(torch.randn(1, 1, 60, 60) / 4)))


def test_only_the_grid_that_folds_is_changed() -> None:
    density, kernel = folding_and_sound(), GridKernel.paper(8)
    raw = density_to_grid(density, (60, 60), kernel, repair=False)
    mended = density_to_grid(density, (60, 60), kernel)
    assert (folded_cells(raw) > 0).tolist() == [True, False]
    assert folded_cells(mended).tolist() == [0, 0]
    assert torch.equal(mended[1], raw[1])
    alone = density_to_grid(density[1:], (60, 60), kernel, repair=False)
    torch.testing.assert_close(alone[0], raw[1], atol=1e-6, rtol=0)
    # it stays a warp, and does not fall back to the identity
    assert worst_pixels(mended[:1], uniform_grid(1, (60, 60)), (60, 60)) > 1


def test_the_repair_takes_the_least_share_of_uniform_density() -> None:
    density, kernel = folding_and_sound()[:1], GridKernel.paper(8)
    mended = density_to_grid(density, (60, 60), kernel)
    shares = [2.0**e for e in range(-12, 1)]
    grids = [
        density_to_grid(mix_uniform(density, share), (60, 60), kernel, repair=False)
        for share in shares
    ]
    first = next(g for g in grids if folded_cells(g).item() == 0)
    torch.testing.assert_close(mended, first, atol=1e-5, rtol=0)


def test_repair_of_a_grid_that_has_no_density() -> None:
    twisted = uniform_grid(3, (9, 9)).clone()
    twisted[1, :, [3, 4]] = twisted[1, :, [4, 3]]
    mended = gd.repair_folds(twisted)
    assert folded_cells(twisted).tolist() == [0, 8, 0]
    assert folded_cells(mended).tolist() == [0, 0, 0]
    assert torch.equal(mended[[0, 2]], twisted[[0, 2]])
    # halfway the columns coincide: just beyond it is the least blend without a fold
    assert worst_pixels(mended[1:2], twisted[1:2], (9, 9)) == pytest.approx(0.5, abs=0.01)


def test_fitting_to_the_frame_scales_and_does_not_clamp() -> None:
    grid = uniform_grid(2, (5, 6)).clone()
    grid[1, ..., 0] = 1.6 * grid[1, ..., 0]
    fitted = gd.fit_to_frame(grid)
    assert torch.equal(fitted[0], grid[0])
    assert torch.equal(fitted[1, ..., 1], grid[1, ..., 1])
    assert fitted.abs().max() <= 1
    torch.testing.assert_close(fitted[1, 0, :, 0], torch.linspace(-1, 1, 6), atol=1e-6, rtol=0)
    assert folded_cells(fitted).sum() == 0


def test_counting_folded_cells_by_hand() -> None:
    generator = torch.Generator().manual_seed(4)
    grid = uniform_grid(2, (12, 15)) + 0.06 * torch.randn(2, 12, 15, 2, generator=generator)

    def area(a: Tensor, b: Tensor, c: Tensor) -> float:
        (ax, ay), (bx, by), (cx, cy) = a.tolist(), b.tolist(), c.tolist()
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    expected = [
        sum(
            area(g[i, j], g[i, j + 1], g[i + 1, j]) <= 0
            or area(g[i + 1, j + 1], g[i + 1, j], g[i, j + 1]) <= 0
            for i in range(11)
            for j in range(14)
        )
        for g in grid
    ]
    assert 10 < min(expected) < 140
    assert folded_cells(grid).tolist() == expected


def test_collapsed_and_undefined_cells_count_as_folded() -> None:
    grid = uniform_grid(3, (4, 4)).clone()
    grid[1, :, 2] = grid[1, :, 1]
    grid[2, 0, 0] = torch.nan
    assert folded_cells(grid).tolist() == [0, 3, 1]


def test_a_single_row_or_column_has_no_cells() -> None:
    grid = density_to_grid(uniform_density(1, (8, 8)), (1, 5), GridKernel(2.0))
    assert folded_cells(grid).tolist() == [0]
    torch.testing.assert_close(grid, uniform_grid(1, (1, 5)), atol=1e-6, rtol=0)


# --- gradients, precision, caches ----------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel", [GridKernel(1.5), GridKernel.paper(2), GridKernel(1.5, padding="replicate")]
)
@pytest.mark.parametrize("size", [(5, 6), (4, 9)])
def test_gradients_from_density_to_grid(kernel: GridKernel, size: tuple[int, int]) -> None:
    density = 0.2 + torch.rand(2, 1, 5, 6, dtype=torch.float64)
    density.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: density_to_grid(d, size, kernel, repair=False), density
    )
    assert torch.autograd.gradcheck(lambda d: density_to_grid(d, size, kernel), density)


def test_gradients_through_a_repair() -> None:
    density = torch.full((1, 1, 14, 14), 1e-3, dtype=torch.float64)
    places = torch.randint(0, 14 * 14, (4,), generator=torch.Generator().manual_seed(5))
    density.view(-1)[places] = 1
    density.requires_grad_()
    kernel = GridKernel.paper(4)
    raw = density_to_grid(density, (14, 14), kernel, repair=False)
    assert folded_cells(raw).item() > 0
    weights = torch.randn(1, 14, 14, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda d: (density_to_grid(d, (14, 14), kernel) * weights).sum(), density
    )
    twisted = uniform_grid(1, (5, 5), dtype=torch.float64).clone()
    twisted[:, :, [2, 3]] = twisted[:, :, [3, 2]]
    blend = gd.repair_folds(twisted.requires_grad_())
    blend.sum().backward()
    assert twisted.grad is not None
    assert 0.4 < twisted.grad.mean() < 0.5


def test_gradients_stay_finite_beside_a_repair_where_there_is_no_mass() -> None:
    density = folding_and_sound()
    density[1] = 0
    density[1, :, 10:50, 10:50] = 1  # sound, and its corners are beyond the kernel's reach
    density.requires_grad_()
    raw = density_to_grid(density, (60, 60), GridKernel.paper(8), repair=False)
    assert (folded_cells(raw) > 0).tolist() == [True, False]
    grid = density_to_grid(density, (60, 60), GridKernel.paper(8))
    assert torch.equal(grid[1], raw[1])
    grid.square().sum().backward()
    assert density.grad is not None
    assert density.grad.isfinite().all()


def test_the_scale_of_the_density_does_not_matter() -> None:
    density = softmax_density(torch.randn(1, 1, 50, 50))
    grids = [density_to_grid(f * density, (50, 50), GridKernel(5.0)) for f in (1, 1e-20, 1e8)]
    torch.testing.assert_close(grids[1], grids[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(grids[2], grids[0], atol=1e-6, rtol=0)


def test_a_lone_peak_leaves_the_far_side_uniform() -> None:
    density = torch.zeros(1, 1, 100, 100)
    density[..., 10, 10] = 1
    grid = density_to_grid(density, (100, 100), GridKernel(3.0))
    assert grid.isfinite().all()
    torch.testing.assert_close(
        grid[:, 60:, 60:], uniform_grid(1, (100, 100))[:, 60:, 60:], atol=1e-6, rtol=0
    )


def test_autocast_does_not_reach_the_matrices() -> None:
    density = softmax_density(torch.randn(1, 1, 60, 60))
    plain = density_to_grid(density, (60, 60), GridKernel(6.0))
    with torch.autocast("cpu", torch.bfloat16):
        cast = density_to_grid(density, (60, 60), GridKernel(6.0))
    assert torch.equal(cast, plain)


def test_caches_filled_in_inference_serve_training() -> None:
    kernel = GridKernel(3.21)  # used nowhere else
    with torch.inference_mode():
        density_to_grid(uniform_density(1, (14, 13)), (11, 12), kernel)
    logits = torch.randn(1, 1, 14, 13, requires_grad=True)
    density_to_grid(softmax_density(logits), (11, 12), kernel).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


def test_nan_goes_through() -> None:
    density = torch.full((1, 1, 6, 6), torch.nan)
    assert density_to_grid(density, (6, 6), GridKernel(2.0)).isnan().all()


# --- kernel --------------------------------------------------------------------------------------


def test_which_sigma_is_which() -> None:
    paper = GridKernel.paper(20)
    assert (paper.sigma, paper.radius) == (20, 20)
    fwhm = GridKernel.from_fwhm(25)
    half = np.exp(-((25 / 2) ** 2) / (2 * fwhm.sigma**2))
    assert half == pytest.approx(0.5, abs=1e-3)
    assert GridKernel(2.5, support=4).radius == 10
    assert GridKernel(0.1 + 0.2, support=10).radius == 3  # not 4 by rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": float("nan")}, "sigma must be positive"),
        ({"sigma": 2.0, "support": -1.0}, "support must be positive"),
        ({"sigma": 2.0, "padding": "zeros"}, "padding must be"),
    ],
)
def test_impossible_kernels_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridKernel(**arguments)  # type: ignore[arg-type]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"density must be \(B, 1, hd, wd\), got \(2, 3, 4, 4\)"):
        density_to_grid(torch.rand(2, 3, 4, 4), (4, 4), DEFAULT)
    with pytest.raises(ValueError, match="size must be positive"):
        density_to_grid(torch.rand(2, 1, 4, 4), (0, 4), DEFAULT)


@settings(deadline=None, max_examples=50)
@given(kernels, st.integers(1, 60), st.integers(1, 60))
def test_rows_are_averages_of_the_density(kernel: GridKernel, m: int, n: int) -> None:
    k0, k1 = gd.axis_kernels(m, n, kernel)
    assert k0.shape == k1.shape == (m, n)
    assert k0.min() >= 0
    np.testing.assert_allclose(k0.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(k1.sum(1), 0, atol=1e-10)


# --- magnification -------------------------------------------------------------------------------


@settings(deadline=None)
@given(lengths, lengths, st.integers(1, 5000), st.integers(1, 5000))
def test_uniform_magnification(h: int, w: int, H: int, W: int) -> None:
    found = gd.magnification(uniform_grid(2, (h, w), dtype=torch.float64), (H, W))
    assert found.shape == (2, h, w)
    np.testing.assert_allclose(found.numpy(), h * w / (H * W), rtol=1e-9)


def test_magnification_of_a_sheared_grid() -> None:
    """x = 0.3u + 0.1v, y = 0.05u + 0.4v of a 100 × 200 image, corners and borders included."""
    u, v = uniform_grid(1, (10, 20), dtype=torch.float64).unbind(-1)
    grid = torch.stack((0.3 * u + 0.1 * v, 0.05 * u + 0.4 * v), -1)
    expected = 10 * 20 / (100 * 200) / (0.3 * 0.4 - 0.1 * 0.05)
    found = gd.magnification(grid, (100, 200))
    torch.testing.assert_close(found, torch.full_like(found, expected))


def test_samples_account_for_the_frame() -> None:
    """The source pixels that samples stand for add up to about the image."""
    for name, density in synthetic_densities(100).items():
        grid = density_to_grid(density, (100, 100), GridKernel(8.0))
        per_sample = gd.jacobian_determinant(grid, (1000, 900))
        assert gd.magnification(grid, (1000, 900)).min() > 0
        if name.startswith(("uniform", "noise")):
            assert float(per_sample.sum()) == pytest.approx(900_000, rel=0.02), name


def test_magnification_is_high_where_density_is() -> None:
    density = synthetic_densities(100)["peak 0.1"]
    found = gd.magnification(density_to_grid(density, (100, 100), GridKernel(8.0)), (100, 100))
    assert found.argmax() == pytest.approx(60 * 100 + 30, abs=2000)
    assert found.max() > 2
    assert found.min() < 0.5


def test_gradients_of_the_jacobian() -> None:
    grid = uniform_grid(1, (3, 4), dtype=torch.float64)
    grid = (grid + 0.05 * torch.randn_like(grid)).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: gd.magnification(g, (7, 9)), grid)


def test_sample_spacing_is_the_distance_to_the_neighbours():
    """Against differences of positions, one sample after the other."""
    density = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    grid = density_to_grid(density / density.sum(), (7, 9), GridKernel(sigma=2.0))
    found = sample_spacing(grid)
    assert found.shape == (1, 2, 7, 9)
    at = grid[0]
    for i in range(7):
        for j in range(9):
            left, right = max(j - 1, 0), min(j + 1, 8)
            above, below = max(i - 1, 0), min(i + 1, 6)
            along = (at[i, right] - at[i, left]).norm() / (right - left) / 2
            down = (at[below, j] - at[above, j]).norm() / (below - above) / 2
            torch.testing.assert_close(found[0, :, i, j], torch.stack((along, down)))
    even = sample_spacing(uniform_grid(2, (5, 8)))
    torch.testing.assert_close(even[:, 0], torch.full((2, 5, 8), 1 / 8))
    torch.testing.assert_close(even[:, 1], torch.full((2, 5, 8), 1 / 5))
