"""What training minimises: segmentation on the sampled image plus γ times the edge loss.

Learning to Downsample for Segmentation of Ultra-High Resolution Images (ICLR 2022), section 3.2:
``L = L_seg(θ, φ) + γ · L_edge(θ)``. The segmentation loss alone is the paper's "single loss".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geodeform.classes import NODATA_CLASS
from geodeform.deform.density import edge_target, minmax, mix_uniform, normalise
from geodeform.deform.edge import boundary_grid
from geodeform.deform.grid import jacobian_determinant
from geodeform.deform.sample import downsample_labels, sample_labels
from geodeform.models.deform_segmenter import Prediction
from geodeform.models.grid_net import grid_loss
from geodeform.training.collectives import mean_of_all, total


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
        logits: (B, C, …).
        labels: (B, …) ids of any integer type; 255 is not counted.
        focal_gamma: Exponent of ``(1 − p)^γ · (−log p)``, p the probability of the label's class.
        class_weights: (C,) factor of each class's pixels.
        sample_weights: (B, …) ≥ 0 factor of each sample.

    Returns:
        The weighted mean over the known samples, of all processes together, a scalar; 0 (with a
        gradient of 0) where no sample is known.
    """
    target, weights = _weights(labels, class_weights, sample_weights)
    loss = F.cross_entropy(logits.float(), target, reduction="none")  # B,…
    if focal_gamma > 0:
        # 1 − p by expm1 keeps its precision, and its gradient, where p is nearly 1.
        loss = (-torch.expm1(-loss)).clamp_min(0).pow(focal_gamma) * loss
    weighed = total(weights.sum().detach()).clamp_min(torch.finfo(loss.dtype).tiny)
    return total((loss * weights).sum()) / weighed


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """1 − the mean soft Dice of the classes in the batch (Milletari et al. 2016).

    ``2 Σ w·p·y / Σ w·(p + y)`` of each class, pooled over the batch and all processes, averaged
    over the classes that occur in the labels.

    Args:
        logits: (B, C, …).
        labels: (B, …) ids; 255 is not counted.
        class_weights: (C,) weight of each class in the mean.
        sample_weights: (B, …) ≥ 0 factor of each sample.

    Returns:
        A scalar, 0…1; 0 where no sample is known.
    """
    target, weights = _weights(labels, None, sample_weights)
    p = logits.float().softmax(1)
    y = F.one_hot(target, p.shape[1]).movedim(-1, 1).to(p.dtype)
    axes = (0, *range(2, p.ndim))
    w = weights.unsqueeze(1)
    both = total(torch.stack(((w * p * y).sum(axes), (w * p).sum(axes), (w * y).sum(axes))))
    present = (both[2] > 0).to(p.dtype)
    if class_weights is not None:
        present = present * class_weights
    dice = 2 * both[0] / (both[1] + both[2]).clamp_min(torch.finfo(p.dtype).tiny)
    share = present.sum()
    return (present * (1 - dice)).sum() / share.clamp_min(torch.finfo(p.dtype).tiny)


def _weights(
    labels: Tensor, class_weights: Tensor | None, sample_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Labels with a class in place of 255, and the float32 weight of each, 0 where unknown."""
    labels = labels.long()
    known = labels != NODATA_CLASS
    target = torch.where(known, labels, 0)
    weights = known.float()
    if class_weights is not None:
        weights = weights * class_weights[target]
    if sample_weights is not None:
        weights = weights * sample_weights
    return target, weights


class Points(NamedTuple):
    """Random places of the full-resolution windows, and what the prediction says there.

    Attributes:
        log_probabilities: (B, C, n).
        positions: (B, n, 2) normalised (x, y).
    """

    log_probabilities: Tensor
    positions: Tensor


def points_through_reverse_map(logits: Tensor, grid: Tensor, count: int) -> Points:
    """Predict random points of the windows through the reverse map, differentiably.

    A point lies in one of the triangles between neighbouring samples, and gets its three corners'
    probabilities in barycentric proportion, as the reverse map's D does. Triangles are drawn in
    proportion to their area and points evenly in each, which covers the ground evenly without
    searching a triangle for each point. The proportions follow from the point's place, so the loss
    pulls at the grid too: a sample moves to where it serves the most ground.

    Args:
        logits: (B, C, h, w).
        grid: (B, h, w, 2) normalised, without folds, h and w at least 2.
        count: Points of each window.

    Returns:
        The points; those outside the outermost samples' centres do not occur.
    """
    B, C, h, w = logits.shape
    triangles = _triangle_corners(h, w, grid.device)  # T,3
    corners = grid.reshape(B, h * w, 2)[:, triangles]  # B,T,3,2
    area = _doubled_area(*corners.detach().unbind(2)).abs()  # B,T
    chosen = torch.multinomial(area, count, replacement=True)  # B,n
    a, b, c = torch.gather(corners, 1, chosen[..., None, None].expand(-1, -1, 3, 2)).unbind(
        2
    )  # B,n,2 each
    r = torch.rand(2, B, count, 1, device=grid.device, dtype=grid.dtype)
    root = r[0].sqrt()
    with torch.no_grad():  # the place is fixed; what it is made of follows the grid
        point = (1 - root) * a + root * (1 - r[1]) * b + root * r[1] * c
    whole = _doubled_area(a, b, c)
    tiny = torch.finfo(grid.dtype).tiny
    whole = torch.where(whole.abs() > tiny, whole, tiny)
    parts = torch.stack(
        (
            _doubled_area(point, b, c) / whole,
            _doubled_area(a, point, c) / whole,
            _doubled_area(a, b, point) / whole,
        ),
        -1,
    )  # B,n,3
    index = triangles[chosen]  # B,n,3
    probabilities = logits.float().softmax(1).flatten(2)  # B,C,h·w
    at = torch.gather(probabilities, 2, index.flatten(1).unsqueeze(1).expand(-1, C, -1)).view(
        B, C, count, 3
    )
    mixed = (at * parts.unsqueeze(1)).sum(-1)
    return Points(mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log(), point)


def _triangle_corners(h: int, w: int, device: torch.device) -> Tensor:
    """(T, 3) indices into the h·w samples: (00, 01, 10) and (11, 10, 01) of each cell."""
    index = torch.arange(h * w, device=device).view(h, w)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    first, second = torch.stack((a, b, c), -1), torch.stack((d, c, b), -1)
    return torch.stack((first, second)).view(-1, 3)


def _doubled_area(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Twice the signed area of triangles with corners (…, 2)."""
    ab, ac = b - a, c - a
    return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]


def distillation_loss(logits: Tensor, grid: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the prediction at the samples from a teacher's view of the same ground.

    Args:
        logits: (B, C, h, w), the student's.
        grid: (B, h, w, 2) where its samples lie.
        teacher: (B, C, ht, wt) probabilities on a uniform grid over the same windows.

    Returns:
        Mean Kullback-Leibler divergence KL(teacher ‖ student) in nats, over all processes.
    """
    wanted = F.grid_sample(
        teacher, grid.detach().to(teacher.dtype), padding_mode="border", align_corners=False
    )
    divergence = F.kl_div(logits.float().log_softmax(1), wanted, reduction="none").sum(1)
    return mean_of_all(divergence)


def edge_loss(density: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of density and edge target, each stretched to 0…1.

    Args:
        density: (B, 1, hd, wd).
        target: (B, 1, hd, wd) ≥ 0, see :func:`geodeform.deform.density.edge_target`; all zero
            (a window without an edge) asks for nothing and does not count.

    Returns:
        Mean over the samples that have an edge, of all processes, a scalar; 0 where none has.
    """
    has_edge = target.amax((1, 2, 3)) > 0  # B
    squared = (minmax(density.float()) - minmax(target.float())).square().mean((1, 2, 3))
    weights = has_edge.to(squared.dtype)
    return total((squared * weights).sum()) / total(weights.sum()).clamp_min(1)


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
    wanted = wanted_density(target, share)
    logarithm = density.float().clamp_min(torch.finfo(torch.float32).tiny).log()
    divergence = (wanted * (wanted.log() - logarithm)).sum((1, 2, 3))  # B
    return mean_of_all(divergence)


def wanted_density(target: Tensor, share: float) -> Tensor:
    """Density that puts a share of the samples at the edges and spreads the others evenly.

    Args:
        target: (B, 1, hd, wd) ≥ 0; all zero asks for a uniform density.
        share: 0…1.

    Returns:
        (B, 1, hd, wd), positive, sums to 1.
    """
    return mix_uniform(normalise(target), 1 - share)


class LossParts(NamedTuple):
    """A loss and its parts, scalars.

    Attributes:
        total: What is minimised.
        segmentation: The segmentation loss in it.
        edge: The edge loss in it (of a grid net the distance to equation 2's solution), before γ;
            None where it has no part.
        teacher: The divergence from the teacher in it, before its weight; None without a teacher.
        errors: The error net's loss in it; None without an error net.
    """

    total: Tensor
    segmentation: Tensor
    edge: Tensor | None
    teacher: Tensor | None = None
    errors: Tensor | None = None

    def with_errors(self, errors: Tensor) -> LossParts:
        """Add the error net's loss, which shares no weight with the rest."""
        return self._replace(total=self.total + errors, errors=errors)


class DeformLoss(nn.Module):
    """``segmentation + γ · edge`` of a prediction against full-resolution labels.

    Args:
        n_classes: Number of classes.
        kind: "focal", "cross_entropy" or "dice".
        focal_gamma: Exponent of the focal loss.
        class_weights: (C,), or None for 1.
        gamma: Weight of the edge loss.
        edge_blur: Blur of the edge target, in pixels of the density.
        edge_share: 0 for :func:`edge_loss`, else :func:`edge_divergence` with this share.
        edge_class_weights: (C,) of the classes in the edge target, or None for 1; a grid net's
            solution of equation 2 has none.
        edge_weight: λ of equation 2, for predictions of a grid net.
        jacobian: Weigh each sample by the source area that it stands for. Without, the loss counts
            samples, and crowding them into easy ground lowers it.
        points: Above 0: so many random full-resolution points count for each sample, instead of the
            samples.
        distill: Weight of the divergence from the teacher.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        kind: Literal["focal", "cross_entropy", "dice"] = "focal",
        focal_gamma: float = 0.0,
        class_weights: Tensor | None = None,
        gamma: float = 0.0,
        edge_blur: float = 1.0,
        edge_share: float = 0.0,
        edge_class_weights: Tensor | None = None,
        edge_weight: float = 1.0,
        jacobian: bool = False,
        points: float = 0.0,
        distill: float = 1.0,
    ) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.kind = kind
        self.focal_gamma = focal_gamma if kind == "focal" else 0.0
        self.gamma = gamma
        self.edge_blur = edge_blur
        self.edge_share = edge_share
        self.edge_weight = edge_weight
        self.jacobian = jacobian
        self.points = points
        self.distill = distill
        self.class_weights: Tensor | None
        self.edge_class_weights: Tensor | None
        # They follow from the data, so they are not part of the checkpoint.
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("edge_class_weights", edge_class_weights, persistent=False)

    def forward(
        self,
        prediction: Prediction,
        labels: Tensor,
        *,
        edge: bool,
        gamma: float | None = None,
        teacher: Tensor | None = None,
    ) -> LossParts:
        """Compare a prediction with its windows' labels.

        Args:
            prediction: Of B windows.
            labels: (B, H, W) ids at full resolution, 255 unknown; sampled nearest here.
            edge: Whether the edge loss takes part: not for uniformly sampled batches, whose density
                was not predicted.
            gamma: Weight of the edge loss at this step; that of the class where None.
            teacher: (B, C, ht, wt) a teacher's probabilities on a uniform grid, or None.

        Returns:
            The loss and its parts.
        """
        segmentation = self._segmentation(prediction, labels)
        whole = segmentation
        edge_part = teacher_part = None
        # 0 for a step is still a gradient (of 0), which DDP waits for.
        if edge and (gamma is not None or self.gamma > 0):
            edge_part = self._edge(prediction, labels)
            whole = whole + (self.gamma if gamma is None else gamma) * edge_part
        if teacher is not None:
            teacher_part = distillation_loss(prediction.logits, prediction.grid, teacher)
            whole = whole + self.distill * teacher_part
        return LossParts(whole, segmentation, edge_part, teacher_part)

    def _segmentation(self, prediction: Prediction, labels: Tensor) -> Tensor:
        grid, area = prediction.grid, None
        logits = prediction.logits
        if self.points > 0 and min(logits.shape[-2:]) > 1:
            count = max(1, round(self.points * logits.shape[-2] * logits.shape[-1]))
            logits, positions = points_through_reverse_map(logits, grid, count)
            sampled = sample_labels(labels, positions.unsqueeze(1)).squeeze(1)  # B,n
        else:
            sampled = sample_labels(labels, grid)  # B,h,w
        if self.jacobian:
            area = jacobian_determinant(grid.detach(), (1, 1))
        if self.kind == "dice":
            return dice_loss(logits, sampled, class_weights=self.class_weights, sample_weights=area)
        return segmentation_loss(
            logits,
            sampled,
            focal_gamma=self.focal_gamma,
            class_weights=self.class_weights,
            sample_weights=area,
        )

    def _edge(self, prediction: Prediction, labels: Tensor) -> Tensor:
        size = (prediction.density.shape[-2], prediction.density.shape[-1])
        low_res = downsample_labels(labels, size)
        if prediction.nodes is not None:
            frame = (labels.shape[-2], labels.shape[-1])
            wanted = boundary_grid(low_res, size, weight=self.edge_weight, frame=frame)
            distance = grid_loss(prediction.nodes, wanted.to(prediction.nodes))  # mean over windows
            return mean_of_all(distance.expand(len(labels)))
        target = edge_target(
            low_res,
            self.n_classes,
            blur_sigma=self.edge_blur,
            class_weights=self.edge_class_weights,
        )
        if self.edge_share > 0:
            return edge_divergence(prediction.density, target, self.edge_share)
        return edge_loss(prediction.density, target)
