"""GridNet: covers the frame, sees the whole view, and learns real boundaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from geodeform.deform.edge import boundary_grid, resize_grid
from geodeform.deform.grid import folded_cells, repair_folds, uniform_grid
from geodeform.deform.sample import area_downsample, sample_labels
from geodeform.models.grid_net import GridNet, grid_loss


@settings(max_examples=25)
@given(
    hd=st.integers(1, 40),
    wd=st.integers(1, 40),
    channels=st.integers(1, 13),
    batch=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_whatever_it_predicts_covers_the_frame(
    hd: int, wd: int, channels: int, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    net = GridNet(channels).eval()
    nn.init.normal_(net.head.weight, std=10)  # far from the uniform grid
    with torch.no_grad():
        grid = net(torch.randn(batch, channels, hd, wd) * 3)
    plain = uniform_grid(batch, (hd, wd))
    assert grid.shape == (batch, hd, wd, 2)
    for edge in (0, -1):
        assert torch.equal(grid[:, :, edge, 0], plain[:, :, edge, 0])
        assert torch.equal(grid[:, edge, :, 1], plain[:, edge, :, 1])
    assert bool((grid.abs().amax((0, 1, 2)) <= plain[0, -1, -1]).all())
    if hd > 2:
        assert float((grid - plain)[..., 1].abs().max()) > 0.01
    if wd > 2:
        assert float((grid - plain)[..., 0].abs().max()) > 0.01


@pytest.mark.parametrize("training", [True, False])
def test_untrained_is_nearly_the_uniform_grid(training: bool) -> None:
    torch.manual_seed(0)
    net = GridNet(3).train(training)
    with torch.no_grad():
        grid = net(torch.randn(4, 3, 64, 64))
    moved = (grid - uniform_grid(4, (64, 64))).abs().max()
    assert 0 < float(moved) < 2 / 64  # less than a cell
    assert int(folded_cells(grid).sum()) == 0


def test_a_move_of_nothing_is_the_uniform_grid_and_moves_go_where_they_point() -> None:
    net = GridNet(1).eval()
    view = torch.randn(1, 1, 9, 12)
    nn.init.zeros_(net.head.weight)
    with torch.no_grad():
        torch.testing.assert_close(net(view), uniform_grid(1, (9, 12)), atol=1e-6, rtol=0)
        net.head.bias.copy_(torch.tensor([0.3, -0.3]))  # to the right and up
        moved = net(view) - uniform_grid(1, (9, 12))
    assert float(moved[0, :, 1:-1, 0].min()) > 0
    assert float(moved[0, 1:-1, :, 1].max()) < 0


@pytest.mark.parametrize("side", [16, 64, 128])
def test_every_node_sees_the_whole_view(side: int) -> None:
    torch.manual_seed(0)
    net = GridNet(1).eval()
    for at in (1, side - 2):
        view = torch.randn(1, 1, side, side, requires_grad=True)
        net(view)[0, at, at].sum().backward()
        assert view.grad is not None
        seen = view.grad[0, 0] != 0
        assert bool(seen.any(0).all()), "a column of the view has no influence"
        assert bool(seen.any(1).all()), "a row of the view has no influence"


def test_it_is_small() -> None:
    assert sum(p.numel() for p in GridNet(3).parameters()) < 200_000


def test_a_constant_view_has_no_border() -> None:
    torch.manual_seed(0)
    net = GridNet(3).eval()
    nn.init.normal_(net.head.weight, std=1)
    with torch.no_grad():
        grid = net(torch.full((1, 3, 24, 40), 0.7))
    # A border of zeros would bend the rows near it; here every row is the same, every column too.
    torch.testing.assert_close(grid[0, :, :, 0], grid[0, :1, :, 0].expand(24, 40))
    torch.testing.assert_close(grid[0, :, :, 1], grid[0, :, :1, 1].expand(24, 40))


def test_gradients_are_exact_and_reach_every_layer() -> None:
    torch.manual_seed(0)
    net = GridNet(2, (3, 4), dilations=(2,)).double().eval()
    nn.init.normal_(net.head.weight)
    view = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, view)
    fresh = GridNet(3)
    grid_loss(fresh(torch.randn(2, 3, 33, 17)), uniform_grid(2, (33, 17))).backward()
    for name, parameter in fresh.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


def test_loss_is_the_mean_squared_distance() -> None:
    predicted = uniform_grid(2, (3, 4), dtype=torch.float64)
    target = predicted.clone()
    target[0, 1, 2] += torch.tensor([0.3, -0.4])  # 0.25 at one of 24 nodes
    assert float(grid_loss(predicted, target)) == pytest.approx(0.25 / 24)
    assert torch.autograd.gradcheck(grid_loss, (predicted.requires_grad_(), target))
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 4, 2\) and \(1, 3, 4, 2\)"):
        grid_loss(predicted, target[:1])


def test_half_precision_does_not_reach_the_nodes() -> None:
    torch.manual_seed(0)
    net = GridNet(3).eval()
    view = torch.randn(2, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        grid = net(view)
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid, uniform_grid(2, (16, 16)), atol=0.02, rtol=0)
    assert torch.equal(grid[:, :, -1, 0], uniform_grid(2, (16, 16))[:, :, -1, 0])


def street_views(shared_data: Path, split: str, n: int, side: int) -> tuple[Tensor, Tensor]:
    """(n, 3, side, side) views of real CamVid frames' middles and (n, side, side) labels."""
    images, labels = [], []
    files = sorted((shared_data / "camvid" / split).glob("*.jpg"))
    for path in files[:: len(files) // n][:n]:
        image = np.asarray(Image.open(path).convert("RGB"))[:, 60:420]
        ids = np.asarray(Image.open(path.parents[1] / f"{split}annot" / f"{path.stem}.png"))
        ids = np.where(ids == 11, 255, ids.astype(np.int64))[:, 60:420]
        images.append(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255))
        labels.append(torch.from_numpy(ids))
    views = (area_downsample(torch.stack(images), (side, side)) - 0.45) / 0.25
    return views, sample_labels(torch.stack(labels), uniform_grid(n, (side, side)))


def test_it_learns_the_boundaries_of_real_streets(shared_data: Path) -> None:
    size = (32, 32)
    views, labels = street_views(shared_data, "train", 24, size[0])
    held_out, held_out_labels = street_views(shared_data, "val", 24, size[0])
    targets = boundary_grid(labels, size)
    torch.manual_seed(0)
    net = GridNet(3)
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=60)
    for _ in range(60):
        chosen = torch.randperm(len(views))[:12]
        loss = grid_loss(net(views[chosen]), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        trained, predicted = net.eval()(views), repair_folds(net(held_out))
    plain = uniform_grid(24, size)
    assert float(grid_loss(trained, targets)) < 0.7 * float(grid_loss(plain, targets))
    wanted = boundary_grid(held_out_labels, size)
    assert float(grid_loss(predicted, wanted)) < 0.7 * float(grid_loss(plain, wanted))
    assert int(folded_cells(repair_folds(resize_grid(predicted, (64, 64)))).sum()) == 0
