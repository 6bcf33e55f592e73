"""Losses against formulas written out, and their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from geodeform.deform.density import minmax, mix_uniform, normalise
from geodeform.deform.grid import GridKernel, density_to_grid, uniform_grid
from geodeform.models.deform_segmenter import Prediction
from geodeform.training.losses import DeformLoss, edge_divergence, edge_loss, segmentation_loss


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator).to(torch.uint8)
    labels[0, :2] = 255
    return logits, labels


def test_without_exponent_it_is_cross_entropy(case):
    logits, labels = case
    weights = torch.tensor([0.5, 1.0, 2.0, 0.7])
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=255)
    assert segmentation_loss(logits, labels, class_weights=weights).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_focal_loss_by_its_formula(case):
    logits, labels = case
    p = logits.detach().softmax(1)
    total, n = 0.0, 0
    for b in range(2):
        for y in range(5):
            for x in range(6):
                if labels[b, y, x] != 255:
                    chosen = p[b, int(labels[b, y, x]), y, x]
                    total += float(-((1 - chosen) ** 2) * chosen.log())
                    n += 1
    assert segmentation_loss(logits, labels, focal_gamma=2.0).item() == pytest.approx(
        total / n, rel=1e-5
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_for_certain_predictions(gamma):
    logits = torch.tensor([200.0, -200.0, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    logits.requires_grad_()
    labels = torch.tensor([[[0, 1], [2, 255]]])
    segmentation_loss(logits, labels, focal_gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0, :, 1, 1] == 0).all()


def test_nothing_known_is_zero_without_a_gradient(case):
    logits, labels = case
    loss = segmentation_loss(logits, torch.full_like(labels, 255), focal_gamma=1.0)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_edge_loss_compares_stretched_maps():
    target = torch.zeros(3, 1, 4, 4)
    target[0, 0, 1, 1] = 5.0
    target[1, 0, 2, 3] = 0.1
    assert edge_loss(target * 0.01 + 0.3, target).item() == pytest.approx(0, abs=1e-8)
    flat = torch.full_like(target, 1 / 16)
    # a flat density stretches to zeros; the third sample has no edge and does not count
    assert edge_loss(flat, target).item() == pytest.approx(1 / 16)
    assert edge_loss(flat, torch.zeros_like(target)).item() == 0


def prediction(density, size):
    grid = density_to_grid(density, size, GridKernel(2.0))
    logits = torch.zeros(len(density), 3, *size)
    return Prediction(density, grid, torch.zeros(len(density), 3, *size), logits)


def test_joint_loss_is_the_weighted_sum():
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[:, :, 11:] = 1
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    density = logits.flatten(1).softmax(1).view(2, 1, 8, 8)
    parts = DeformLoss(3, gamma=50.0)(prediction(density, (8, 8)), labels, edge=True)
    assert parts.edge is not None
    assert parts.edge.item() > 0
    assert parts.total.item() == pytest.approx(
        parts.segmentation.item() + 50 * parts.edge.item(), rel=1e-5
    )
    parts.total.backward()
    assert logits.grad.abs().max() > 0
    alone = DeformLoss(3, gamma=50.0)(prediction(density.detach(), (8, 8)), labels, edge=False)
    assert alone.edge is None
    assert alone.total.item() == pytest.approx(parts.segmentation.item(), rel=1e-5)


def test_edge_divergence_sets_the_contrast():
    target = torch.zeros(2, 1, 8, 8)
    target[0, 0, :, 3] = 2.0  # the second window has no edge
    wanted = mix_uniform(normalise(target), 0.25)
    assert edge_divergence(wanted, target, 0.75).item() == pytest.approx(0, abs=1e-6)
    assert wanted[1].std() == 0
    flat = torch.full_like(target, 1 / 64)
    expected = (wanted[0] * (wanted[0] * 64).log()).sum() / 2  # by its definition
    assert edge_divergence(flat, target, 0.75).item() == pytest.approx(expected.item(), rel=1e-5)
    # the right shape at a fiftieth of the contrast costs the stretched loss nothing, this one much
    faint = flat + (wanted - flat) / 50
    assert edge_loss(faint, target).item() == pytest.approx(0, abs=1e-6)
    assert edge_divergence(faint, target, 0.75).item() > 0.9 * expected.item()


@pytest.mark.parametrize("share", [0.0, 0.75])
def test_descending_the_edge_loss_draws_density_to_the_edge(share: float):
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[:, :, 16:] = 1
    logits = torch.zeros(1, 1, 8, 8).normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], 0.05)
    loss = DeformLoss(2, gamma=100.0, edge_share=share)
    for _ in range(60):
        density = logits.flatten(1).softmax(1).view(1, 1, 8, 8)
        optimiser.zero_grad()
        grid = uniform_grid(1, (8, 8))
        empty = torch.zeros(1, 2, 8, 8)
        loss(Prediction(density, grid, empty, empty), labels, edge=True).total.backward()
        optimiser.step()
    # the paper's loss fixes the density's shape and leaves its contrast free
    columns = minmax(density.detach())[0, 0].mean(0)
    assert columns[3:5].min() > 0.7
    assert columns[[0, 1, 6, 7]].max() < 0.35


def test_jacobian_weighs_samples_by_their_ground():
    density = torch.full((1, 1, 8, 8), 1.0)
    density[..., :4] = 4.0
    density /= density.sum()
    p = prediction(density, (8, 8))
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    # the samples of the sparse half are wrong
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = torch.where(p.grid[..., 0] > 0, -3.0, 3.0)
    p = p._replace(logits=logits)
    plain = DeformLoss(3)(p, labels, edge=False).total
    weighted = DeformLoss(3, jacobian=True)(p, labels, edge=False).total
    full = F.cross_entropy(logits, torch.zeros(1, 8, 8, dtype=torch.long), reduction="none")
    half = 0.5 * full.max() + 0.5 * full.min()  # wrong on half of the ground
    assert abs(weighted - half) < 0.35 * abs(plain - half)
