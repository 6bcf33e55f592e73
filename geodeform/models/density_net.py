"""The density net (the paper's deformation module): where in a window are more samples worth it?

3×3 convolutions with 24, 24 and 3 channels, BatchNorm and ReLU, a 1×1 convolution to one channel,
and a softmax over all positions (section 3.1 and appendix of Jin et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from geodeform.deform.density import softmax_density


class DensityNet(nn.Module):
    """Low-resolution view → sampling density.

    Untrained it is close to uniform (within a few per cent), so training starts from the plain
    grid. Convolutions continue the view by its own border values: zeros there would look like an
    edge, and a constant view would not get a constant density.

    Args:
        in_channels: Bands of the view.
        channels: Output channels of the 3×3 convolutions.
        temperature: Softmax temperature; above 1 flattens the density, below 1 sharpens it.

    Shape:
        - low_res: (B, C, hd, wd), network input values, any hd, wd ≥ 1.
        - density: (B, 1, hd, wd), positive, sums to 1 over each sample.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int] = (24, 24, 3), *, temperature: float = 1.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels, strict=False):
            layers += [
                # Replicate, not reflect: reflection needs at least two pixels a side.
                nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate", bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        head = nn.Conv2d(channels[-1], 1, 1)
        # Features are of order 1 after BatchNorm: logits of order 0.01 give a near-uniform softmax,
        # and unlike zeros they let the gradient reach the layers below from the first step.
        nn.init.normal_(head.weight, std=0.01)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        self.layers = nn.Sequential(*layers, head)
        self.temperature = temperature

    def forward(self, low_res: Tensor) -> Tensor:
        """Return the density of each view; see the class for shapes."""
        return softmax_density(self.layers(low_res), temperature=self.temperature)
