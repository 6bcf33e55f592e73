"""Sampling grids and class scores for the tests of the reverse map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from geodeform.deform.density import edge_target, normalise, softmax_density, uniform_density
from geodeform.deform.grid import GridKernel, density_to_grid

Grid = NDArray[np.float32]
DUBAI_COLOURS = (0x3C1098, 0x8429F6, 0x6EC1E4, 0xFEDD3A, 0xE2A929)
SYNTHETIC = ("uniform", "noise", "strong noise", "peak", "sharp peak", "spikes")


def synthetic_density(name: str, n: int = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, n, n, generator=generator)
    y, x = torch.meshgrid(torch.arange(n) / n, torch.arange(n) / n, indexing="ij")
    spikes = torch.full((1, 1, n, n), 1e-3)
    spikes.view(-1)[torch.randint(0, n * n, (20,), generator=generator)] = 10
    width = {"peak": 0.15, "sharp peak": 0.07}.get(name, 1.0)
    peak = 0.02 + torch.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / (2 * width**2))
    if name == "uniform":
        return uniform_density(1, (n, n))
    if name in ("noise", "strong noise"):
        return softmax_density(noise * (1 if name == "noise" else 4))
    return normalise(spikes if name == "spikes" else peak[None, None])


def synthetic_grid(name: str, size: tuple[int, int]) -> Grid:
    return density_to_grid(synthetic_density(name), size, GridKernel(10.0))[0].numpy()


def dubai_labels(folder: Path, tile: int, side: int = 1000) -> NDArray[np.uint8]:
    path = folder / "dubai" / f"Tile {tile}" / "masks" / "image_part_001.png"
    rgb = np.asarray(Image.open(path).convert("RGB"))[:side, :side].astype(np.int64)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    labels = np.full(packed.shape, 255, np.uint8)
    for k, colour in enumerate(DUBAI_COLOURS):
        labels[packed == colour] = k
    return labels


def real_grid(folder: Path, tile: int, size: tuple[int, int], sigma: float = 10.0) -> Grid:
    labels = torch.from_numpy(dubai_labels(folder, tile)).long()
    step = min(labels.shape) // 100
    low = labels[None, ::step, ::step][:, :100, :100]
    return density_to_grid(normalise(edge_target(low, 5)), size, GridKernel(sigma))[0].numpy()


def softmax_scores(n: int, size: tuple[int, int], seed: int = 0, blur: int = 6) -> Grid:
    """Smooth class probabilities as a network gives them: softmax of blurred noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, n, size[0] // blur + 2, size[1] // blur + 2, generator=generator)
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return (4 * smooth).softmax(1)[0].numpy()
