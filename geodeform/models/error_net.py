"""The error net: how many pixels of each class will be wrong, by how densely they are sampled.

What :mod:`geodeform.allocation` needs to know before it spends a scene's budget. A small network
looks at the same low-resolution view as the density net and predicts, for each of its cells of 8×8
view pixels, how often a pixel is of a class and wrong, at a few sample spacings. It is trained
beside the segmenter on what that gets right and wrong at random full-resolution places, at the
sizes that training draws. Knowing errors by class, an allocation can weigh them: rare classes for
the mean IoU, one class for a user who looks for it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.classes import NODATA_CLASS
from geodeform.deform.coords import Size

KNOTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Sample spacings that the net knows, in view pixels; straight between them in their logarithm."""

USUAL_RISE = 0.16
"""Where nothing else is known, errors rise as the spacing to the power of 0.16: so they did on
Dubai's tile 7, from 16.5 % of the pixels at 128x128 samples to 18.5 % at 64x64."""

_WIDTHS = (16, 24, 32, 48, 48)
_STRIDES = (1, 2, 2, 2, 1)


class ErrorNet(nn.Module):
    """Low-resolution view → logarithm of the share of pixels that are of a class and wrong.

    Shares rise with the spacing by construction: sparser samples are never expected to be better.

    Args:
        in_channels: Bands of the view.
        n_classes: Classes.

    Shape:
        - low_res: (B, C, hd, wd), network input values.
        - output: (B, n_classes, K, ⌈hd/8⌉, ⌈wd/8⌉), at the K of :data:`KNOTS`.
    """

    def __init__(self, in_channels: int, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        layers: list[nn.Module] = []
        before = in_channels
        for width, stride in zip(_WIDTHS, _STRIDES, strict=True):
            layers += [
                nn.Conv2d(
                    before, width, 3, stride, padding=1, padding_mode="replicate", bias=False
                ),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        head = nn.Conv2d(before, n_classes * len(KNOTS), 1)
        # At first every class has an even part of 5 % wrong at the finest spacing, everywhere, and
        # of a third at the coarsest.
        nn.init.normal_(head.weight, std=0.01)
        first = torch.full((n_classes, len(KNOTS)), -1.0)
        first[:, 0] = math.log(0.05 / n_classes)
        head.bias = nn.Parameter(first.flatten())
        self.layers = nn.Sequential(*layers, head)

    def forward(self, low_res: Tensor) -> Tensor:
        """Return logarithms of shares; see the class for shapes."""
        raw: Tensor = self.layers(low_res).unflatten(1, (self.n_classes, len(KNOTS)))
        finest, rises = raw[:, :, :1], F.softplus(raw[:, :, 1:])
        return torch.cat((finest, finest + rises.cumsum(2)), 2)


def spacing_in_view(low_res: Size, size: Size) -> float:
    """Mean spacing of (h, w) samples of a window in pixels of its view (hd, wd)."""
    return math.sqrt(math.prod(low_res) / math.prod(size))


def at_spacing(log_shares: Tensor, spacing: float) -> Tensor:
    """Shares at the knots → at a spacing, still as logarithms.

    Args:
        log_shares: (B, n_classes, K, gy, gx), what :class:`ErrorNet` returns.
        spacing: Of the samples, in view pixels (hd/h); beyond the outermost knots theirs.

    Returns:
        (B, n_classes, gy, gx).
    """
    place = math.log(spacing / KNOTS[0]) / math.log(KNOTS[1] / KNOTS[0])
    low = min(max(math.floor(place), 0), len(KNOTS) - 2)
    part = min(max(place - low, 0.0), 1.0)
    return torch.lerp(log_shares[:, :, low], log_shares[:, :, low + 1], part)


def beyond(log_shares: Tensor, spacing: float, trained: tuple[float, float]) -> Tensor:
    """Shares at a spacing that the net may never have seen, still as logarithms.

    Inside the trained range as :func:`at_spacing`. Outside, where knots were never trained, errors
    go on as the power of the spacing that they follow inside; of one trained spacing,
    :data:`USUAL_RISE`.

    Args:
        log_shares: (B, n_classes, K, gy, gx), what :class:`ErrorNet` returns.
        spacing: Of the samples, in view pixels.
        trained: The finest and the coarsest spacing of the training.

    Returns:
        (B, n_classes, gy, gx).
    """
    fine, coarse = trained
    inside = min(max(spacing, fine), coarse)
    at = at_spacing(log_shares, inside)
    if inside == spacing:
        return at
    power: Tensor | float = USUAL_RISE
    if coarse > 1.01 * fine:
        rise = at_spacing(log_shares, coarse) - at_spacing(log_shares, fine)
        power = rise / math.log(coarse / fine)
    return at + power * math.log(spacing / inside)


def error_loss(
    log_shares: Tensor, spacing: float, positions: Tensor, labels: Tensor, wrong: Tensor
) -> Tensor:
    """How badly the predicted shares fit what was wrong: the deviance of Poisson counts.

    Of all predictions of a cell, the mean has the least of it, whatever the counts' distribution.

    Args:
        log_shares: (B, n_classes, K, gy, gx), what :class:`ErrorNet` returns.
        spacing: Of the samples that the prediction rests on, in view pixels.
        positions: (B, n, 2) places in the windows, normalised (x, y).
        labels: (B, n) class there, 255 unknown: does not count.
        wrong: (B, n) whether the prediction there is wrong.

    Returns:
        Mean over the known places, a scalar; 0 where nothing is known.
    """
    at = at_spacing(log_shares, spacing)  # B,C,gy,gx
    gy, gx = at.shape[-2:]
    x, y = positions.unbind(-1)
    column = ((x + 1) / 2 * gx).long().clamp(0, gx - 1)
    row = ((y + 1) / 2 * gy).long().clamp(0, gy - 1)
    cell = (row * gx + column).unsqueeze(1).expand(-1, at.shape[1], -1)
    predicted = torch.gather(at.flatten(2), 2, cell)  # B,C,n
    known = labels != NODATA_CLASS
    target = F.one_hot(torch.where(known, labels.long(), 0), at.shape[1]).movedim(-1, 1)  # B,C,n
    target = target * (wrong & known).unsqueeze(1)
    loss = (predicted.exp() - target * predicted).sum(1)
    return (loss * known).sum() / known.sum().clamp_min(1)
