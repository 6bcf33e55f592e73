"""Density → sampling grid: eq. 3 of the paper as banded matrix products.

Learning to Downsample for Segmentation of Ultra-High Resolution Images (ICLR 2022), eq. 3: every
sample is pulled to the density around it, ``g = Σ d·k·q / Σ d·k`` with a Gaussian k. The Gaussian
is separable, so with K0[a, t] = Σ k(q − x_a) and K1[a, t] = Σ k(q − x_a)·(q − x_a) over the padded
positions q that fold onto density pixel t, three products give the answer:

    Z      = K0y · d · K0xᵀ
    row    = y_a + (K1y · d · K0xᵀ) / Z
    column = x_b + (K0y · d · K1xᵀ) / Z

Accumulating offsets instead of positions keeps float32 accurate. A ``SamplingGrid`` is a tensor
(B, h, w, 2), last axis (x_norm, y_norm), for ``F.grid_sample(align_corners=False)``.

Why mirrored padding and a wide kernel: with an untruncated Gaussian ``g = x + σ²∇log(k∗d)`` is the
gradient of a convex function and cannot fold, and mirroring about the frame's edge maps the edge to
itself, so that no sample leaves the frame. A cut at 4σ already folds some cells of real edge maps;
at 6σ, where float32 sees no difference from an untruncated kernel, none folds, at the same cost.
Cells are still finite differences, and the paper's kernel is cut at 1σ, therefore folds are looked
for and repaired.

Where a sound grid lets work be left out, a branch does it. A graph that is traced (torch.export,
torch.compile) has no branches on values: there all is computed and ``torch.where`` picks, which
gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geodeform.deform.coords import Size, uniform_normalised, uniform_positions

SamplingGrid: TypeAlias = Tensor
"""(B, h, w, 2) normalised (x, y): where each sampled pixel reads."""

Padding = Literal["reflect", "replicate"]

_FWHM_PER_SIGMA = 2.355  # full width at half maximum of a Gaussian, 2·sqrt(2·ln 2)
_REPAIR_SHARES = tuple(2.0**e for e in range(-12, 1))  # of uniform density; 1 is the identity
_REPAIR_STEPS = 8  # bisections: the blend towards the identity is found to 1/256
_CENTRE_STEPS = 100  # at most, for kernels far narrower than a pixel; others take about five


@dataclass(frozen=True)
class GridKernel:
    """The distance kernel k of eq. 3: a Gaussian, cut off, and the padding around the density.

    Three different numbers are called "σ" around this method:

    * here, ``sigma`` is always the Gaussian's standard deviation;
    * the paper's text calls "σ" what is both the standard deviation and the radius of a square of
      size 2σ + 1, that is a cut at one standard deviation: :meth:`paper`;
    * the authors' figures (20–33 at 100² densities) come from a kernel whose full width at half
      maximum equals that radius, so its standard deviation is radius / 2.355: :meth:`from_fwhm`.

    Attributes:
        sigma: Standard deviation in density pixels, > 0.
        support: The kernel is cut at ``ceil(support · sigma)`` density pixels, > 0. Reaching far
            costs nothing: the matrices have the density's size in any case.
        padding: What lies beyond the border: ``"reflect"`` mirrors about the frame's edge (… b a |
            a b …; no sample leaves the frame), ``"replicate"`` repeats the border pixel.
    """

    sigma: float
    support: float = 6.0
    padding: Padding = "reflect"

    def __post_init__(self) -> None:
        for name, value in (("sigma", self.sigma), ("support", self.support)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        if self.padding not in ("reflect", "replicate"):
            raise ValueError(f"padding must be 'reflect' or 'replicate', got {self.padding!r}")

    @property
    def radius(self) -> int:
        """Where the kernel is cut, in density pixels."""
        return math.ceil(self.support * self.sigma - 1e-9)

    @classmethod
    def paper(cls, radius: int, *, padding: Padding = "reflect") -> GridKernel:
        """Return the kernel as the paper's text has it: standard deviation = radius, cut at 1σ.

        Its square has size 2·radius + 1. So hard a cut folds the grid of most edge maps until 1 to
        25 % of uniform density is mixed in, which the repair of :func:`density_to_grid` finds, or
        :func:`~geodeform.deform.density.mix_uniform` sets beforehand.
        """
        return cls(float(radius), support=1.0, padding=padding)

    @classmethod
    def from_fwhm(
        cls, radius: float, *, support: float = 6.0, padding: Padding = "reflect"
    ) -> GridKernel:
        """Return the kernel whose full width at half maximum is ``radius`` density pixels."""
        return cls(radius / _FWHM_PER_SIGMA, support=support, padding=padding)


def density_to_grid(
    density: Tensor, size: Size, kernel: GridKernel, *, repair: bool = True
) -> SamplingGrid:
    """Turn a density into a sampling grid of any size (eq. 3).

    A uniform density gives :func:`uniform_grid`. Differentiable with respect to ``density``.

    Args:
        density: (B, 1, hd, wd), positive (see :mod:`geodeform.deform.density`); its scale does not
            matter. Half precision is computed in float32, also under autocast.
        size: (h, w) of the grid; need not equal (hd, wd).
        kernel: The distance kernel, in density pixels.
        repair: Whether to mend a sample of the batch whose grid folds, by mixing the least share of
            uniform density (2⁻¹², doubled until no cell folds) into its own, or leaves the frame
            (:func:`fit_to_frame`). A sound grid only costs the test and stays bit for bit.

    Returns:
        (B, h, w, 2) normalised (x, y), float32 (float64 for a float64 density).

    Raises:
        ValueError: If the density is not (B, 1, hd, wd) or a size is not positive.
    """
    if density.ndim != 4 or density.shape[1] != 1 or 0 in density.shape[2:]:
        raise ValueError(f"density must be (B, 1, hd, wd), got {tuple(density.shape)}")
    if min(size) < 1:
        raise ValueError(f"the grid's size must be positive, got {size}")
    h, w = size
    hd, wd = density.shape[-2:]
    with torch.autocast(density.device.type, enabled=False):
        d = (density if density.dtype == torch.float64 else density.float()).squeeze(1)  # B,hd,wd
        d = d / d.mean((1, 2), keepdim=True)
        kernel_y = _axis_matrices(h, hd, kernel, d.dtype, d.device)  # 2h,hd: K0y above K1y
        kernel_x = _axis_matrices(w, wd, kernel, d.dtype, d.device)  # 2w,wd
        across = d @ kernel_x.T  # B,hd,2w: d·K0xᵀ | d·K1xᵀ
        both = kernel_y @ across[..., :w]  # B,2h,w
        mass = both[:, :h]
        moments = torch.stack((kernel_y[:h] @ across[..., w:] * (2 / wd), both[:, h:] * (2 / hd)))
        # Beyond the kernel's reach from a lone peak is no mass at all, 0/0: a minute share makes
        # such places uniform. Sums of positive terms keep float32 right even for small masses, so
        # it must stay far below them.
        share = torch.full_like(mass[:, :1, :1], math.sqrt(torch.finfo(d.dtype).tiny))  # B,1,1
        grid = _displaced(mass, moments, share)
        if not repair:
            return grid
        fitted = fit_to_frame(grid)
        bad = folded_cells(fitted) > 0  # B
        if _shortcut(lambda: not bad.any()):
            return fitted
        share = _share_without_folds(mass.detach(), moments.detach(), share, bad)
        return fit_to_frame(_displaced(mass, moments, share))


def _displaced(mass: Tensor, moments: Tensor, share: Tensor) -> Tensor:
    """Grid of the density mixed with a share of the uniform one, whose mass is 1 and moment 0.

    Mass is (…, h, w), moments (2, …, h, w) in x and y, share (…, 1, 1); the grid is (…, h, w, 2).
    """
    identity = _identity(mass.shape[-2], mass.shape[-1], mass.dtype, mass.device)
    per_mass = (1 - share) / ((1 - share) * mass + share)
    return identity + (moments * per_mass).movedim(0, -1)


def _share_without_folds(mass: Tensor, moments: Tensor, share: Tensor, bad: Tensor) -> Tensor:
    """Raise the share of uniform density, (B, 1, 1), of the samples that fold until none does."""
    if torch.compiler.is_compiling():  # all shares at once, and the least that is sound
        shares = torch.tensor(_REPAIR_SHARES, dtype=mass.dtype, device=mass.device)
        folds = _folds(mass, moments.unsqueeze(1), shares.view(-1, 1, 1, 1))
        folds = folds.view(len(_REPAIR_SHARES), -1)  # S,B
        least = torch.where(folds, 1.0, shares.unsqueeze(1)).amin(0)
        return torch.where(bad, least, share.flatten()).view(-1, 1, 1)
    share, bad = share.clone(), bad.clone()
    for value in _REPAIR_SHARES:
        share[bad] = value
        bad[bad.clone()] = _folds(mass[bad], moments[:, bad], share[bad])
        if not bool(bad.any()):
            break
    return share


def _folds(mass: Tensor, moments: Tensor, share: Tensor) -> Tensor:
    """Which grids fold at a share of uniform density, arguments as :func:`_displaced`'s; (n,)."""
    return folded_cells(fit_to_frame(_displaced(mass, moments, share).flatten(0, -4))) > 0


def _shortcut(condition: Callable[[], Tensor | bool]) -> bool:
    """Whether a shortcut may be taken: its condition holds, and no graph is being traced."""
    return not torch.compiler.is_compiling() and bool(condition())


def uniform_grid(
    batch: int,
    size: Size,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SamplingGrid:
    """Return the identity grid (batch, h, w, 2): the centres of h × w equal cells."""
    chosen = torch.empty(0, device=device, dtype=dtype)
    return _identity(*size, chosen.dtype, chosen.device).repeat(batch, 1, 1, 1)


def folded_cells(grid: SamplingGrid) -> Tensor:
    """Count the cells that are folded: one of a cell's triangles has no positive signed area.

    A cell lies between four neighbouring samples and is split into (00, 01, 10) and (11, 10, 01),
    as the reverse map does. Doubtful signs are taken in float64.

    Args:
        grid: (B, h, w, 2) normalised.

    Returns:
        (B,) int64, 0 … (h − 1)·(w − 1). A collapsed cell (area 0) or one with NaN counts as folded.
    """
    grid = grid.detach()
    # A triangle's doubled area ad − bc in its own precision is off by at most a few units of
    # |ad| + |bc|: only cells nearer to zero than that need the slow exact test.
    products = _corner_products(grid)
    margin = 4 * torch.finfo(grid.dtype).eps
    if _shortcut(lambda: all((p - q > margin * (p.abs() + q.abs())).all() for p, q in products)):
        return torch.zeros(grid.shape[0], dtype=torch.int64, device=grid.device)
    first, second = (p > q for p, q in _corner_products(grid.double()))
    return (~(first & second)).sum((1, 2))


def fit_to_frame(grid: SamplingGrid) -> SamplingGrid:
    """Squeeze the grids of the batch that leave the frame into it, each axis by its own scale.

    A clamp would collapse all that lies outside onto the border; scaling keeps cells as they are.
    Only replicated padding needs it: mirrored padding keeps samples inside.

    Args:
        grid: (B, h, w, 2) normalised.

    Returns:
        (B, h, w, 2) within −1…1; samples that were inside are returned bit for bit.
    """
    fixed = grid.detach()
    if _shortcut(lambda: not fixed.abs().amax() > 1):
        return grid
    low, high = fixed.amin((1, 2), keepdim=True), fixed.amax((1, 2), keepdim=True)  # B,1,1,2
    outside = (low < -1) | (high > 1)
    new_low, new_high = low.clamp(-1, 1), high.clamp(-1, 1)
    span = torch.where(high > low, high - low, 1)
    scale = torch.where(high > low, (new_high - new_low) / span, 0)
    return torch.where(outside, ((grid - low) * scale + new_low).clamp(-1, 1), grid)


def repair_folds(grid: SamplingGrid) -> SamplingGrid:
    """Blend each grid of the batch that folds towards the identity until none of its cells does.

    The smallest blend α without fold (in steps of 1/256) is found by bisection, without gradient;
    the blend itself, ``grid + α·(identity − grid)``, is differentiable.

    Args:
        grid: (B, h, w, 2) normalised.

    Returns:
        (B, h, w, 2) without folded cells (NaNs stay NaN); grids that had none, bit for bit.
    """
    bad = folded_cells(grid) > 0
    if _shortcut(lambda: not bad.any()):
        return grid
    identity = _identity(grid.shape[1], grid.shape[2], grid.dtype, grid.device)
    fixed = grid.detach()
    blend = torch.zeros_like(fixed[:, :1, :1, :1])
    if torch.compiler.is_compiling():
        blend = torch.where(bad.view(-1, 1, 1, 1), _least_blend(fixed, identity), blend)
    else:
        blend = blend.index_put((bad,), _least_blend(fixed[bad], identity))
    return torch.lerp(grid, identity, blend)


def _least_blend(grid: Tensor, identity: Tensor) -> Tensor:
    """Return each grid's least blend (B, 1, 1, 1) towards the identity without a fold."""
    low = torch.zeros_like(grid[:, :1, :1, :1])
    high = torch.ones_like(low)  # never folds: it is the identity
    for _ in range(_REPAIR_STEPS):
        middle = (low + high) / 2
        folds = (folded_cells(torch.lerp(grid, identity, middle)) > 0).view(-1, 1, 1, 1)
        low, high = torch.where(folds, middle, low), torch.where(folds, high, middle)
    return high


def jacobian_determinant(grid: SamplingGrid, size: Size) -> Tensor:
    """Return how many source pixels each sampled pixel stands for, |det J|.

    J holds the derivatives of the source position by the sample's row and column: central
    differences, one-sided in the outermost rows and columns; along an axis with a single sample,
    the whole frame. Differentiable.

    Args:
        grid: (B, h, w, 2) normalised.
        size: (H, W) of the source image in pixels.

    Returns:
        (B, h, w) source pixels per sample, ≥ 0; H·W/(h·w) everywhere for the identity grid.
    """
    along_y = _differences(grid, 1)  # B,h,w,2
    along_x = _differences(grid, 2)
    determinant = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    return determinant.abs() * (size[0] * size[1] / 4)


def sample_spacing(grid: SamplingGrid) -> Tensor:
    """Return how far each sample lies from its neighbours in its row and in its column.

    Derivatives as in :func:`jacobian_determinant`; their lengths, in shares of the frame.

    Args:
        grid: (B, h, w, 2) normalised.

    Returns:
        (B, 2, h, w) ≥ 0, along the row first; 1/w and 1/h everywhere for the identity grid.
    """
    both = torch.stack((_differences(grid, 2), _differences(grid, 1)), 1)  # B,2,h,w,2
    return both.square().sum(-1).sqrt() / 2


def magnification(grid: SamplingGrid, size: Size) -> Tensor:
    """Return the density of the samples on the ground: sampled pixels per source pixel, 1/|det J|.

    Args:
        grid: (B, h, w, 2) normalised.
        size: (H, W) of the source image in pixels.

    Returns:
        (B, h, w) > 0 and finite; h·w/(H·W) everywhere for the identity grid.
    """
    pixels = jacobian_determinant(grid, size)
    return 1 / pixels.clamp_min(torch.finfo(pixels.dtype).eps)  # collapsed cells stay finite


def _differences(grid: Tensor, axis: int) -> Tensor:
    """Derivative of (B, h, w, 2) by the index along an axis, same shape."""
    n = grid.shape[axis]
    if n == 1:  # one sample covers the frame, −1…1, along this axis and nothing along the other
        whole = torch.zeros_like(grid)
        whole[..., 0 if axis == 2 else 1] = 2
        return whole
    steps = grid.diff(dim=axis)
    first, last = steps.narrow(axis, 0, 1), steps.narrow(axis, n - 2, 1)
    central = (steps.narrow(axis, 0, n - 2) + steps.narrow(axis, 1, n - 2)) / 2
    return torch.cat((first, central, last), axis)


def _corner_products(grid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each of a cell's two triangles the products p, q whose difference is twice its area."""
    x, y = grid[..., 0], grid[..., 1]
    right_x, right_y = x.diff(dim=2), y.diff(dim=2)  # B,h,w−1
    down_x, down_y = x.diff(dim=1), y.diff(dim=1)  # B,h−1,w
    return [
        (right_x[:, :-1] * down_y[..., :-1], right_y[:, :-1] * down_x[..., :-1]),
        (right_x[:, 1:] * down_y[..., 1:], right_y[:, 1:] * down_x[..., 1:]),
    ]


@lru_cache(maxsize=64)
def _identity(h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, h, w, 2) identity grid; shared, so never written to."""
    with torch.inference_mode(False):  # an inference tensor in the cache would break training
        x = torch.from_numpy(uniform_normalised(w)).to(device, dtype)
        y = torch.from_numpy(uniform_normalised(h)).to(device, dtype)
        return torch.stack((x.expand(h, w), y.unsqueeze(1).expand(h, w)), -1).unsqueeze(0)


@lru_cache(maxsize=64)
def _axis_matrices(
    m: int, n: int, kernel: GridKernel, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(2m, n): K0 above K1 for m output positions over n density pixels; shared."""
    matrices = np.concatenate(axis_kernels(m, n, kernel))
    with torch.inference_mode(False):
        return torch.from_numpy(matrices).to(device, dtype)


def axis_kernels(
    m: int, n: int, kernel: GridKernel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return K0 and K1 (each m × n, float64) of one axis: see the module's head.

    Rows of K0 sum to 1 and rows of K1 to 0, so that a uniform density moves nothing. With the plain
    sum of eq. 3 the latter fails wherever x_a is no integer, because the cut then takes more taps
    from one side (up to half a pixel for the paper's kernel). Two changes keep it, and leave every
    integer x_a (hence the paper's case of equal sizes) as eq. 3 has it: a tap counts by the share
    of its pixel inside the cut, so that taps fade in as x_a moves; and the Gaussian's centre is
    shifted by the fraction of a pixel that makes the taps' mean x_a itself. The weights stay a
    non-negative, log-concave function of q − x: positions stay in order and in the frame.

    Args:
        m: Output positions, ``x_a = (a + ½)·n/m − ½``.
        n: Density pixels.
        kernel: The distance kernel.
    """
    position = uniform_positions(m, n)
    reach = kernel.radius + 1
    base = np.floor(position)
    taps = base[:, None] + np.arange(-reach, reach + 2.0)  # m,T: every q within reach of any shift
    weights = _tap_weights(taps, _balanced_centres(position, kernel), kernel)
    target = _fold(taps.astype(np.int64), n, kernel.padding)
    cell = (np.arange(m)[:, None] * n + target).ravel()
    moments = weights * (taps - position[:, None])
    k0 = np.bincount(cell, weights.ravel(), m * n).astype(np.float64)
    k1 = np.bincount(cell, moments.ravel(), m * n).astype(np.float64)
    return k0.reshape(m, n), k1.reshape(m, n)


def _balanced_centres(position: NDArray[np.float64], kernel: GridKernel) -> NDArray[np.float64]:
    """Gaussian centres whose taps, all equally dense, have their mean at the given positions."""
    # The mean grows with the centre and equals it at integers and halves (symmetry), so each half
    # pixel brackets a root, the same for all positions of one fraction. A wide kernel's bias is
    # slight and adding the error converges at once; every other step halves the bracket, which
    # holds for kernels narrower than a pixel too.
    base = np.floor(position)
    fraction, index = np.unique(np.round(position - base, 12), return_inverse=True)
    reach = kernel.radius + 1
    taps = np.broadcast_to(np.arange(-reach, reach + 2.0), (len(fraction), 2 * reach + 2))
    low = np.where(fraction < 0.5, 0.0, 0.5)
    high = low + 0.5
    centre = fraction
    for step in range(_CENTRE_STEPS):
        error = fraction - (_tap_weights(taps, centre, kernel) * taps).sum(1)
        if np.abs(error).max() < 1e-13:
            break
        low, high = np.where(error > 0, centre, low), np.where(error > 0, high, centre)
        moved, halved = centre + error, (low + high) / 2
        inside = (moved > low) & (moved < high) & (step % 2 == 0)
        centre = np.where(inside, moved, halved)
    centres: NDArray[np.float64] = base + centre[index]
    return centres


def _tap_weights(
    taps: NDArray[np.float64], centre: NDArray[np.float64], kernel: GridKernel
) -> NDArray[np.float64]:
    """Gaussian × share of the tap's pixel inside the cut, rows scaled to sum 1; (m, T)."""
    distance = np.abs(taps - centre[:, None])
    share = np.clip(kernel.radius + 1 - distance, 0, 1)
    # Relative to the nearest tap, so that a Gaussian far narrower than a pixel does not underflow.
    exponent = (distance**2 - distance.min(1, keepdims=True) ** 2) / (2 * kernel.sigma**2)
    weights = share * np.exp(-exponent)
    scaled: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return scaled


def _fold(taps: NDArray[np.int64], n: int, padding: Padding) -> NDArray[np.int64]:
    """Density pixel that each padded position shows: mirrored as often as needed, or clamped."""
    if padding == "replicate":
        return np.clip(taps, 0, n - 1)
    turn = taps % (2 * n)  # … 1 0 | 0 1 … n−1 | n−1 … 0 | 0 …: period 2n about the frame's edges
    return np.minimum(turn, 2 * n - 1 - turn)
