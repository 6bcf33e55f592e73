"""What training minimises: segmentation on the sampled image plus γ times the edge loss.

Learning to Downsample for Segmentation of Ultra-High Resolution Images (ICLR 2022), section 3.2:
``L = L_seg(θ, φ) + γ · L_edge(θ)``. The segmentation loss alone is the paper's "single loss".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.classes import NODATA_CLASS
from geodeform.deform.density import edge_target, minmax, mix_uniform, normalise
from geodeform.deform.grid import jacobian_determinant, uniform_grid
from geodeform.deform.sample import sample_labels
from geodeform.models.deform_segmenter import Prediction


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    focal_gamma: float = 0.0,
    class_weights: Tensor | None = None,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """Focal loss (Lin et al. 2017), or cross-entropy where its exponent is 0.

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) ids of any integer type; 255 is not counted.
        focal_gamma: Exponent of ``(1 − p)^γ · (−log p)``, p the probability of the label's class.
        class_weights: (C,) factor of each class's pixels.
        sample_weights: (B, h, w) ≥ 0 factor of each sample.

    Returns:
        The weighted mean over the known samples, a scalar; 0 (with a gradient of 0) where no sample
        is known.
    """
    labels = labels.long()
    known = labels != NODATA_CLASS
    target = torch.where(known, labels, 0)
    loss = F.cross_entropy(logits.float(), target, reduction="none")  # B,h,w
    weights = known.to(loss.dtype)
    if class_weights is not None:
        weights = weights * class_weights[target]
    if sample_weights is not None:
        weights = weights * sample_weights
    if focal_gamma > 0:
        # 1 − p by expm1 keeps its precision, and its gradient, where p is nearly 1.
        loss = (-torch.expm1(-loss)).clamp_min(0).pow(focal_gamma) * loss
    return (loss * weights).sum() / weights.sum().clamp_min(torch.finfo(loss.dtype).tiny)


def edge_loss(density: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of density and edge target, each stretched to 0…1.

    Args:
        density: (B, 1, hd, wd).
        target: (B, 1, hd, wd) ≥ 0, see :func:`geodeform.deform.density.edge_target`; all zero
            (a window without an edge) asks for nothing and does not count.

    Returns:
        Mean over the samples that have an edge, a scalar; 0 where none has.
    """
    has_edge = target.amax((1, 2, 3)) > 0  # B
    squared = (minmax(density.float()) - minmax(target.float())).square().mean((1, 2, 3))
    weights = has_edge.to(squared.dtype)
    return (squared * weights).sum() / weights.sum().clamp_min(1)


def edge_divergence(density: Tensor, target: Tensor, share: float) -> Tensor:
    """Kullback-Leibler divergence of the density from a wanted one: shape AND contrast.

    :func:`edge_loss` stretches both maps, so a density that is flat within a few per cent but has
    the right shape costs nothing, and on the Dubai scenes that is what it learned (magnifications
    of 0.99 to 1.01). Here the target says how many samples shall lie at the edges.

    Args:
        density: (B, 1, hd, wd), sums to 1.
        target: (B, 1, hd, wd) ≥ 0; all zero (a window without an edge) asks for a uniform density.
        share: Part of the samples that shall follow the target, 0…1; the others spread evenly.

    Returns:
        Mean over the batch in nats, a scalar ≥ 0.
    """
    wanted = mix_uniform(normalise(target), 1 - share)
    logarithm = density.float().clamp_min(torch.finfo(torch.float32).tiny).log()
    return (wanted * (wanted.log() - logarithm)).sum((1, 2, 3)).mean()


class LossParts(NamedTuple):
    """A loss and its parts, scalars.

    Attributes:
        total: What is minimised.
        segmentation: The segmentation loss in it.
        edge: The edge loss in it, before γ; None where it has no part.
    """

    total: Tensor
    segmentation: Tensor
    edge: Tensor | None


class DeformLoss(nn.Module):
    """``segmentation + γ · edge`` of a prediction against full-resolution labels.

    Args:
        n_classes: Number of classes.
        focal_gamma: Exponent of the focal loss, 0 for cross-entropy.
        class_weights: (C,), or None for 1.
        gamma: Weight of the edge loss.
        edge_blur: Blur of the edge target, in pixels of the density.
        edge_share: 0 for :func:`edge_loss`, else :func:`edge_divergence` with this share.
        jacobian: Weigh each sample by the source area that it stands for. Without, the loss counts
            samples, and crowding them into easy ground lowers it.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        focal_gamma: float = 0.0,
        class_weights: Tensor | None = None,
        gamma: float = 0.0,
        edge_blur: float = 1.0,
        edge_share: float = 0.0,
        jacobian: bool = False,
    ) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.focal_gamma = focal_gamma
        self.gamma = gamma
        self.edge_blur = edge_blur
        self.edge_share = edge_share
        self.jacobian = jacobian
        self.class_weights: Tensor | None
        # Follows from the data, so it is not part of the checkpoint.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, prediction: Prediction, labels: Tensor, *, edge: bool) -> LossParts:
        """Compare a prediction with its windows' labels.

        Args:
            prediction: Of B windows.
            labels: (B, H, W) ids at full resolution, 255 unknown; sampled nearest here.
            edge: Whether the edge loss takes part: not for uniformly sampled batches, whose density
                was not predicted.

        Returns:
            The loss and its parts.
        """
        sampled = sample_labels(labels, prediction.grid)  # B,h,w
        area = None
        if self.jacobian:
            area = jacobian_determinant(prediction.grid.detach(), (1, 1))
        segmentation = segmentation_loss(
            prediction.logits,
            sampled,
            focal_gamma=self.focal_gamma,
            class_weights=self.class_weights,
            sample_weights=area,
        )
        if not edge or self.gamma == 0:
            return LossParts(segmentation, segmentation, None)
        size = (prediction.density.shape[-2], prediction.density.shape[-1])
        low_res = sample_labels(labels, uniform_grid(len(labels), size, device=labels.device))
        target = edge_target(low_res, self.n_classes, blur_sigma=self.edge_blur)
        if self.edge_share > 0:
            edge_part = edge_divergence(prediction.density, target, self.edge_share)
        else:
            edge_part = edge_loss(prediction.density, target)
        return LossParts(segmentation + self.gamma * edge_part, segmentation, edge_part)
