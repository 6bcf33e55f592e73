"""DeformSegmenter: look at a small view, decide where to sample, segment the samples.

The stages of Jin et al. (ICLR 2022), each a method that the pipeline calls on its own and
:meth:`DeformSegmenter.forward` chains for training: density → grid → sampled image → logits. The
baselines go the same way with another first stage (:data:`geodeform.models.spec.Downsampler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.deform.density import edge_density, normalise, uniform_density
from geodeform.deform.edge import resize_grid
from geodeform.deform.grid import (
    GridKernel,
    density_to_grid,
    magnification,
    repair_folds,
    sample_spacing,
    uniform_grid,
)
from geodeform.deform.sample import area_downsample, downsample_labels, sample_image
from geodeform.errors import ConfigError
from geodeform.models.density_net import DensityNet, FixedDensity
from geodeform.models.error_net import ErrorNet, beyond, spacing_in_view
from geodeform.models.grid_net import GridNet
from geodeform.models.resizer import Resizer
from geodeform.models.segmenters import build_segmenter
from geodeform.models.spec import ModelSpec, Sampler, Size

CPU_BATCH_PIXELS = 65_536
"""Pixels that the segmenter takes at once when predicting on a CPU: larger batches leave the caches
and take up to 1.8 times as long a pixel (lite0, 16 windows of 128², one thread, idle machine)."""


_LEAST_PRIORITY = 0.05
_SPACINGS = 2  # channels of a network that knows the scale: along rows and along columns


class Prediction(NamedTuple):
    """What one forward pass makes of B windows.

    Attributes:
        density: (B, 1, hd, wd), positive, sums to 1; of a grid net, what its grid amounts to.
        grid: (B, h, w, 2), where each sample reads, (x_norm, y_norm).
        sampled: (B, C, h, w), the sampled image.
        logits: (B, n_classes, h, w), one score a class and sample.
        nodes: (B, hd, wd, 2), what a grid net predicted; None of any other downsampler.
    """

    density: Tensor
    grid: Tensor
    sampled: Tensor
    logits: Tensor
    nodes: Tensor | None = None


class Placement(NamedTuple):
    """Where B windows are sampled.

    Attributes:
        density: (B, 1, hd, wd), positive, sums to 1.
        grid: (B, h, w, 2), where each sample reads, (x_norm, y_norm).
        nodes: (B, hd, wd, 2), what a grid net predicted; None of any other downsampler.
    """

    density: Tensor
    grid: Tensor
    nodes: Tensor | None = None


class DeformSegmenter(nn.Module):
    """Density net, sampler and segmenter as one model.

    Args:
        spec: What to build.
        weights: Local file with the segmenter's pretrained encoder weights; never needed for a
            model that :func:`geodeform.load_model` fills.

    Attributes:
        name: What its file is called, set by loading; "" for a model that was never in a file.
        file: Where that file is; None for a model that was never in a file.

    Raises:
        ConfigError: If the architecture is unknown.
        ModelFileError: If ``weights`` are missing or do not fit.
    """

    def __init__(self, spec: ModelSpec, *, weights: Path | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.name = ""
        self.file: Path | None = None
        self.kernel = GridKernel(
            sigma=spec.kernel_sigma, support=spec.kernel_support, padding=spec.kernel_padding
        )
        self.density_net: DensityNet | FixedDensity | None = None
        if spec.downsampler == "density":
            self.density_net = DensityNet(
                spec.in_channels,
                spec.density_channels,
                temperature=spec.density_temperature,
                kernel=spec.density_kernel,
                coords=spec.density_coords,
                context=spec.density_context,
            )
        elif spec.downsampler == "fixed":
            self.density_net = FixedDensity(spec.low_res_size)
        self.grid_net = GridNet(spec.in_channels) if spec.downsampler == "grid" else None
        self.resizer = (
            Resizer(spec.in_channels, filters=spec.resizer_filters, blocks=spec.resizer_blocks)
            if spec.downsampler == "resizer"
            else None
        )
        self.segmenter = build_segmenter(
            spec.architecture,
            in_channels=spec.in_channels,
            further=_SPACINGS if spec.scale_aware else 0,
            n_classes=spec.n_classes,
            weights=weights,
        )
        # 1.4 to 1.9 times as fast for lite0 on CPUs, and what tensor cores want.
        self.segmenter.to(memory_format=torch.channels_last)
        # last, so that the other networks start from the same numbers with and without it
        self.error_net = ErrorNet(spec.in_channels, spec.n_classes) if spec.error_net else None

    def density(self, low_res: Tensor) -> Tensor:
        """(B, C, hd, wd) low-resolution views → (B, 1, hd, wd) density, positive, sums to 1.

        Raises:
            ConfigError: If the model has no density net.
        """
        if self.density_net is None:
            raise ConfigError(
                f"This model has no density net: use the sampler '{self.spec.samplers[-1]}'."
            )
        density: Tensor = self.density_net(low_res)
        return density

    def grid(self, density: Tensor, size: Size, kernel: GridKernel | None = None) -> Tensor:
        """(B, 1, hd, wd) density → (B, h, w, 2) sampling grid of ``size`` (equation 3).

        By the spec's kernel where ``kernel`` is None.
        """
        return density_to_grid(density, size, kernel or self.kernel)

    def place(
        self,
        low_res: Tensor,
        size: Size,
        kernel: GridKernel | None = None,
        priority: Tensor | None = None,
    ) -> Placement:
        """Decide from (B, C, hd, wd) low-resolution views where (h, w) samples lie.

        Args:
            low_res: The views.
            size: (h, w).
            kernel: Of equation 3, the spec's where None; a grid net has none.
            priority: (B, 1, hd, wd) ≥ 0, by which the density is multiplied; a grid net has none.

        Raises:
            ConfigError: If the model has learned nothing that decides it.
        """
        if self.grid_net is None:
            density = self.density(low_res)
            if priority is not None:  # a place without any still gets a few samples
                density = normalise(density * priority.clamp_min(_LEAST_PRIORITY))
            return Placement(density, self.grid(density, size, kernel))
        nodes: Tensor = self.grid_net(low_res)
        # The downsampler is trained apart: nothing flows back from the segmentation.
        grid = repair_folds(resize_grid(nodes.detach(), size))
        return Placement(_density_of(nodes.detach()), grid, nodes)

    def place_by_labels(
        self, labels: Tensor, low_res: Size, size: Size, kernel: GridKernel | None = None
    ) -> Placement:
        """Sample where (B, H, W) labels have edges: the paper's simulated baseline (A.5).

        An oracle: it sees the labels also when it is evaluated.
        """
        small = downsample_labels(labels, low_res)
        density = edge_density(small, self.spec.n_classes, radius=self.spec.edge_radius)
        return Placement(density, self.grid(density, size, kernel))

    def expected_errors(self, low_res: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Share of pixels that would be of a class and wrong, if windows got so many samples.

        Args:
            low_res: (B, C, hd, wd) views.
            sizes: S of (h, w).

        Returns:
            (B, S, n_classes, ⌈hd/8⌉, ⌈wd/8⌉), 0…1, of each cell of 8×8 view pixels.

        Raises:
            ConfigError: If the model has no error net.
        """
        if self.error_net is None:
            raise ConfigError(
                "This model does not know how wrong it is at which budget: train one with "
                "model.error_net, or give every window as many samples."
            )
        view = (low_res.shape[-2], low_res.shape[-1])
        log_shares = self.error_net(low_res)
        known = [spacing_in_view(self.spec.low_res_size, size) for size in self.spec.trained_sizes]
        trained = min(known), max(known)
        at = [beyond(log_shares, spacing_in_view(view, size), trained) for size in sizes]
        return torch.stack(at, 1).exp().clamp(max=1)

    def resize(self, image: Tensor, size: Size) -> Tensor:
        """(B, C, H, W) windows at full resolution → (B, C, h, w) by the learned resizer.

        Raises:
            ConfigError: If the model has none.
        """
        if self.resizer is None:
            raise ConfigError(
                f"This model has no resizer: use the sampler '{self.spec.samplers[0]}'."
            )
        resized: Tensor = self.resizer(image, size)
        return resized

    def segment(self, sampled: Tensor, grid: Tensor | None = None) -> Tensor:
        """(B, C, h, w) sampled images of any size → (B, n_classes, h, w) logits.

        A network that knows the scale also gets how far apart samples lie, from their ``grid``
        (B, h, w, 2): a house of five samples may be a small one, or a large one sampled sparsely.
        Nothing flows back through it: samples move for what they see, not for what they are told.
        Sides are padded by reflection to the network's divisor, and the logits cropped back.
        """
        height, width = sampled.shape[-2:]
        if self.spec.scale_aware:
            if grid is None:
                raise ConfigError("This model also takes where the samples lie; give their grid.")
            spacing = self._log_spacing(grid.detach())
            sampled = torch.cat((sampled, spacing.to(sampled.dtype)), 1)
        padded = pad_to_multiple(sampled, self.segmenter.divisor)
        padded = padded.contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_compiling():  # a graph takes any number of windows, undivided
            return self._logits(padded)[..., :height, :width]
        n = len(padded)
        if padded.device.type == "cpu" and not torch.is_grad_enabled() and not self.training:
            n = max(1, CPU_BATCH_PIXELS // (padded.shape[-2] * padded.shape[-1]))
        logits = torch.cat([self._logits(part) for part in torch.split(padded, n)])
        return logits[..., :height, :width]

    def _log_spacing(self, grid: Tensor) -> Tensor:
        """(B, 2, h, w) log2 of the spacing over that of the model's own budget sampled evenly."""
        h, w = self.spec.sample_size
        usual = torch.tensor((1 / w, 1 / h), dtype=grid.dtype, device=grid.device)
        return (sample_spacing(grid) / usual.view(1, 2, 1, 1)).clamp(0.05, 20.0).log2()

    def _logits(self, padded: Tensor) -> Tensor:
        logits: Tensor = self.segmenter(padded)
        return logits

    def forward(
        self,
        image: Tensor,
        size: Size | None = None,
        *,
        low_res: Size | None = None,
        sampler: Sampler | None = None,
        labels: Tensor | None = None,
        kernel: GridKernel | None = None,
    ) -> Prediction:
        """Predict windows.

        Args:
            image: (B, C, H, W) windows, network input values.
            size: Samples (h, w); the spec's budget where None.
            low_res: (hd, wd) of the view that the density net gets, made from ``image`` by area
                averaging; the spec's where None.
            sampler: One of the spec's ``samplers``; the spec's own where None.
            labels: (B, H, W) class ids, 255 unknown; only the sampler "oracle" looks at them.
            kernel: Of equation 3; the spec's where None. Training may begin with another one.

        Returns:
            Density, grid, sampled image and logits.

        Raises:
            ConfigError: If the model cannot sample in this way.
        """
        size, low_res = size or self.spec.sample_size, low_res or self.spec.low_res_size
        sampler = sampler or self.spec.sampler
        if sampler == "uniform":
            placement = self._uniform(image, low_res, size)
            if self.spec.sample_mode == "area":  # exact area averages: the fair baseline
                sampled = area_downsample(image, size)
            else:
                sampled = sample_image(image, placement.grid, mode="bilinear")
        elif sampler == "interpolation":
            placement = self._uniform(image, low_res, size)
            sampled = self.resize(image, size)
        else:
            if sampler == "learned":
                placement = self.place(area_downsample(image, low_res), size, kernel)
            elif labels is None:
                raise ConfigError("The sampler 'oracle' looks at labels, and none are given.")
            else:
                placement = self.place_by_labels(labels, low_res, size, kernel)
            sampled = sample_image(image, placement.grid, mode=self.spec.sample_mode)
        logits = self.segment(sampled, placement.grid)
        return Prediction(placement.density, placement.grid, sampled, logits, placement.nodes)

    def _uniform(self, image: Tensor, low_res: Size, size: Size) -> Placement:
        batch, device, dtype = image.shape[0], image.device, image.dtype
        return Placement(
            uniform_density(batch, low_res, device=device, dtype=dtype),
            uniform_grid(batch, size, device=device, dtype=dtype),
        )


def _density_of(nodes: Tensor) -> Tensor:
    """The density (B, 1, hd, wd) that a grid (B, hd, wd, 2) of samples amounts to."""
    return normalise(magnification(nodes, (1, 1)).unsqueeze(1))


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
