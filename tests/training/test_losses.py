"""Losses against formulas written out, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.path import Path as Polygon
from reverse_grids import dubai_labels, real_grid, synthetic_grid
from scipy import ndimage

from geodeform.deform.coords import grid_to_pixels
from geodeform.deform.density import edge_density, edge_target, minmax, mix_uniform, normalise
from geodeform.deform.grid import GridKernel, density_to_grid, uniform_grid
from geodeform.deform.reverse import ReverseMap
from geodeform.models.deform_segmenter import Prediction
from geodeform.training.losses import (
    DeformLoss,
    dice_loss,
    distillation_loss,
    edge_divergence,
    edge_loss,
    points_through_reverse_map,
    segmentation_loss,
)


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


# --- dice ----------------------------------------------------------------------------------------


def dice_by_hand(logits, labels, class_weights=None, sample_weights=None):
    """Σ over the present classes of w·(1 − 2·Σ p·y / Σ (p + y)) / Σ w, sample by sample."""
    p = logits.detach().double().softmax(1).numpy()
    n = p.shape[1]
    both, sums, present = np.zeros(n), np.zeros(n), np.zeros(n)
    for b, y, x in np.ndindex(labels.shape):
        if labels[b, y, x] == 255:
            continue
        weight = 1.0 if sample_weights is None else float(sample_weights[b, y, x])
        for c in range(n):
            is_c = float(labels[b, y, x] == c)
            both[c] += weight * p[b, c, y, x] * is_c
            sums[c] += weight * (p[b, c, y, x] + is_c)
            present[c] += weight * is_c
    of = present > 0
    w = np.ones(n) if class_weights is None else class_weights.numpy()
    return ((1 - 2 * both[of] / sums[of]) * w[of]).sum() / w[of].sum()


def test_dice_by_its_formula(case):
    logits, labels = case
    assert dice_loss(logits, labels).item() == pytest.approx(dice_by_hand(logits, labels), rel=1e-5)
    few = torch.where(labels == 2, 0, labels)  # class 2 occurs nowhere
    expected = dice_by_hand(logits, few)
    assert dice_loss(logits, few).item() == pytest.approx(expected, rel=1e-5)
    weights = torch.tensor([0.5, 1.0, 20.0, 0.7])
    for these in (labels, few):
        weighted = dice_by_hand(logits, these, weights)
        assert dice_loss(logits, these, class_weights=weights).item() == pytest.approx(
            weighted, rel=1e-5
        )
    area = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2))
    by_area = dice_by_hand(logits, labels, weights, area)
    found = dice_loss(logits, labels, class_weights=weights, sample_weights=area)
    assert found.item() == pytest.approx(by_area, rel=1e-5)
    assert len({round(v, 4) for v in (expected, weighted, by_area)}) == 3


def test_dice_does_not_look_at_unknown_samples(case):
    logits, labels = case
    dice_loss(logits, labels).backward()
    unknown = (labels == 255).unsqueeze(1).expand_as(logits)
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()
    changed = torch.where(unknown, 50.0 * logits.detach(), logits.detach())
    assert dice_loss(changed, labels).item() == dice_loss(logits, labels).item()


def test_dice_of_the_best_and_of_the_worst_prediction():
    labels = torch.tensor([[[0, 1], [1, 255]]])
    right = torch.full((1, 3, 2, 2), -50.0)
    right[0, 0, 0, 0] = right[0, 1, 0, 1] = right[0, 1, 1, 0] = 50
    assert dice_loss(right, labels).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(right.roll(1, dims=1), labels).item() == pytest.approx(1)
    right.requires_grad_()
    nothing = dice_loss(right, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing.item() == 0
    assert (right.grad == 0).all()


def test_dice_is_what_the_recipe_chooses(case):
    logits, labels = case
    weights = torch.tensor([0.5, 1.0, 2.0, 0.7])
    full = labels.repeat_interleave(3, 1).repeat_interleave(3, 2)
    grid = uniform_grid(2, (5, 6))
    density = torch.full((2, 1, 4, 4), 1 / 16)
    p = Prediction(density, grid, logits, logits)
    loss = DeformLoss(4, kind="dice", focal_gamma=2.0, class_weights=weights)
    assert loss(p, full, edge=False).total.item() == pytest.approx(
        dice_by_hand(logits, labels, weights), rel=1e-5
    )


# --- points through the reverse map --------------------------------------------------------------


def curved(name="strong noise", size=(9, 12)):
    return torch.from_numpy(synthetic_grid(name, size))


def some_logits(batch, h, w, *, seed=5, classes=4):
    return 2 * torch.randn(batch, classes, h, w, generator=torch.Generator().manual_seed(seed))


def corners_of(h, w):
    """Sample indices of the two triangles of every cell, split from top right to bottom left."""
    return [
        corners
        for y in range(h - 1)
        for x in range(w - 1)
        for corners in (
            ((y, x), (y, x + 1), (y + 1, x)),
            ((y + 1, x + 1), (y + 1, x), (y, x + 1)),
        )
    ]


def barycentric(triangle, point):
    """Weights (3,) with Σ weights = 1 and Σ weights · corner = point, by solving that."""
    matrix = np.concatenate((np.asarray(triangle, float).T, np.ones((1, 3))))
    return np.linalg.solve(matrix, np.append(np.asarray(point, float), 1.0))


def triangle_around(grid, point):
    """The triangle of a (h, w, 2) grid that holds a point, searched through all of them."""
    best, margin = None, -np.inf
    for corners in corners_of(*grid.shape[:2]):
        inside = barycentric([grid[c] for c in corners], point).min()
        if inside > margin:
            best, margin = corners, inside
    assert margin > -1e-4, f"{point} lies in no triangle"
    return best


def test_points_say_what_the_triangle_around_them_says():
    grids = torch.stack((curved(), curved("sharp peak")))
    logits = some_logits(2, 9, 12)
    torch.manual_seed(0)
    points = points_through_reverse_map(logits, grids, 60)
    assert points.positions.shape == (2, 60, 2)
    assert points.log_probabilities.shape == (2, 4, 60)
    p = logits.softmax(1).numpy()
    for b in range(2):
        grid = grids[b].numpy()
        for i, point in enumerate(points.positions[b].numpy()):
            corners = triangle_around(grid, point)
            weights = barycentric([grid[c] for c in corners], point)
            expected = sum(w * p[b][:, y, x] for w, (y, x) in zip(weights, corners, strict=True))
            found = points.log_probabilities[b, :, i].exp().numpy()
            np.testing.assert_allclose(found, expected, atol=2e-4)
    assert not torch.equal(points.positions[0], points.positions[1])


def test_points_say_what_the_reverse_map_says_there(shared_data):
    grid = torch.from_numpy(real_grid(shared_data, 6, (24, 30), sigma=4.0))
    logits = some_logits(1, 24, 30, classes=5)
    torch.manual_seed(1)
    points = points_through_reverse_map(logits, grid[None], 100)
    side = 1 << 18  # a window whose pixels are so fine that one lies at every point
    reverse = ReverseMap(grid.numpy(), (side, side))
    scores = logits[0].softmax(0).numpy()
    for i, (x, y) in enumerate(((points.positions[0].double() + 1) / 2 * side).long().tolist()):
        expected = reverse.interpolate_scores(scores, rows=(y, y + 1), cols=(x, x + 1))[:, 0, 0]
        found = points.log_probabilities[0, :, i].exp().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["uniform", "strong noise", "sharp peak"])
def test_points_cover_the_ground_evenly(name):
    count, cells = 200_000, 20
    grid = curved(name, (6, 5))
    # the ground that is covered: between the outermost samples; its middle is safely inside
    frame = 0.5
    torch.manual_seed(2)
    positions = (
        points_through_reverse_map(some_logits(1, 6, 5), grid[None], count).positions[0].numpy()
    )
    rim = np.concatenate((grid[0], grid[1:, -1], grid[-1, :-1].flip(0), grid[1:-1, 0].flip(0)))
    x, y = rim[:, 0], rim[:, 1]
    whole = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    inside = (np.abs(positions) < frame).all(1)
    assert (np.abs(rim).max(1) > frame).all()
    n, _, _ = np.histogram2d(*positions[inside].T, cells, [[-frame, frame], [-frame, frame]])
    expected = count * (2 * frame / cells) ** 2 / whole
    chi_squared = ((n - expected) ** 2 / expected).sum()
    freedom = cells * cells
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_points_gradients_by_finite_differences():
    grid = curved("noise", (4, 5)).double()[None].requires_grad_()
    logits = some_logits(1, 4, 5).requires_grad_()
    torch.manual_seed(3)
    points = points_through_reverse_map(logits, grid, 40)
    pull = torch.randn(points.log_probabilities.shape, generator=torch.Generator().manual_seed(0))
    (points.log_probabilities * pull).sum().backward()
    base, places = grid.detach()[0].numpy(), points.positions[0].numpy()
    triangles = [triangle_around(base, point) for point in places]
    factors = pull[0].double().numpy()  # C,n

    def value(nodes, scores):
        p = torch.from_numpy(scores).softmax(0).numpy()
        total = 0.0
        for i, (point, corners) in enumerate(zip(places, triangles, strict=True)):
            weights = barycentric([nodes[c] for c in corners], point)  # the place does not move
            mixed = sum(w * p[:, y, x] for w, (y, x) in zip(weights, corners, strict=True))
            total += float((factors[:, i] * np.log(mixed)).sum())
        return total

    scores, step = logits.detach()[0].double().numpy(), 1e-6
    for given, found in ((base, grid.grad[0].numpy()), (scores, logits.grad[0].numpy())):
        numeric = np.zeros_like(given)
        for index in np.ndindex(given.shape):
            ends = []
            for sign in (1, -1):
                moved = given.copy()
                moved[index] += sign * step
                ends.append(value(moved, scores) if given is base else value(base, moved))
            numeric[index] = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(numeric).max() > 1
        np.testing.assert_allclose(found, numeric, atol=1e-4 * np.abs(numeric).max())


def test_certain_predictions_keep_the_points_gradients_finite():
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0], logits[:, 1] = 200, -200
    logits.requires_grad_()
    grid = curved("noise", (4, 4))[None].requires_grad_()
    labels = torch.ones(1, 40, 40, dtype=torch.uint8)
    p = Prediction(torch.full((1, 1, 4, 4), 1 / 16), grid, logits, logits)
    DeformLoss(3, kind="focal", focal_gamma=2.0, points=4.0)(p, labels, edge=False).total.backward()
    assert logits.grad.isfinite().all()
    assert grid.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["cross_entropy", "dice"])
def test_the_loss_at_points_reads_the_label_under_each(kind, shared_data):
    labels = torch.from_numpy(dubai_labels(shared_data, 6, 400))[None]
    assert len(labels.unique()) >= 3
    labels[:, :, -100:] = 255
    H, W = labels.shape[1:]
    grid, logits = curved(size=(10, 8))[None], some_logits(1, 10, 8, classes=5)
    p = Prediction(torch.full((1, 1, 4, 4), 1 / 16), grid, logits, logits)
    weights = torch.tensor([0.2, 1.0, 2.0, 1.5, 0.3])
    torch.manual_seed(4)
    found = DeformLoss(5, kind=kind, points=2.5, class_weights=weights)(p, labels, edge=False).total
    torch.manual_seed(4)
    points = points_through_reverse_map(logits, grid, 200)  # 2.5 for each of 80 samples
    total, weighed, under = 0.0, 0.0, []
    for i, (x, y) in enumerate(points.positions[0].tolist()):
        label = int(labels[0, int((y + 1) / 2 * H), int((x + 1) / 2 * W)])
        under.append(label)
        if label != 255:
            weighed += float(weights[label])
            total -= float(weights[label] * points.log_probabilities[0, label, i])
    assert 20 < under.count(255) < 100
    if kind == "dice":
        expected = dice_by_hand(
            points.log_probabilities[:, :, None], torch.tensor(under)[None, None], weights
        )
    else:
        expected = total / weighed
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_at_points_is_that_of_all_pixels(shared_data):
    """What it stands for: the mean over the window's pixels, by the reverse map of inference."""
    labels = torch.from_numpy(dubai_labels(shared_data, 6, 256))[None]
    grid = torch.from_numpy(real_grid(shared_data, 6, (12, 14), sigma=6.0))
    logits = some_logits(1, 12, 14, classes=5)
    scores = ReverseMap(grid.numpy(), (256, 256)).interpolate_scores(logits[0].softmax(0).numpy())
    chosen = np.take_along_axis(scores, np.minimum(labels.numpy(), 4), 0)[0]
    rim = np.concatenate((grid[0], grid[1:, -1], grid[-1, :-1].flip(0), grid[1:-1, 0].flip(0)))
    centres = np.stack(np.meshgrid(*[(np.arange(256) + 0.5) / 128 - 1] * 2), -1).reshape(-1, 2)
    counted = Polygon(rim).contains_points(centres).reshape(256, 256) & (labels[0].numpy() != 255)
    expected = -np.log(chosen[counted]).mean()
    p = Prediction(torch.full((1, 1, 4, 4), 1 / 16), grid[None], logits, logits)
    torch.manual_seed(5)
    found = DeformLoss(5, points=300.0)(p, labels, edge=False).total
    at_samples = DeformLoss(5)(p, labels, edge=False).total
    assert found.item() == pytest.approx(expected, rel=0.01)
    assert abs(at_samples.item() - expected) > 0.03 * expected  # what counting samples would give


# --- distillation --------------------------------------------------------------------------------


def read_bilinearly(maps, x, y):
    """(C, h, w) maps at a normalised place, the frame's edge continued."""
    C, h, w = maps.shape
    column, row = (x + 1) / 2 * w - 0.5, (y + 1) / 2 * h - 0.5
    total = np.zeros(C)
    for v in (int(np.floor(row)), int(np.floor(row)) + 1):
        for u in (int(np.floor(column)), int(np.floor(column)) + 1):
            weight = (1 - abs(row - v)) * (1 - abs(column - u))
            total += weight * maps[:, min(max(v, 0), h - 1), min(max(u, 0), w - 1)]
    return total


def test_distillation_by_its_formula():
    grids = torch.stack((curved(size=(5, 6)), curved("sharp peak", (5, 6))))
    logits = some_logits(2, 5, 6).requires_grad_()
    teacher = some_logits(2, 7, 4, seed=8).softmax(1)
    q = logits.detach().double().softmax(1).numpy()
    total = 0.0
    for b, y, x in np.ndindex(2, 5, 6):
        p = read_bilinearly(teacher[b].double().numpy(), *grids[b, y, x].tolist())
        total += float((p * np.log(p / q[b, :, y, x])).sum())
    found = distillation_loss(logits, grids.requires_grad_(), teacher)
    assert found.item() == pytest.approx(total / 60, rel=1e-4)
    found.backward()
    assert logits.grad.abs().max() > 0
    assert grids.grad is None  # a teacher does not say where to look


def test_distillation_of_the_same_view_is_zero():
    logits = some_logits(2, 5, 6).requires_grad_()
    grid = uniform_grid(2, (5, 6))
    same = distillation_loss(logits, grid, logits.detach().softmax(1))
    same.backward()
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6
    assert distillation_loss(logits, grid, logits.detach().flip(1).softmax(1)).item() > 0.1


def test_certain_teachers_are_learned_from_without_nan():
    teacher = torch.zeros(1, 3, 4, 4)
    teacher[:, 1] = 1
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = distillation_loss(logits, uniform_grid(1, (4, 4)), teacher)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3), rel=1e-5)
    assert (logits.grad[:, 1] < 0).all()
    assert (logits.grad[:, [0, 2]] > 0).all()


def test_the_teacher_counts_by_its_weight():
    labels = torch.zeros(1, 20, 20, dtype=torch.uint8)
    logits, grid = some_logits(1, 5, 6), uniform_grid(1, (5, 6))
    p = Prediction(torch.full((1, 1, 4, 4), 1 / 16), grid, logits, logits)
    teacher = some_logits(1, 5, 6, seed=8).softmax(1)
    parts = DeformLoss(4, distill=0.3)(p, labels, edge=False, teacher=teacher)
    assert parts.teacher.item() == pytest.approx(
        distillation_loss(logits, grid, teacher).item(), rel=1e-6
    )
    assert parts.total.item() == pytest.approx(
        parts.segmentation.item() + 0.3 * parts.teacher.item(), rel=1e-6
    )
    assert DeformLoss(4, distill=0.3)(p, labels, edge=False).teacher is None


# --- the simulated edge density ------------------------------------------------------------------


def edges_by_hand(labels):
    """Known pixels with a known neighbour, of eight, of another class."""
    h, w = labels.shape
    edges = np.zeros((h, w))
    for y, x in np.ndindex(h, w):
        around = labels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        edges[y, x] = labels[y, x] != 255 and ((around != labels[y, x]) & (around != 255)).any()
    return edges


@pytest.mark.parametrize("radius", [0.0, 0.7, 2.0])
def test_edge_density_by_its_definition(radius):
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 4, (3, 4)).repeat(6, 0).repeat(5, 1) for _ in range(2)])
    labels[0, 4:8, 3:9] = 255
    found = edge_density(torch.from_numpy(labels), 4, radius=radius)
    assert found.shape == (2, 1, 18, 20)
    for b in range(2):
        edges = edges_by_hand(labels[b])
        assert 0.1 < edges.mean() < 0.7
        if radius > 0:
            blur = {"sigma": radius, "mode": "constant", "radius": int(np.ceil(4 * radius))}
            frame = ndimage.gaussian_filter(np.ones_like(edges), **blur)
            edges = ndimage.gaussian_filter(edges, **blur) / frame
        np.testing.assert_allclose(found[b, 0].numpy(), edges / edges.sum(), atol=1e-6)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(2), rtol=1e-5, atol=0)
    assert found.min() > 0


def test_edge_density_counts_every_edge_alike():
    labels = torch.zeros(1, 12, 12, dtype=torch.long)
    labels[:, :, 4:8], labels[:, 6:, 8:] = 1, 2  # straight edges and a corner of three classes
    density = edge_density(labels, 3, radius=0)
    dense = density > density.mean()
    assert density[dense].std() / density[dense].mean() < 1e-5
    assert density[~dense].max() < 1e-5 * density[dense].min()


@pytest.mark.parametrize("value", [2, 255])
@pytest.mark.parametrize("radius", [0.0, 2.0])
def test_edge_density_without_edges_is_uniform(value, radius):
    density = edge_density(torch.full((1, 6, 8), value), 4, radius=radius)
    torch.testing.assert_close(density, torch.full((1, 1, 6, 8), 1 / 48))


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_the_oracle_samples_real_scenes_densely_at_their_edges(shared_data, radius):
    labels = dubai_labels(shared_data, 6)
    step = min(labels.shape) // 80
    small = labels[::step, ::step][:80, :80]
    density = edge_density(torch.from_numpy(small)[None], 5, radius=radius)
    edges = edge_target(torch.from_numpy(small)[None], 5, blur_sigma=0)[0, 0].numpy() > 0
    assert 0.05 < edges.mean() < 0.5
    there, elsewhere = density[0, 0].numpy()[edges].mean(), density[0, 0].numpy()[~edges].mean()
    assert there > 1.5 * elsewhere
    shares = []
    for given in (density, torch.full_like(density, 1 / 6400)):
        grid = density_to_grid(given, (64, 64), GridKernel(4.0))
        x, y = grid_to_pixels(grid[0].numpy(), (80, 80)).reshape(-1, 2).T
        shares.append(edges[np.clip(y, 0, 79).astype(int), np.clip(x, 0, 79).astype(int)].mean())
    assert shares[0] > 1.1 * shares[1]


@pytest.mark.parametrize("share", [0.0, 0.75])
def test_the_edge_loss_counts_classes_as_it_is_told(share):
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[:, :, 20:] = 1
    labels[:, :9, :9] = 2
    weights = torch.tensor([0.2, 0.3, 2.5])
    density = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    density = density / density.sum((1, 2, 3), keepdim=True)
    loss = DeformLoss(3, gamma=1.0, edge_share=share, edge_class_weights=weights)
    found = loss(prediction(density, (8, 8)), labels, edge=True).edge
    target = edge_target(labels, 3, class_weights=weights)
    expected = edge_divergence(density, target, share) if share else edge_loss(density, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = DeformLoss(3, gamma=1.0, edge_share=share)(
        prediction(density, (8, 8)), labels, edge=True
    )
    assert found.item() != pytest.approx(plain.edge.item(), rel=1e-3)
    assert "edge_class_weights" not in loss.state_dict()


def test_a_steps_gamma_counts_instead_of_the_recipes():
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[:, :, 11:] = 1
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    predicted = prediction(logits.softmax(1).view(1, 1, 8, 8), (8, 8))
    loss = DeformLoss(2, gamma=50.0)
    parts = loss(predicted, labels, edge=True, gamma=7.0)
    assert parts.total.item() == pytest.approx(
        parts.segmentation.item() + 7 * parts.edge.item(), rel=1e-5
    )
    # a weight of 0 for a step keeps the way of the gradient
    none = loss(predicted, labels, edge=True, gamma=0.0)
    assert none.edge is not None
    assert none.total.item() == pytest.approx(parts.segmentation.item())
