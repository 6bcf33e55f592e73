"""Edge-based sampling: labels → the grid that lies near semantic boundaries (eq. 2 of the paper).

Marin et al. 2019 (Efficient Segmentation: Learning Downsampling Near Semantic Boundaries), as eq. 2
of Learning to Downsample for Segmentation of Ultra-High Resolution Images (ICLR 2022) has it: with
b[i, j] the boundary point closest to where sample (i, j) of the uniform grid lies,

    E(G) = Σ ‖G(i,j) − b[i,j]‖² + λ Σ ‖G(i,j) − G(i′,j′)‖²,  |i − i′| + |j − j′| = 1,

is least under the covering constraint: samples of the outermost rows keep their y, those of the
outermost columns their x, so that corners stay and the whole frame is sampled. Every pair of
neighbours counts once in the second sum, so sample (i, j) is pulled with 1 to b[i, j] and with λ to
each neighbour; whoever reads the sum as one over ordered pairs wants ``weight=2``.

E is a sum over the two components, and so is the solution, whatever the unit of each: only which
boundary point is *closest* depends on the frame's shape. With displacements v = G − u from the
uniform positions u, which are linear along one axis and constant along the other, the minimum is
(I + λL)·v = b − u, L the grid's Laplacian with v = 0 on the fixed samples. Sines (DST-I) along the
fixed axis and cosines (DCT-II) along the free one are the eigenvectors of L, hence four transforms
and a division solve the system exactly, with nothing to factorise or to cache.

λ counts in samples: the pull reaches about √λ of them, so a finer grid under the same λ is crowded
closer to the boundary. The minimum can fold: with λ = 1 one of 122 real label maps (CamVid, Dubai,
DeepGlobe) folds a cell at 16×16 samples, a fifth do at 32×32 and three quarters at 64×64. Such
grids are mended. A small grid of nodes and :func:`resize_grid` avoid it, with a gentler pull.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import dct, dst, idct
from scipy.spatial import cKDTree
from torch import Tensor

from geodeform.classes import NODATA_CLASS
from geodeform.deform.coords import Size, grid_to_pixels, pixels_to_grid, uniform_normalised
from geodeform.deform.grid import SamplingGrid, fit_to_frame, repair_folds, uniform_grid

# Samples and boundary points lie on lattices, so that several points are often equally close. A
# search from a minute step up and left decides all those ties alike; left to the search tree,
# neighbouring samples would be torn apart.
_TIE_STEP = np.array([0.618e-8, 1e-8])  # shares of the frame, (x, y)


def boundary_grid(
    labels: Tensor,
    size: Size,
    *,
    weight: float = 1.0,
    frame: Size | None = None,
    repair: bool = True,
) -> SamplingGrid:
    """Return the grid that minimises eq. 2 of the paper for each label map (see the module's head).

    Args:
        labels: (B, H, W) class ids of any integer type, normally of low resolution;
            :data:`NODATA_CLASS` (255) is unknown. Neither the border of the unknown nor the image's
            is a boundary.
        size: (h, w) of the grid; need not equal (H, W).
        weight: λ, > 0: how much the grid keeps its shape.
        frame: Height and width of what the labels show, in one unit, such as the window's (H, W) in
            pixels: the closest boundary point is closest there. None: labels have square pixels.
        repair: Whether a grid that folds is blended with the uniform one until it does not
            (:func:`~geodeform.deform.grid.repair_folds`); the others stay the exact minimum.

    Returns:
        (B, h, w, 2) normalised (x, y), float32, on the device of ``labels``; the uniform grid where
        a label map has no boundary.

    Raises:
        ValueError: If labels are not an integer (B, H, W), or a size or the weight is not positive.
    """
    target = nearest_boundary(labels, size, frame=frame)
    grid = torch.from_numpy(minimise_energy(target, weight)).to(labels.device, torch.float32)
    return repair_folds(grid) if repair else grid


def nearest_boundary(
    labels: Tensor, size: Size, *, frame: Size | None = None
) -> NDArray[np.float64]:
    """Return b of eq. 2: for each sample of a uniform grid the closest semantic boundary point.

    Boundary points are the middles of the sides between two pixels of different known classes. Of
    several that are equally close the one towards the upper left is taken. Points farther out than
    the outermost samples, which may lie there where labels are finer than the grid, count as lying
    on the outermost row or column: samples that passed those, which cannot move, would fold the
    grid.

    Args:
        labels: As in :func:`boundary_grid`.
        size: (h, w) of the grid.
        frame: As in :func:`boundary_grid`.

    Returns:
        (B, h, w, 2) normalised (x, y); a sample's own position where there is no boundary.

    Raises:
        ValueError: If labels are not an integer (B, H, W) or a size is not positive.
    """
    if labels.ndim != 3 or labels.is_floating_point() or 0 in labels.shape:
        raise ValueError(
            f"labels must be (B, H, W) of an integer type, got {tuple(labels.shape)} {labels.dtype}"
        )
    frame = frame or (labels.shape[1], labels.shape[2])
    if min(*size, *frame) < 1:
        raise ValueError(f"sizes must be positive, got a grid of {size} and a frame of {frame}")
    uniform = _uniform(size)  # h,w,2
    outermost = np.abs(uniform[-1, -1])  # x, y
    positions = (grid_to_pixels(uniform, frame) - _TIE_STEP * np.array(frame[::-1])).reshape(-1, 2)
    nearest = np.empty((len(labels), *uniform.shape))
    for index, one in enumerate(labels.cpu().numpy()):
        points = _boundary_points(one)  # N,2
        if len(points) == 0:
            nearest[index] = uniform
            continue
        tree = cKDTree(grid_to_pixels(points, frame), balanced_tree=False, compact_nodes=False)
        _, closest = tree.query(positions)
        nearest[index] = points[closest].reshape(uniform.shape).clip(-outermost, outermost)
    return nearest


def minimise_energy(target: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Return the grid of least E (eq. 2) under the covering constraint, for any targets b.

    Args:
        target: (B, h, w, 2) normalised (x, y). The outermost samples' components across the frame's
            edge have no effect.
        weight: λ, > 0.

    Returns:
        (B, h, w, 2), between the least and the greatest of the targets and the frame's outermost
        positions.

    Raises:
        ValueError: If the weight is not positive.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight must be positive, got {weight}")
    uniform = _uniform((target.shape[1], target.shape[2]))
    pull = target - uniform
    displacement = np.zeros_like(pull)
    displacement[:, :, 1:-1, 0] = _smoothed(pull[:, :, 1:-1, 0], weight, fixed=2)
    displacement[:, 1:-1, :, 1] = _smoothed(pull[:, 1:-1, :, 1], weight, fixed=1)
    return uniform + displacement


def resize_grid(grid: SamplingGrid, size: Size) -> SamplingGrid:
    """Interpolate a grid of nodes to another size, bilinearly between cell centres.

    What is interpolated is the displacement from the uniform grid, and beyond the outermost nodes'
    centres theirs is kept: the uniform grid stays the uniform grid, and a covering one covers.
    Between nodes of a sound grid whose cells are not convex a finer grid can still fold; see
    :func:`~geodeform.deform.grid.repair_folds`.

    Args:
        grid: (B, hd, wd, 2) normalised (x, y).
        size: (h, w), smaller or larger than (hd, wd).

    Returns:
        (B, h, w, 2), same type, within −1…1: a grid that would leave the frame, which no covering
        one does, is squeezed into it (:func:`~geodeform.deform.grid.fit_to_frame`). Differentiable.

    Raises:
        ValueError: If the grid is not (B, hd, wd, 2) or the size is not positive.
    """
    if grid.ndim != 4 or grid.shape[-1] != 2 or 0 in grid.shape:
        raise ValueError(f"the grid must be (B, hd, wd, 2), got {tuple(grid.shape)}")
    if min(size) < 1:
        raise ValueError(f"the grid's size must be positive, got {size}")
    nodes = (grid.shape[1], grid.shape[2])
    if nodes == tuple(size):
        return fit_to_frame(grid)
    displacement = grid - uniform_grid(1, nodes, device=grid.device, dtype=grid.dtype)
    resized = F.interpolate(
        displacement.movedim(-1, 1), size=size, mode="bilinear", align_corners=False
    ).movedim(1, -1)  # B,h,w,2
    return fit_to_frame(uniform_grid(1, size, device=grid.device, dtype=grid.dtype) + resized)


def _boundary_points(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(N, 2) normalised (x, y) of the sides between pixels of different known classes."""
    known = labels != NODATA_CLASS
    across = (labels[:, 1:] != labels[:, :-1]) & known[:, 1:] & known[:, :-1]
    down = (labels[1:] != labels[:-1]) & known[1:] & known[:-1]
    row, column = np.nonzero(across)  # sides between columns
    row_below, column_below = np.nonzero(down)  # sides between rows
    x = np.concatenate((column + 1.0, column_below + 0.5))
    y = np.concatenate((row + 0.5, row_below + 1.0))
    return pixels_to_grid(np.stack((x, y), -1), (labels.shape[0], labels.shape[1]))


def _smoothed(pull: NDArray[np.float64], weight: float, *, fixed: int) -> NDArray[np.float64]:
    """Solve (I + λL)·v = pull, (B, m, n), v = 0 beyond both ends of axis ``fixed`` (1 or 2)."""
    if pull.shape[fixed] == 0:  # all samples of this axis are outermost ones
        return pull
    free = 3 - fixed
    m, n = pull.shape[fixed], pull.shape[free]
    sines = 2 - 2 * np.cos(np.pi * np.arange(1, m + 1) / (m + 1))  # eigenvalues along the axis
    cosines = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
    eigenvalues = np.add.outer(sines, cosines) if fixed == 1 else np.add.outer(cosines, sines)
    spectrum = dct(dst(pull, 1, axis=fixed, norm="ortho"), 2, axis=free, norm="ortho")
    spectrum /= 1 + weight * eigenvalues
    # The orthonormal DST-I is its own inverse.
    solution: NDArray[np.float64] = dst(
        idct(spectrum, 2, axis=free, norm="ortho"), 1, axis=fixed, norm="ortho"
    )
    return solution


def _uniform(size: Size) -> NDArray[np.float64]:
    """(h, w, 2) normalised (x, y) of the uniform grid's samples."""
    x, y = np.meshgrid(uniform_normalised(size[1]), uniform_normalised(size[0]))
    return np.stack((x, y), -1)
