"""The grid net: a separately trained downsampler that predicts the sampling grid itself.

Marin et al. 2019 (Efficient Segmentation: Learning Downsampling Near Semantic Boundaries) train a
network of its own, by regression, to give the grid that
:func:`~geodeform.deform.edge.boundary_grid` makes from labels; it is the paper's "edge-based"
baseline. Where a sample goes depends on a boundary that may be far away, so the three convolutions
of the density net do not do: this is a small U-Net with dilated convolutions at its bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.deform.grid import SamplingGrid


class GridNet(nn.Module):
    """Low-resolution view → grid of nodes, one for each pixel of the view.

    The network predicts how far each node moves on the scale of atanh, along an axis of n nodes
    whose outermost ones lie at ±s, s = 1 − 1/n: ``x = s·tanh(atanh(u/s) + r)``. So r = 0 is the
    uniform grid, whatever r is no node passes the outermost ones, and those do not move across the
    frame's edge since atanh(±1) is infinite: the covering constraint of eq. 2 is built in.

    Untrained, nodes move by about a hundredth of the frame at most. Nothing keeps a trained net's
    cells from folding: see :func:`~geodeform.deform.grid.repair_folds`, and
    :func:`~geodeform.deform.edge.resize_grid` for grids of other sizes.

    Args:
        in_channels: Bands of the view.
        channels: Channels at strides 1, 2, 4 …; by default 164,000 parameters for three bands.
        dilations: Of the 3×3 convolutions at the coarsest stride, which by default let every node
            see all of a 128×128 view.

    Shape:
        - low_res: (B, C, hd, wd), network input values, any hd, wd ≥ 1. In training BatchNorm needs
          more than one value a channel at the coarsest stride, so more than one view of up to 8×8.
        - grid: (B, hd, wd, 2) normalised (x, y), float32 (float64 for a float64 net), within the
          uniform grid's outermost nodes.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (16, 24, 32, 48),
        *,
        dilations: Sequence[int] = (2, 4, 8),
    ) -> None:
        super().__init__()
        self.first = _conv_bn_relu(in_channels, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(_conv_bn_relu(before, after, stride=2), _conv_bn_relu(after, after))
            for before, after in pairwise(channels)
        )
        self.context = nn.Sequential(
            *(_conv_bn_relu(channels[-1], channels[-1], dilation=d) for d in dilations)
        )
        self.up = nn.ModuleList(
            _conv_bn_relu(before + skip, skip) for before, skip in pairwise(reversed(channels))
        )
        self.head = nn.Conv2d(channels[0], 2, 1)
        # Near zero, less than a cell of a 64×64 grid, yet with a gradient for the layers below.
        nn.init.normal_(self.head.weight, std=1e-3)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, low_res: Tensor) -> SamplingGrid:
        """Return the grid of nodes of each view; see the class for shapes."""
        x = self.first(low_res)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = self.context(x)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat((x, skip), 1))
        return _moved_nodes(self.head(x))


def grid_loss(predicted: SamplingGrid, target: SamplingGrid) -> Tensor:
    """Mean squared distance between the nodes of two grids, in normalised coordinates.

    Args:
        predicted: (B, hd, wd, 2).
        target: (B, hd, wd, 2), such as :func:`~geodeform.deform.edge.boundary_grid`.

    Returns:
        A scalar ≥ 0; 4 is the square of the frame's side.

    Raises:
        ValueError: If the shapes differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"grids must have the same shape, got {tuple(predicted.shape)} and "
            f"{tuple(target.shape)}"
        )
    return (predicted - target).square().sum(-1).mean()


def _conv_bn_relu(before: int, after: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3×3 convolution, BatchNorm, ReLU; zeros beyond the border would look like an edge."""
    return nn.Sequential(
        nn.Conv2d(
            before,
            after,
            3,
            stride=stride,
            dilation=dilation,
            padding=dilation,
            padding_mode="replicate",
            bias=False,
        ),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _moved_nodes(moves: Tensor) -> SamplingGrid:
    """(B, 2, hd, wd) moves in x and y on the scale of atanh → (B, hd, wd, 2) grid."""
    height, width = moves.shape[-2:]
    with torch.autocast(moves.device.type, enabled=False):
        if moves.dtype != torch.float64:  # half precision would know a thousandth of the frame only
            moves = moves.float()
        x = _moved_axis(width, moves[:, 0])
        y = _moved_axis(height, moves[:, 1].mT).mT
        return torch.stack((x, y), -1)


def _moved_axis(n: int, moves: Tensor) -> Tensor:
    """(…, n) moves → (…, n) positions along the last axis, between those of the outer nodes."""
    # Both ends exactly, for their atanh must be infinite. A single node lies at 0 by its factor.
    shares = torch.linspace(-1, 1, n, dtype=moves.dtype, device=moves.device)
    return (1 - 1 / n) * torch.tanh(torch.atanh(shares) + moves)
