"""Eq. 2: sine and cosine transforms against a factorised sparse and a dense solve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csc_matrix, diags, identity, kron
from scipy.sparse.linalg import splu
from torch import Tensor

from geodeform.deform.edge import boundary_grid, minimise_energy, nearest_boundary, resize_grid
from geodeform.deform.grid import uniform_grid
from geodeform.deform.sample import sample_labels

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

BATCH = 16
WEIGHT = 1.0


def street_labels(shared_data: Path, side: int) -> Tensor:
    """(BATCH, side, side) of real CamVid masks."""
    maps = []
    for path in sorted((shared_data / "camvid" / "trainannot").glob("*.png"))[:: 367 // BATCH]:
        ids = np.asarray(Image.open(path))[:, 60:420].astype(np.int64)
        ids[ids == 11] = 255
        maps.append(torch.from_numpy(ids))
    grid = uniform_grid(BATCH, (side, side))
    return sample_labels(torch.stack(maps[:BATCH]), grid)


def path_laplacian(n: int) -> csc_matrix:
    """Laplacian of a line of n samples; the ends have one neighbour."""
    diagonal = np.full(n, 2.0)
    diagonal[[0, -1]] = 1
    return diags([diagonal, -np.ones(n - 1), -np.ones(n - 1)], [0, 1, -1], format="csc")


def system(side: int) -> csc_matrix:
    """I + λL of the y component: the first and the last row are fixed and left out."""
    laplacian = kron(path_laplacian(side), identity(side)) + kron(
        identity(side), path_laplacian(side)
    )
    inner = slice(side, side * (side - 1))
    return csc_matrix((identity(side * side) + WEIGHT * laplacian).tocsc()[inner, inner])


def test_solve_against_dense_and_sparse(
    shared_data: Path, report: Callable[[str], None], median_ms: Callable[..., float]
) -> None:
    report(f"\nminimum of eq. 2, {BATCH} grids, both components, one thread")
    for side in (32, 64):
        target = nearest_boundary(street_labels(shared_data, side), (side, side))
        plain = uniform_grid(1, (side, side), dtype=torch.float64)[0].numpy()
        matrix = system(side)
        pull = (target - plain)[:, 1:-1, :, 1].reshape(BATCH, -1).T.copy()
        dense_matrix = matrix.toarray()
        factor = splu(matrix)
        solved = np.linalg.solve(dense_matrix, pull)
        found = (minimise_energy(target, WEIGHT) - plain)[:, 1:-1, :, 1].reshape(BATCH, -1).T
        assert np.abs(found - solved).max() < 1e-12
        cases = (
            ("numpy, dense", lambda m=dense_matrix, p=pull: np.linalg.solve(m, p), 1),
            ("scipy splu, factorise and solve", lambda m=matrix, p=pull: splu(m).solve(p), 3),
            ("scipy splu, solve", lambda f=factor, p=pull: f.solve(p), 5),
        )
        fast = median_ms(lambda t=target: minimise_energy(t, WEIGHT), 15)
        for name, call, repeats in cases:
            slow = 2 * median_ms(call, repeats)  # y alone is half of the work
            report(f"  {side}²  {name:32s}{slow:10.2f} ms  {slow / fast:7.1f}x")
        report(f"  {side}²  transforms                      {fast:10.2f} ms")


def test_grid_of_labels(
    shared_data: Path, report: Callable[[str], None], median_ms: Callable[..., float]
) -> None:
    report(f"\nboundary_grid, {BATCH} label maps of 64², fold check and repair, one thread")
    labels = street_labels(shared_data, 64)
    for side in (16, 32, 64, 128):
        whole = median_ms(lambda side=side: boundary_grid(labels, (side, side)), 7)
        search = median_ms(lambda side=side: nearest_boundary(labels, (side, side)), 7)
        report(f"  {side:3d}² samples {whole:9.2f} ms, of it the closest points {search:9.2f} ms")
    nodes = boundary_grid(labels, (16, 16))
    report(f"  resize 16² to 64² {median_ms(lambda: resize_grid(nodes, (64, 64)), 15):9.2f} ms")
    assert resize_grid(nodes, (64, 64)).isfinite().all()
