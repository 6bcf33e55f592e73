"""DensityNet: a density for any view, near uniform at first, blind to borders."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodeform.models.density_net import DensityNet


@settings(max_examples=30, deadline=None)
@given(
    hd=st.integers(1, 20),
    wd=st.integers(1, 20),
    channels=st.integers(1, 13),
    batch=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_density_is_positive_and_sums_to_one(
    hd: int, wd: int, channels: int, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    net = DensityNet(channels).eval()
    with torch.no_grad():
        density = net(torch.randn(batch, channels, hd, wd) * 3)
    assert density.shape == (batch, 1, hd, wd)
    assert bool((density > 0).all())
    torch.testing.assert_close(density.sum((1, 2, 3)), torch.ones(batch))


@pytest.mark.parametrize("training", [True, False])
def test_untrained_is_near_uniform(training: bool) -> None:
    torch.manual_seed(0)
    net = DensityNet(3).train(training)
    with torch.no_grad():
        relative = net(torch.randn(4, 3, 64, 64)) * 64 * 64
    assert float(relative.min()) > 0.85
    assert float(relative.max()) < 1.15


def test_a_constant_view_gets_a_constant_density() -> None:
    torch.manual_seed(0)
    net = DensityNet(3).eval()
    with torch.no_grad():
        net.layers[-1].weight.mul_(1000)  # far from uniform wherever features differ
        density = net(torch.full((1, 3, 9, 7), 0.7))
    torch.testing.assert_close(density, torch.full((1, 1, 9, 7), 1 / 63))


def test_temperature_flattens() -> None:
    torch.manual_seed(0)
    net = DensityNet(3).eval()
    view = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        net.layers[-1].weight.mul_(100)
        spreads = []
        for net.temperature in (0.5, 1.0, 5.0):
            spreads.append(float(net(view).std()))
    assert spreads[0] > spreads[1] > spreads[2]


def test_it_learns_where_the_bright_half_is() -> None:
    torch.manual_seed(0)
    net = DensityNet(1)
    view = torch.randn(8, 1, 16, 16) * 0.1
    view[..., 8:] += 1
    target = torch.where(view > 0.5, 1.9 / 256, 0.1 / 256)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(80):
        loss = ((net(view) - target) * 256).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())
    with torch.no_grad():
        share = net.eval()(view)[..., 8:].sum((1, 2, 3))
    assert float(share.min()) > 0.85  # 0.5 when uniform, 0.95 in the target


def test_layers_are_the_papers() -> None:
    shapes = [tuple(p.shape) for p in DensityNet(3).parameters() if p.ndim == 4]
    assert shapes == [(24, 3, 3, 3), (24, 24, 3, 3), (3, 24, 3, 3), (1, 3, 1, 1)]
