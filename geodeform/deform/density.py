"""Density maps: where samples should be dense (the paper's deformation map ``d``).

A density is (B, 1, hd, wd), positive, and sums to 1 for each sample of the batch. It is made from a
network's logits (:func:`softmax_density`), from non-negative scores (:func:`normalise`) or is
uniform; :func:`edge_target` is what the paper's edge loss (section 3.2, footnote 4) pulls it to.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from geodeform.classes import NODATA_CLASS
from geodeform.deform.coords import Size


def uniform_density(
    batch: int,
    size: Size,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the density (batch, 1, hd, wd) that is equal everywhere: it gives the uniform grid."""
    height, width = size
    return torch.full((batch, 1, height, width), 1 / (height * width), device=device, dtype=dtype)


def softmax_density(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Turn a network's logits into a density by a softmax over all positions.

    Args:
        logits: (B, 1, hd, wd), any range. Half precision is computed in float32, since a softmax
            over 10⁵ positions has values below float16's smallest number.
        temperature: Above 1 flattens the density, below 1 sharpens it.

    Returns:
        (B, 1, hd, wd) density, float32 or float64.

    Raises:
        ValueError: If the shape is not (B, 1, hd, wd) or the temperature is not positive.
    """
    _check_density_shape(logits, "logits")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    flat = _at_least_float32(logits).flatten(1) / temperature
    return flat.softmax(1).view(logits.shape)


def normalise(scores: Tensor) -> Tensor:
    """Scale non-negative scores to a density: positive, sum 1 for each sample.

    Args:
        scores: (B, 1, hd, wd) ≥ 0. A sample that is zero everywhere becomes uniform; single zeros
            become the smallest share (the type's epsilon times the mean) that keeps them positive.

    Returns:
        (B, 1, hd, wd) density, float32 or float64.

    Raises:
        ValueError: If the shape is not (B, 1, hd, wd).
    """
    _check_density_shape(scores, "scores")
    scores = _at_least_float32(scores)
    mean = scores.mean((1, 2, 3), keepdim=True)
    floored = torch.where(mean > 0, scores + torch.finfo(scores.dtype).eps * mean, 1.0)
    return floored / floored.sum((1, 2, 3), keepdim=True)


def mix_uniform(density: Tensor, share: float) -> Tensor:
    """Blend a density with the uniform one: ``(1 − share)·d + share/N``.

    Args:
        density: (B, 1, hd, wd).
        share: 0 (nothing changes) … 1 (uniform).

    Raises:
        ValueError: If the share lies outside 0…1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0…1, got {share}")
    return (1 - share) * density + share / (density.shape[-2] * density.shape[-1])


def resize_density(density: Tensor, size: Size) -> Tensor:
    """Interpolate a density bilinearly between its pixels' centres, and scale its sum to 1 again.

    Args:
        density: (B, 1, hd, wd), positive.
        size: (h, w) of the result; where it is (hd, wd), the density comes back as it is.

    Returns:
        (B, 1, h, w), positive, sums to 1.
    """
    if density.shape[-2:] == size:
        return density
    return normalise(F.interpolate(density, size, mode="bilinear", align_corners=False))


def minmax(values: Tensor) -> Tensor:
    """Scale each sample to 0…1 by its own smallest and largest value; constants become zeros.

    Args:
        values: (B, …), floating point.

    Returns:
        Same shape, 0…1. Differentiable.
    """
    axes = tuple(range(1, values.ndim))
    low, high = values.amin(axes, keepdim=True), values.amax(axes, keepdim=True)
    span = high - low
    # A constant map that went through a softmax differs in its last bits: stretching those to
    # 0…1 would turn rounding into a target.
    noise = 8 * torch.finfo(values.dtype).eps * torch.maximum(high.abs(), low.abs())
    varied = span > noise
    return torch.where(varied, (values - low) / torch.where(varied, span, 1.0), 0.0)


def edge_target(
    labels: Tensor,
    n_classes: int,
    *,
    blur_sigma: float = 1.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return how strongly each pixel lies at a border between two known classes.

    ``f_edge(f_gauss(Y_lr))`` of the paper (section 3.2, footnote 4), taken per class: one-hot maps,
    a Gaussian blur, the kernel [[−1,−1,−1],[−1,8,−1],[−1,−1,−1]] with the border padded by its own
    values, and the sum of the classes' positive parts. Permuting the class ids changes nothing,
    which the same filter over the ids as grey levels would not give.

    Args:
        labels: (B, h, w) class ids of any integer type; :data:`NODATA_CLASS` (255) is unknown.
            Unknown pixels get 0 and a border with them is no edge.
        n_classes: Ids are 0…n_classes − 1.
        blur_sigma: Standard deviation of the blur in pixels (the paper's δ), 0 for none.
        class_weights: (C,) ≥ 0 factor of each class's own positive part, that is of its side of the
            borders; None for 1 each.

    Returns:
        (B, 1, h, w) float32 ≥ 0, unscaled (see :func:`minmax` and :func:`normalise`); all zero
        where there is no edge at all.

    Raises:
        ValueError: If the shape is not (B, h, w), an id is neither a class nor unknown, or there is
            not one weight a class.
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must be (B, h, w), got {tuple(labels.shape)}")
    if class_weights is not None and class_weights.shape != (n_classes,):
        raise ValueError(f"class_weights must be ({n_classes},), got {tuple(class_weights.shape)}")
    labels = labels.long()
    known = labels != NODATA_CLASS
    strange = known & ((labels < 0) | (labels >= n_classes))
    if strange.any():
        raise ValueError(
            f"label {int(labels[strange][0])} is neither a class of 0…{n_classes - 1} nor "
            f"{NODATA_CLASS} (unknown)"
        )
    one_hot = F.one_hot(torch.where(known, labels, n_classes), n_classes + 1)
    one_hot = one_hot[..., :n_classes].movedim(-1, 1).float()  # B,C,h,w
    known = known.unsqueeze(1)  # B,1,h,w
    # The blur averages over known pixels only: beside unknown ground a class keeps its share, so
    # the border of the unknown is no edge. Within reach of a known pixel the shares sum to 1.
    weight = _blur(known.float(), blur_sigma)
    share = _blur(one_hot, blur_sigma) / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    # Where blur_sigma = 0, or beyond the blur's reach, unknown pixels have no share of any class;
    # their known neighbours must not see that as an edge, so each takes its neighbour's own share.
    reached = (weight > 0).float()
    padded = F.pad(share, (1, 1, 1, 1), mode="replicate")
    padded_reached = F.pad(reached, (1, 1, 1, 1), mode="replicate")
    ones = torch.ones(1, 1, 3, 3, device=share.device)
    neighbours = _filter_each(padded, ones)
    present = _filter_each(padded_reached, ones)
    response = present * share - neighbours  # 8·centre − the eight around it, where all are present
    # The shares sum to 1, so the responses sum to 0 over the classes and the sum of their positive
    # parts is exactly half the sum of their magnitudes: the choice is only a factor, which min-max
    # removes. The positive part counts each edge once. Rounding (1e-6) is no edge.
    edges = F.relu(response - 1e-5)  # B,C,h,w
    if class_weights is not None:
        edges = edges * class_weights.view(1, -1, 1, 1)
    return edges.sum(1, keepdim=True) * known


def edge_density(labels: Tensor, n_classes: int, *, radius: float) -> Tensor:
    """Density of the simulated "edge-based" sampler (appendix A.5): blurred label edges.

    The edges of the labels, each pixel that has one counting alike, spread by a Gaussian: a small
    radius samples densely right at the edges, a large one evenly around them. It looks at labels,
    so figures made with it are those of an oracle.

    Args:
        labels: (B, hd, wd) class ids at the density's size, 255 unknown.
        n_classes: Ids are 0…n_classes − 1.
        radius: Standard deviation of the Gaussian in density pixels, ≥ 0.

    Returns:
        (B, 1, hd, wd) density, positive, sums to 1; uniform where there is no edge at all.
    """
    edges = (edge_target(labels, n_classes, blur_sigma=0) > 0).float()
    # Beyond the frame is nothing: dividing by the blurred frame keeps edges at its border bright.
    spread = _blur(edges, radius) / _blur(torch.ones_like(edges), radius)
    return normalise(spread)


def _blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian-blur (B, C, h, w) with zeros outside, cut at 4σ, kernel sum 1."""
    if sigma == 0:
        return maps
    radius = math.ceil(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = _filter_each(F.pad(maps, (radius, radius, 0, 0)), kernel.view(1, 1, 1, -1))
    return _filter_each(F.pad(maps, (0, 0, radius, radius)), kernel.view(1, 1, -1, 1))


def _filter_each(maps: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel of (B, C, h, w) alike by a (1, 1, kh, kw) kernel, without padding."""
    batch, channels, height, width = maps.shape
    filtered = F.conv2d(maps.reshape(batch * channels, 1, height, width), kernel)
    return filtered.view(batch, channels, *filtered.shape[-2:])


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_density_shape(values: Tensor, name: str) -> None:
    if values.ndim != 4 or values.shape[1] != 1:
        raise ValueError(f"{name} must be (B, 1, hd, wd), got {tuple(values.shape)}")
