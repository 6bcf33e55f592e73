"""The learned resizer: the paper's "interpolation" baseline, which learns values, not positions.

Talebi & Milanfar 2021 (Learning to Resize Images for Computer Vision Tasks): features of the full
image are resized together with it and corrected at the small size; trained with the segmenter.
Samples stay on the uniform grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.deform.coords import Size

_SLOPE = 0.2  # of the leaky ReLUs


class Resizer(nn.Module):
    """Image → smaller (or larger) image of the same bands: bilinear resizing plus what is learned.

    Features pass a 7×7 and a 1×1 convolution at the image's resolution, are resized, and pass
    residual blocks, a 3×3 convolution with a skip from the resized features and a 7×7 one to the
    image's bands; the resized image is added. Two things are not the article's: borders are
    continued by their own values, since zeros there would look like an edge, and the last
    convolution starts near zero, so that training starts from the plainly resized image.

    The first two convolutions run at full resolution, and that is what it costs: 16 filters of a
    2448×2448 image are 366 MiB. Measured on a CPU, three bands, to 128×128: 1.1 GiB of memory
    beyond the image without gradients (3.0 times the features) and 1.9 GiB in a training step (5.2
    times), for each image of the batch; twice that with 32 filters.

    Args:
        in_channels: Bands of the image.
        filters: Channels of the features (the article's n, 16 or 32).
        blocks: Residual blocks (the article's r, 1 to 4).
        antialias: Whether both resizings average over all that a smaller pixel covers. False is the
            article's plain bilinear interpolation, which reads four pixels whatever the scale: from
            2448 to 128 that is one in 91. Features at least have seen the 7×7 around each.

    Shape:
        - image: (B, C, H, W), network input values, any H, W ≥ 1.
        - size: (h, w), ≥ 1 each. In training BatchNorm needs more than one value a channel, so more
          than one image where (h, w) = (1, 1).
        - output: (B, C, h, w).
    """

    def __init__(
        self, in_channels: int, filters: int = 16, blocks: int = 1, *, antialias: bool = False
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(in_channels, filters, 7, bias=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
            _conv(filters, filters, 1, bias=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.BatchNorm2d(filters),
        )
        self.blocks = nn.Sequential(*(_ResidualBlock(filters) for _ in range(blocks)))
        self.join = nn.Sequential(_conv(filters, filters, 3, bias=False), nn.BatchNorm2d(filters))
        self.last = _conv(filters, in_channels, 7, bias=True)
        # Small, not zero, which would keep the gradient from the layers below in the first step.
        nn.init.normal_(self.last.weight, std=1e-3)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)
        self.antialias = antialias

    def forward(self, image: Tensor, size: Size) -> Tensor:
        """Return the images at ``size``; see the class for shapes."""
        features = self._resize(self.features(image), size)  # B,n,h,w
        correction: Tensor = self.last(features + self.join(self.blocks(features)))
        return self._resize(image, size) + correction

    def _resize(self, maps: Tensor, size: Size) -> Tensor:
        return F.interpolate(
            maps, size=size, mode="bilinear", align_corners=False, antialias=self.antialias
        )


class _ResidualBlock(nn.Module):
    """Two 3×3 convolutions whose result is added to the input, without an activation after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(_SLOPE, inplace=True),
            _conv(channels, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, h, w) → the same shape."""
        corrected: Tensor = x + self.layers(x)
        return corrected


def _conv(before: int, after: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    """Convolution of stride 1 that keeps the size."""
    return nn.Conv2d(
        before, after, kernel, padding=kernel // 2, padding_mode="replicate", bias=bias
    )
