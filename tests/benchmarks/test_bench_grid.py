"""Density → grid: banded matrix products against the direct 2-D convolution of eq. 3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from geodeform.deform.density import normalise, softmax_density
from geodeform.deform.grid import GridKernel, density_to_grid, repair_folds
from geodeform.deform.sample import area_downsample, build_pyramid, sample_image

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

SIZE = 300
SIGMA = 20.0
REPEATS = 15


def noise_density() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return softmax_density(torch.randn(1, 1, SIZE, SIZE, generator=generator))


def spiky_density() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spikes = torch.zeros(1, 1, SIZE, SIZE)
    spikes.view(-1)[torch.randint(0, SIZE * SIZE, (20,), generator=generator)] = 1
    return normalise(spikes)


def direct_grid(density: Tensor, kernel: GridKernel) -> Tensor:
    """Eq. 3 by three full 2-D convolutions: of d, d·column and d·row, mirrored about the edges."""
    n, R = density.shape[-1], kernel.radius
    q = torch.arange(-R, n + R)
    turn = q % (2 * n)
    fold = torch.minimum(turn, 2 * n - 1 - turn)
    padded = density[..., fold, :][..., fold]
    offset = torch.arange(-R, R + 1)
    squared = offset[:, None] ** 2 + offset[None] ** 2
    weights = torch.exp(-squared / (2 * kernel.sigma**2))[None, None]
    planes = torch.cat((padded, padded * q, padded * q[:, None]))  # 3,1,n+2R,n+2R
    mass, column, row = F.conv2d(planes, weights)[:, 0]
    return (2 * (torch.stack((column / mass, row / mass), -1) + 0.5) / n - 1).unsqueeze(0)


def test_grid_against_direct_convolution(
    report: Callable[[str], None], median_ms: Callable[..., float]
) -> None:
    density = noise_density()
    cut_at_4 = GridKernel(SIGMA, support=4.0)
    # The float64 products are held to the double sum by tests/deform/test_grid.py.
    exact = density_to_grid(density.double(), (SIZE, SIZE), cut_at_4)
    direct, banded = (
        direct_grid(density, cut_at_4),
        density_to_grid(density, (SIZE, SIZE), cut_at_4),
    )
    worst_direct, worst_banded = (
        float((grid.double() - exact).abs().max()) * SIZE / 2 for grid in (direct, banded)
    )
    assert worst_direct < 2e-2  # density pixels; it sums positions, not offsets
    assert worst_banded < 2e-4
    slow = median_ms(lambda: direct_grid(density, cut_at_4), 3)
    report(f"\ngrid {SIZE}² from {SIZE}² density, sigma {SIGMA:g}, one thread")
    report(f"  direct 2-D convolution, 4 sigma        {slow:9.2f} ms")
    for name, kernel in (("4", cut_at_4), ("6", GridKernel(SIGMA))):
        fast = median_ms(lambda kernel=kernel: density_to_grid(density, (SIZE, SIZE), kernel), 15)
        report(f"  banded products, {name} sigma, fold check  {fast:9.2f} ms  {slow / fast:6.0f}x")
    report(
        f"  float32 error against float64: direct {worst_direct:.1e}, "
        f"banded {worst_banded:.1e} density pixels"
    )


def test_what_repair_costs(report: Callable[[str], None], median_ms: Callable[..., float]) -> None:
    kernel = GridKernel(SIGMA)
    sound, folding = noise_density(), spiky_density()
    cases = (
        ("no check", lambda: density_to_grid(sound, (SIZE, SIZE), kernel, repair=False)),
        ("checked, sound", lambda: density_to_grid(sound, (SIZE, SIZE), kernel)),
        ("checked and repaired", lambda: density_to_grid(folding, (SIZE, SIZE), kernel)),
    )
    report(f"\nfold check and repair at {SIZE}², one thread")
    for name, call in cases:
        report(f"  {name:24s}{median_ms(call, REPEATS):9.2f} ms")
    assert repair_folds(density_to_grid(folding, (SIZE, SIZE), kernel)).isfinite().all()


def test_sampling(report: Callable[[str], None], median_ms: Callable[..., float]) -> None:
    image = torch.rand(1, 3, 2448, 2447)
    grid = density_to_grid(noise_density(), (128, 128), GridKernel(SIGMA))
    pyramid = build_pyramid(image, 6)
    cases = (
        ("build a pyramid of 6 levels", lambda: build_pyramid(image, 6)),
        ("sample, area, from a pyramid", lambda: sample_image(pyramid, grid)),
        ("sample, bilinear", lambda: sample_image(image, grid, mode="bilinear")),
        ("area_downsample", lambda: area_downsample(image, (128, 128))),
    )
    report("\nsampling 3 x 2448 x 2447 to 128², one thread")
    for name, call in cases:
        report(f"  {name:32s}{median_ms(call, 5):9.2f} ms")
