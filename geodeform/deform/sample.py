"""Sampling grid → sampled image and labels.

Images are read bilinearly, or from a pyramid of area averages so that a sample which stands for
many pixels averages them (mip-mapping): the level is λ = log2(√|det J|) − 1, linear between levels.
Labels are read nearest, by index. Coordinates are normalised with ``align_corners=False``;
positions beyond the outermost pixel centres take the border pixel's value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geodeform.deform.coords import Size, grid_to_pixels
from geodeform.deform.grid import SamplingGrid, jacobian_determinant, uniform_grid

SampleMode = Literal["area", "bilinear"]


def build_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Halve an image again and again.

    Every level shows the whole frame, so one sampling grid fits all. Even sizes take 2×2 means; an
    odd size 2k + 1 becomes k pixels of (2k + 1)/k pixels each, averages of three, weighted so that
    linear ramps keep their place, where dropping or repeating a row would shift them.

    Args:
        image: (B, C, H, W) floating point.
        levels: How many levels at most, the image itself counted; a level of 1×1 is the last.

    Returns:
        Levels from the image (level 0) to the coarsest. Differentiable.

    Raises:
        ValueError: If the image is not a floating-point (B, C, H, W) or ``levels`` is below 1.
    """
    _check_image(image)
    if levels < 1:
        raise ValueError(f"a pyramid needs at least one level, got {levels}")
    pyramid = [image]
    while len(pyramid) < levels and max(pyramid[-1].shape[-2:]) > 1:
        pyramid.append(_halve(_halve(pyramid[-1], -2), -1))
    return pyramid


def mip_level(grid: SamplingGrid, size: Size) -> Tensor:
    """Return the pyramid level that suits each sample, λ = log2(√|det J|) − 1, unclamped.

    Level ℓ has pixels 2^ℓ source pixels wide: samples then lie two of its pixels apart.

    Args:
        grid: (B, h, w, 2) normalised.
        size: (H, W) of the source image.

    Returns:
        (B, h, w); negative where samples lie closer than two source pixels. Differentiable.
    """
    pixels = jacobian_determinant(grid, size)
    return 0.5 * torch.log2(pixels.clamp_min(torch.finfo(pixels.dtype).eps)) - 1


def sample_image(
    image: Tensor | Sequence[Tensor], grid: SamplingGrid, *, mode: SampleMode = "area"
) -> Tensor:
    """Read an image at the positions of a sampling grid.

    Args:
        image: (B, C, H, W) floating point, or the pyramid of it from :func:`build_pyramid`.
        grid: (B, h, w, 2) normalised (x, y).
        mode: ``"area"``: mip-mapped, each sample averages about what it stands for;
            ``"bilinear"``: from the four nearest pixels alone.

    Returns:
        (B, C, h, w) in the wider of the two precisions. Differentiable by image and grid.

    Raises:
        ValueError: If shapes do not fit or the mode is unknown.
    """
    if mode not in ("area", "bilinear"):
        raise ValueError(f"mode must be 'area' or 'bilinear', got {mode!r}")
    finest = image if isinstance(image, Tensor) else image[0]
    _check_image(finest)
    _check_grid(grid, finest.shape[0])
    if mode == "bilinear":
        return _bilinear(finest, grid)
    size = (finest.shape[-2], finest.shape[-1])
    level = mip_level(grid, size).clamp_min(0).unsqueeze(1)  # B,1,h,w
    lowest, highest = _level_bounds(level, size)
    if isinstance(image, Tensor):
        image = build_pyramid(image, math.ceil(highest) + 1)
    coarsest = len(image) - 1
    level = level.clamp_max(coarsest)
    first, last = min(math.floor(lowest), coarsest), min(math.ceil(highest), coarsest)
    sampled = _bilinear(image[first], grid)
    for index in range(first, last):  # level `index` fades into the next as λ goes from one to next
        share = (level - index).clamp(0, 1)
        sampled = torch.lerp(sampled, _bilinear(image[index + 1], grid), share.to(sampled.dtype))
    return sampled


def area_downsample(image: Tensor, size: Size) -> Tensor:
    """Resize by exact area averages: the fair uniform baseline.

    Each output pixel is the mean of the source over its own rectangle, whatever the ratio; pixels
    that the rectangle cuts count by the share inside, so the mean of the image is kept.

    Args:
        image: (B, C, H, W) floating point.
        size: (h, w), at least 1 each.

    Returns:
        (B, C, h, w), same precision. Differentiable.

    Raises:
        ValueError: If the image is not a floating-point (B, C, H, W) or the size is not positive.
    """
    _check_image(image)
    if min(size) < 1:
        raise ValueError(f"the size must be positive, got {size}")
    height, width = image.shape[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        step = (height // size[0], width // size[1])
        return F.avg_pool2d(image, step)
    with torch.autocast(image.device.type, enabled=False):
        across = image @ _area_weights(size[1], width, image.dtype, image.device).T  # B,C,H,w
        return _area_weights(size[0], height, image.dtype, image.device) @ across


def sample_labels(labels: Tensor, grid: SamplingGrid) -> Tensor:
    """Read class ids at the positions of a sampling grid, nearest pixel, exactly.

    Args:
        labels: (B, H, W) of any integer (or bool) type; values are moved, never computed with.
        grid: (B, h, w, 2) normalised (x, y).

    Returns:
        (B, h, w), the type of ``labels``.

    Raises:
        ValueError: If shapes do not fit.
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must be (B, H, W), got {tuple(labels.shape)}")
    _check_grid(grid, labels.shape[0])
    height, width = labels.shape[1:]
    pixels = grid_to_pixels(grid.detach().double(), (height, width)).floor()  # B,h,w,2
    column = pixels[..., 0].clamp(0, width - 1).long()
    row = pixels[..., 1].clamp(0, height - 1).long()
    sample = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    return labels[sample, row, column]


def _level_bounds(level: Tensor, size: Size) -> tuple[float, float]:
    """Least and greatest level that must be read for the given ones, clamped to 0 or more."""
    # A traced graph (torch.export) has no loop whose length follows the values. Reading all levels
    # changes nothing: up to the finest that is needed each replaces the one before, and those
    # beyond the coarsest get the share 0.
    if torch.compiler.is_compiling():
        return 0.0, math.log2(max(size))
    lowest, highest = level.detach().nan_to_num(0).aminmax()
    return float(lowest), float(highest)


def downsample_labels(labels: Tensor, size: Size) -> Tensor:
    """Resize class ids to a uniform grid, nearest pixel; the labels' :func:`area_downsample`.

    Args:
        labels: (B, H, W) of any integer (or bool) type.
        size: (h, w), at least 1 each.

    Returns:
        (B, h, w), the type of ``labels``.
    """
    return sample_labels(labels, uniform_grid(len(labels), size, device=labels.device))


def _bilinear(image: Tensor, grid: Tensor) -> Tensor:
    # Half precision would place samples to a thousandth of the frame only.
    dtype = torch.promote_types(image.dtype, grid.dtype)
    return F.grid_sample(
        image.to(dtype), grid.to(dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


def _halve(image: Tensor, axis: int) -> Tensor:
    """Halve one axis (−2 or −1): every output pixel covers n / ⌊n/2⌋ of the input."""
    n = image.shape[axis]
    if n == 1:
        return image
    half = n // 2
    if n % 2 == 0:
        return (_every_second(image, axis, 0, half) + _every_second(image, axis, 1, half)) / 2
    # Output i covers n/k pixels from i·n/k on, so pixels 2i, 2i+1 and 2i+2. By area alone their
    # shares were (k−i)/n, k/n and (i+1)/n, but a cut pixel counts as if its value lay at its
    # centre, which moves ramps by up to 0.05 pixels. These have the same middle share and the same
    # sum, and their mean position is the output's centre (i + ½)·n/k.
    i = torch.arange(half, device=image.device, dtype=image.dtype)
    outer, lean = (half + 1) / n, (i + 0.5) / half - 0.5  # third minus first share: lean
    column = (-1, 1) if axis == -2 else (-1,)
    return (
        ((outer - lean) / 2).view(column) * _every_second(image, axis, 0, half)
        + (half / n) * _every_second(image, axis, 1, half)
        + ((outer + lean) / 2).view(column) * _every_second(image, axis, 2, half)
    )


def _every_second(image: Tensor, axis: int, start: int, count: int) -> Tensor:
    """``count`` rows (axis −2) or columns (axis −1) from ``start``, in steps of two."""
    chosen = slice(start, start + 2 * count - 1, 2)
    return image[..., chosen, :] if axis == -2 else image[..., chosen]


@lru_cache(maxsize=64)
def _area_weights(m: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(m, n): share of source pixel t in the mean over output pixel a's interval; shared."""
    edges = np.arange(m + 1) * (n / m)
    pixel = np.arange(n)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    weights /= weights.sum(1, keepdims=True)
    with torch.inference_mode(False):  # an inference tensor in the cache would break training
        return torch.from_numpy(weights).to(device, dtype)


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or not image.is_floating_point() or 0 in image.shape[2:]:
        raise ValueError(
            f"image must be floating point (B, C, H, W), got {tuple(image.shape)} {image.dtype}"
        )


def _check_grid(grid: Tensor, batch: int) -> None:
    if grid.ndim != 4 or grid.shape[-1] != 2 or grid.shape[0] != batch:
        raise ValueError(f"grid must be ({batch}, h, w, 2), got {tuple(grid.shape)}")
