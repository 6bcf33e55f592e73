"""DensityNet: a density for any view, near uniform at first, blind to borders."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodeform.deform.coords import uniform_normalised
from geodeform.deform.density import softmax_density
from geodeform.models.density_net import DensityNet, FixedDensity


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


OPTIONS = [
    {"kernel": 5},
    {"kernel": 7},
    {"coords": True},
    {"context": 2},
    {"context": 5},  # its dilation of 32 is larger than the views below
    {"kernel": 5, "coords": True, "context": 1, "channels": (6,)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(8, 8), (1, 3), (20, 13)])
def test_every_option_gives_a_density_and_learns(options, size) -> None:
    torch.manual_seed(0)
    net = DensityNet(3, **options)
    density = net(torch.randn(2, 3, *size))
    assert density.shape == (2, 1, *size)
    assert bool((density > 0).all())
    torch.testing.assert_close(density.sum((1, 2, 3)), torch.ones(2))
    if size == (1, 3):
        return
    density.square().sum().backward()
    for name, parameter in net.named_parameters():
        if parameter is not net.layers[-1].bias:  # the same for all logits, so for no density
            assert bool(parameter.grad.any()), name


def seen_pixels(net: DensityNet, side: int) -> int:
    """How many columns of a view change the logit at its centre, by differentiation."""
    view = torch.randn(1, 3, side, side, requires_grad=True)
    net.eval().layers(view)[0, 0, side // 2, side // 2].backward()
    return int(view.grad.abs().amax((0, 1, 2)).count_nonzero())


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, 7),
        ({"kernel": 5}, 13),
        ({"kernel": 7}, 19),
        ({"context": 1}, 11),
        ({"context": 2}, 19),
        ({"context": 3}, 35),
        ({"context": 4}, 67),
        ({"kernel": 5, "context": 2}, 25),
    ],
)
def test_it_sees_as_far_as_its_docstring_says(options, seen) -> None:
    torch.manual_seed(1)
    net = DensityNet(3, **options)
    with torch.no_grad():
        for module in net.modules():  # positive weights: no ReLU hides what is behind it
            if isinstance(module, torch.nn.Conv2d):
                module.weight.abs_()
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.fill_(50.0)
    assert seen_pixels(net, 75) == seen


def test_context_is_added_to_what_was_there() -> None:
    torch.manual_seed(0)
    net = DensityNet(3, context=2).eval()
    plain = DensityNet(3).eval()
    mine = net.state_dict()
    # silent surroundings (scale 0) leave the paper's net, whose last four layers they come before
    for n in (6, 7):
        mine[f"layers.{n}.seen.1.weight"].zero_()
    numbers = [*range(6), *range(8, 12)]
    plain.load_state_dict(
        {
            f"layers.{new}.{key.split('.', 2)[2]}": value
            for new, old in enumerate(numbers)
            for key, value in mine.items()
            if key.startswith(f"layers.{old}.")
        }
    )
    view = torch.randn(2, 3, 9, 12)
    with torch.no_grad():
        assert torch.equal(net(view), plain(view))


def test_coordinates_are_two_more_bands_at_the_pixels_centres() -> None:
    torch.manual_seed(0)
    net = DensityNet(2, coords=True).eval()
    view = torch.randn(3, 2, 4, 6)
    x = torch.tensor([-5 / 6, -3 / 6, -1 / 6, 1 / 6, 3 / 6, 5 / 6]).expand(3, 1, 4, 6)
    y = torch.tensor([-0.75, -0.25, 0.25, 0.75]).view(4, 1).expand(3, 1, 4, 6)
    assert x[0, 0, 0].tolist() == pytest.approx(uniform_normalised(6).tolist())
    with torch.no_grad():
        expected = softmax_density(net.layers(torch.cat((view, x, y), 1)))
        torch.testing.assert_close(net(view), expected)
        # only with them does a constant view say where its pixels lie
        net.layers[-1].weight.mul_(100)
        assert float(net(torch.zeros(1, 2, 8, 8)).std()) > 1e-5


def test_a_fixed_density_looks_at_nothing() -> None:
    net = FixedDensity((4, 6))
    torch.testing.assert_close(net(torch.randn(2, 3, 4, 6)), torch.full((2, 1, 4, 6), 1 / 24))
    density = torch.rand(1, 1, 4, 6) + 0.1
    net.density.copy_(density / density.sum())
    assert list(net.parameters()) == []
    found = net(torch.randn(3, 5, 4, 6))
    assert all(torch.equal(one, net.density[0]) for one in found)
    # of another size: at the pixels' centres by hand, along an axis of two and four pixels
    other = FixedDensity((1, 2))
    other.density.copy_(torch.tensor([0.25, 0.75]))
    fitted = other(torch.zeros(2, 3, 1, 4))
    by_hand = torch.tensor([0.25, 0.375, 0.625, 0.75]) / 2
    torch.testing.assert_close(fitted, by_hand.expand(2, 1, 1, 4))
