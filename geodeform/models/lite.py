"""lite0: EfficientNet-Lite0 with a light U-Net decoder, the default segmenter on CPUs.

Sampled images are small (32² to 128²), and every one of their pixels was chosen. The encoder's
first convolution already halves the resolution, so a shallow branch at full resolution joins the
decoder's last step: labels are as sharp as the samples. Decoder convolutions are depthwise
separable (Howard et al. 2017), which keeps the whole net near 4 M parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(before: int, after: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    """Convolution of stride 1 that keeps the size, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def separable(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    """Depthwise then pointwise convolution, each with BatchNorm and ReLU."""
    return nn.Sequential(
        conv_bn_relu(before, before, kernel, groups=before), conv_bn_relu(before, after, 1)
    )


class UpBlock(nn.Module):
    """Upsample to a skip map's size, concatenate it, and mix by two separable convolutions.

    Shape:
        - x: (B, before, h, w); skip: (B, skip, h′, w′) with h′ ≥ h, w′ ≥ w.
        - output: (B, after, h′, w′).
    """

    def __init__(self, before: int, skip: int, after: int) -> None:
        super().__init__()
        # Narrow before upsampling: the pointwise convolution is four times cheaper there.
        self.narrow = conv_bn_relu(before, after, 1)
        self.mix = nn.Sequential(separable(after + skip, after), separable(after, after))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the joined map at the skip's size."""
        size = (skip.shape[-2], skip.shape[-1])
        x = F.interpolate(self.narrow(x), size=size, mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(torch.cat((x, skip), dim=1))
        return mixed


class LiteSegmenter(nn.Module):
    """EfficientNet-Lite0 encoder, U-Net decoder, full-resolution detail branch.

    Args:
        encoder: timm features-only network that returns five maps of falling resolution.
        encoder_channels: Channels of those maps.
        in_channels: Bands of the input.
        n_classes: Output channels.

    Shape:
        - input: (B, C, h, w); sides divisible by the encoder's stride are exact, others are handled
          by the caller's padding.
        - output: (B, n_classes, h, w) logits.
    """

    widths = (192, 96, 64, 48, 32)
    """Decoder channels at strides 16, 8, 4, 2 and 1."""

    def __init__(
        self,
        encoder: nn.Module,
        encoder_channels: tuple[int, ...],
        *,
        in_channels: int,
        n_classes: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        detail = 16
        self.detail = nn.Sequential(
            conv_bn_relu(in_channels, detail, 3), conv_bn_relu(detail, detail, 3)
        )
        befores = (encoder_channels[-1], *self.widths[:-1])
        skips = (*reversed(encoder_channels[:-1]), detail)
        self.up = nn.ModuleList(
            UpBlock(before, skip, after)
            for before, skip, after in zip(befores, skips, self.widths, strict=True)
        )
        self.head = nn.Conv2d(self.widths[-1], n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        maps: list[Tensor] = [self.detail(x), *self.encoder(x)]
        y = maps.pop()
        for block in self.up:
            y = block(y, maps.pop())
        logits: Tensor = self.head(y)
        return logits
