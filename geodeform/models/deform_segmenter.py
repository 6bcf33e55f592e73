"""DeformSegmenter: look at a small view, decide where to sample, segment the samples.

The stages of Jin et al. (ICLR 2022), each a method that the pipeline calls on its own and
:meth:`DeformSegmenter.forward` chains for training: density → grid → sampled image → logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.deform.density import uniform_density
from geodeform.deform.grid import GridKernel, density_to_grid, uniform_grid
from geodeform.deform.sample import area_downsample, sample_image
from geodeform.errors import ConfigError
from geodeform.models.density_net import DensityNet
from geodeform.models.segmenters import build_segmenter
from geodeform.models.spec import ModelSpec, Sampler, Size

CPU_BATCH_PIXELS = 65_536
"""Pixels that the segmenter takes at once when predicting on a CPU: larger batches leave the caches
and take up to 1.8 times as long a pixel (lite0, 16 windows of 128², one thread, idle machine)."""


class Prediction(NamedTuple):
    """What one forward pass makes of B windows.

    Attributes:
        density: (B, 1, hd, wd), positive, sums to 1.
        grid: (B, h, w, 2), where each sample reads, (x_norm, y_norm).
        sampled: (B, C, h, w), the sampled image.
        logits: (B, n_classes, h, w), one score a class and sample.
    """

    density: Tensor
    grid: Tensor
    sampled: Tensor
    logits: Tensor


class DeformSegmenter(nn.Module):
    """Density net, sampler and segmenter as one model.

    Args:
        spec: What to build.
        weights: Local file with the segmenter's pretrained encoder weights; never needed for a
            model that :func:`geodeform.load_model` fills.

    Attributes:
        name: What its file is called, set by loading; "" for a model that was never in a file.

    Raises:
        ConfigError: If the architecture is unknown.
        ModelFileError: If ``weights`` are missing or do not fit.
    """

    def __init__(self, spec: ModelSpec, *, weights: Path | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.name = ""
        self.kernel = GridKernel(
            sigma=spec.kernel_sigma, support=spec.kernel_support, padding=spec.kernel_padding
        )
        self.density_net = (
            DensityNet(
                spec.in_channels, spec.density_channels, temperature=spec.density_temperature
            )
            if spec.has_density_net
            else None
        )
        self.segmenter = build_segmenter(
            spec.architecture,
            in_channels=spec.in_channels,
            n_classes=spec.n_classes,
            weights=weights,
        )
        # 1.4 to 1.9 times as fast for lite0 on CPUs, and what tensor cores want.
        self.segmenter.to(memory_format=torch.channels_last)

    def density(self, low_res: Tensor) -> Tensor:
        """(B, C, hd, wd) low-resolution views → (B, 1, hd, wd) density, positive, sums to 1.

        Raises:
            ConfigError: If the model was trained with uniform sampling only.
        """
        if self.density_net is None:
            raise ConfigError(
                "This model was trained with uniform sampling only; use the sampler 'uniform'."
            )
        density: Tensor = self.density_net(low_res)
        return density

    def grid(self, density: Tensor, size: Size) -> Tensor:
        """(B, 1, hd, wd) density → (B, h, w, 2) sampling grid of ``size`` (equation 3)."""
        return density_to_grid(density, size, self.kernel)

    def segment(self, sampled: Tensor) -> Tensor:
        """(B, C, h, w) sampled images of any size → (B, n_classes, h, w) logits.

        Sides are padded by reflection to the network's divisor, and the logits cropped back.
        """
        height, width = sampled.shape[-2:]
        padded = pad_to_multiple(sampled, self.segmenter.divisor)
        padded = padded.contiguous(memory_format=torch.channels_last)
        n = len(padded)
        if padded.device.type == "cpu" and not torch.is_grad_enabled() and not self.training:
            n = max(1, CPU_BATCH_PIXELS // (padded.shape[-2] * padded.shape[-1]))
        logits = torch.cat([self.segmenter(part) for part in torch.split(padded, n)])
        return logits[..., :height, :width]

    def forward(
        self,
        image: Tensor,
        size: Size | None = None,
        *,
        low_res: Tensor | None = None,
        sampler: Sampler | None = None,
    ) -> Prediction:
        """Predict windows.

        Args:
            image: (B, C, H, W) windows, network input values.
            size: Samples (h, w); the spec's budget where None.
            low_res: (B, C, hd, wd) views for the density net; made from ``image`` by area averaging
                at the spec's size where None.
            sampler: "learned" or "uniform"; the spec's where None.

        Returns:
            Density, grid, sampled image and logits.
        """
        size = size or self.spec.sample_size
        if (sampler or self.spec.sampler) == "uniform":
            density, grid, sampled = self._uniform(image, size)
        else:
            if low_res is None:
                low_res = area_downsample(image, self.spec.low_res_size)
            density = self.density(low_res)
            grid = self.grid(density, size)
            sampled = sample_image(image, grid, mode=self.spec.sample_mode)
        return Prediction(density, grid, sampled, self.segment(sampled))

    def _uniform(self, image: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """The plain grid; exact area averages in "area" mode, the fair baseline."""
        batch, device, dtype = len(image), image.device, image.dtype
        grid = uniform_grid(batch, size, device=device, dtype=dtype)
        density = uniform_density(batch, self.spec.low_res_size, device=device, dtype=dtype)
        if self.spec.sample_mode == "area":
            return density, grid, area_downsample(image, size)
        return density, grid, sample_image(image, grid, mode=self.spec.sample_mode)


def pad_to_multiple(image: Tensor, divisor: int) -> Tensor:
    """Pad (B, C, h, w) at the bottom and right until both sides are divisible by ``divisor``.

    By reflection; a side that is too short to reflect (not longer than its pad) repeats its last
    pixel instead.
    """
    height, width = image.shape[-2:]
    for side, pad in ((width, (0, -width % divisor, 0, 0)), (height, (0, 0, 0, -height % divisor))):
        if any(pad):
            image = F.pad(image, pad, mode="reflect" if max(pad) < side else "replicate")
    return image
