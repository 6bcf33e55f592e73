"""The density net (the paper's deformation module): where in a window are more samples worth it?

3×3 convolutions with 24, 24 and 3 channels, BatchNorm and ReLU, a 1×1 convolution to one channel,
and a softmax over all positions (section 3.1 and appendix of Jin et al., ICLR 2022). What goes
beyond the paper is off unless it is asked for: coordinates as two more bands (CoordConv, Liu et al.
2018, arXiv:1807.03247) and dilated convolutions that look further (Yu & Koltun 2016,
arXiv:1511.07122). :class:`FixedDensity` stands in its place for the baseline that looks at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from geodeform.deform.coords import Size
from geodeform.deform.density import resize_density, softmax_density, uniform_density
from geodeform.deform.grid import uniform_grid


class DensityNet(nn.Module):
    """Low-resolution view → sampling density.

    Untrained it is close to uniform (within a few per cent), so training starts from the plain
    grid. Convolutions continue the view by its own border values: zeros there would look like an
    edge, and a constant view would not get a constant density (unless ``coords`` tell its pixels
    apart).

    A pixel's density sees ``1 + 3·(kernel − 1) + 4·(2^context − 1)`` pixels a side of the view with
    the paper's three layers: 7 as they are, and with ``context`` 1, 2, 3, 4 it sees 11, 19, 35, 67.

    Args:
        in_channels: Bands of the view.
        channels: Output channels of the convolutions.
        temperature: Softmax temperature; above 1 flattens the density, below 1 sharpens it.
        kernel: Side of these convolutions, odd; table 3 of the paper has 3, 5 and 7.
        coords: Whether the net is told where in the view a pixel lies: x and y, −1…1 from frame to
            frame, become two more bands.
        context: So many 3×3 convolutions of dilation 2, 4, 8, … before the last of ``channels``,
            each as wide as what it gets and added to it: what the paper's layers find is kept, and
            what surrounds it comes on top.

    Shape:
        - low_res: (B, C, hd, wd), network input values, any hd, wd ≥ 1.
        - density: (B, 1, hd, wd), positive, sums to 1 over each sample.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (24, 24, 3),
        *,
        temperature: float = 1.0,
        kernel: int = 3,
        coords: bool = False,
        context: int = 0,
    ) -> None:
        super().__init__()
        widths = (in_channels + 2 * coords, *channels)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            layers += _convolution(before, after, kernel)
        layers += [_Surroundings(widths[-2], 2 ** (n + 1)) for n in range(context)]
        layers += _convolution(widths[-2], widths[-1], kernel)
        head = nn.Conv2d(channels[-1], 1, 1)
        # Features are of order 1 after BatchNorm: logits of order 0.01 give a near-uniform softmax,
        # and unlike zeros they let the gradient reach the layers below from the first step.
        nn.init.normal_(head.weight, std=0.01)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        self.layers = nn.Sequential(*layers, head)
        self.temperature = temperature
        self.coords = coords

    def forward(self, low_res: Tensor) -> Tensor:
        """Return the density of each view; see the class for shapes."""
        if self.coords:
            batch, size = low_res.shape[0], (low_res.shape[-2], low_res.shape[-1])
            places = uniform_grid(batch, size, device=low_res.device, dtype=low_res.dtype)
            low_res = torch.cat((low_res, places.movedim(-1, 1)), 1)  # B,C+2,hd,wd
        return softmax_density(self.layers(low_res), temperature=self.temperature)


class FixedDensity(nn.Module):
    """The same density for every view: a baseline that learns nothing.

    Attributes:
        density: (1, 1, hd, wd), positive, sums to 1; uniform until training measures it (see
            :mod:`geodeform.training.fixed_density`). A buffer, so it is in the model file.

    Args:
        size: (hd, wd).

    Shape:
        - low_res: (B, C, hd, wd), looked at for its shape only.
        - density: (B, 1, hd, wd); of another size than the measured one, interpolated.
    """

    density: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.register_buffer("density", uniform_density(1, size))

    def forward(self, low_res: Tensor) -> Tensor:
        """Return the density, once for each view; see the class for shapes."""
        fitted = resize_density(self.density, (low_res.shape[-2], low_res.shape[-1]))
        # expand_as: torch.export loses a batch of any size that is taken from a number.
        return fitted.expand_as(low_res[:, :1])


class _Surroundings(nn.Module):
    """Features plus what a dilated 3×3 convolution sees around them, (B, C, h, w) both."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.seen = nn.Sequential(*_convolution(channels, channels, 3, dilation))

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = features + self.seen(features)
        return added


def _convolution(before: int, after: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
    return [
        # Replicate, not reflect: reflection needs a view larger than its pad.
        nn.Conv2d(
            before,
            after,
            kernel,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            padding_mode="replicate",
            bias=False,
        ),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]
