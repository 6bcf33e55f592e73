"""Resizer: the article's layers written out, near plain resizing at first, and it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from geodeform.deform.grid import uniform_grid
from geodeform.deform.sample import area_downsample, sample_image
from geodeform.models.resizer import Resizer


def disturbed(net: Resizer) -> Resizer:
    """Weights and statistics as after some training: none is 0 or 1, the last layer not small."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    nn.init.normal_(net.last.weight, std=0.05)
    return net.eval()


def literal_resizer(
    weights: list[Tensor], image: Tensor, size: tuple[int, int], blocks: int, antialias: bool
) -> Tensor:
    """The article's figure 3, layer by layer, from the parameters and statistics in its order."""
    rest = iter(weights)

    def conv(x: Tensor, *, bias: bool) -> Tensor:
        kernel = next(rest)
        edge = kernel.shape[-1] // 2
        padded = F.pad(x, (edge, edge, edge, edge), mode="replicate") if edge else x
        return F.conv2d(padded, kernel, next(rest) if bias else None)

    def norm(x: Tensor) -> Tensor:
        gain, shift, mean, variance, _ = (next(rest).view(-1, 1, 1) for _ in range(5))
        return (x - mean) / torch.sqrt(variance + 1e-5) * gain + shift

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def resize(x: Tensor) -> Tensor:
        if not antialias:  # four pixels around each of the uniform grid's positions
            return sample_image(x, uniform_grid(len(x), size, dtype=x.dtype), mode="bilinear")
        return F.interpolate(x, size, mode="bilinear", antialias=True)

    x = norm(leaky(conv(leaky(conv(image, bias=True)), bias=True)))
    resized = resize(x)
    x = resized
    for _ in range(blocks):
        x = x + norm(conv(leaky(norm(conv(x, bias=False))), bias=False))
    x = resized + norm(conv(x, bias=False))
    corrected = resize(image) + conv(x, bias=True)
    assert next(rest, None) is None
    return corrected


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("filters", "blocks"), [(16, 1), (5, 3)])
def test_against_the_articles_layers(filters: int, blocks: int, antialias: bool) -> None:
    torch.manual_seed(0)
    net = disturbed(Resizer(4, filters, blocks, antialias=antialias)).double()
    image = torch.randn(2, 4, 23, 30, dtype=torch.float64)
    with torch.no_grad():
        found = net(image, (7, 11))
        expected = literal_resizer(
            list(net.state_dict().values()), image, (7, 11), blocks, antialias
        )
    torch.testing.assert_close(found, expected)
    assert float((found - F.interpolate(image, (7, 11), mode="bilinear")).abs().max()) > 0.1


@settings(max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    h=st.integers(1, 25),
    w=st.integers(1, 25),
    channels=st.integers(1, 6),
    antialias=st.booleans(),
)
def test_any_size_to_any_size(
    height: int, width: int, h: int, w: int, channels: int, antialias: bool
) -> None:
    net = Resizer(channels, 4, antialias=antialias).eval()
    with torch.no_grad():
        resized = net(torch.randn(2, channels, height, width), (h, w))
    assert resized.shape == (2, channels, h, w)
    assert bool(resized.isfinite().all())


def test_parameters_grow_by_blocks_alone() -> None:
    one, two, four = (
        sum(p.numel() for p in Resizer(3, 16, blocks).parameters()) for blocks in (1, 2, 4)
    )
    assert two - one == 2 * (16 * 16 * 9 + 2 * 16)
    assert four - one == 3 * (two - one)
    # 7×7 in, 1×1, BatchNorm, 3×3, BatchNorm, 7×7 out: 2352 + 16, 256 + 16, 32, 2304, 32, 2352 + 3
    assert one - (two - one) == 7363


def real_crops(shared_data: Path, tile: int, n: int, side: int) -> Tensor:
    """(n, 3, side, side) of a real Dubai tile, zero mean and unit deviation."""
    path = shared_data / "dubai" / f"Tile {tile}" / "images" / "image_part_005.jpg"
    image = np.asarray(Image.open(path).convert("RGB")).astype(np.float32)
    columns = (image.shape[1] - side) // (side // 2)
    crops = []
    for k in range(n):
        y, x = k // columns * (side // 2), k % columns * (side // 2)
        crops.append(torch.from_numpy(image[y : y + side, x : x + side].transpose(2, 0, 1).copy()))
    stacked = torch.stack(crops)
    return (stacked - stacked.mean()) / stacked.std()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("antialias", [True, False])
def test_untrained_is_nearly_plain_resizing(
    shared_data: Path, antialias: bool, training: bool
) -> None:
    torch.manual_seed(0)
    image = real_crops(shared_data, 1, 4, 128)
    net = Resizer(3, antialias=antialias).train(training)
    with torch.no_grad():
        found = net(image, (32, 32))
    plain = F.interpolate(image, (32, 32), mode="bilinear", antialias=antialias)
    difference = (found - plain).square().mean().sqrt()
    assert 0 < float(difference) < 0.1  # of the image's standard deviation


def test_antialias_sees_what_plain_interpolation_skips() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 64, 64)
    image[..., ::8] = 8.0  # mean 1; no column that plain interpolation reads at 8 → 1 has any
    plain, fair = (Resizer(1, antialias=antialias).eval() for antialias in (False, True))
    for net in (plain, fair):
        nn.init.zeros_(net.last.weight)
    with torch.no_grad():
        assert float(plain(image, (8, 8)).abs().max()) == 0
        inner = fair(image, (8, 8))[..., 1:-1]
        torch.testing.assert_close(inner, torch.ones_like(inner), atol=1e-5, rtol=0)


def test_a_constant_image_has_no_border() -> None:
    torch.manual_seed(0)
    net = disturbed(Resizer(3))
    with torch.no_grad():
        resized = net(torch.full((1, 3, 40, 24), 0.7), (10, 9))
    torch.testing.assert_close(resized, resized[..., :1, :1].expand_as(resized))
    assert float((resized - 0.7).abs().max()) > 1e-3


@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_are_exact_and_reach_every_layer(antialias: bool) -> None:
    torch.manual_seed(0)
    net = disturbed(Resizer(2, 3, antialias=antialias)).double()
    image = torch.randn(1, 2, 9, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x, (4, 3)), image)
    fresh = Resizer(3, 8, 2, antialias=antialias)
    fresh(torch.randn(2, 3, 33, 17), (8, 5)).square().sum().backward()
    for name, parameter in fresh.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def street_crops(shared_data: Path, split: str, n: int) -> Tensor:
    """(n, 3, 128, 128) of real CamVid frames, about zero mean and unit deviation."""
    files = sorted((shared_data / "camvid" / split).glob("*.jpg"))
    crops = []
    for path in files[:: len(files) // n][:n]:
        frame = np.asarray(Image.open(path).convert("RGB")).astype(np.float32)
        crops.append(torch.from_numpy(frame[150:278, 150:278].transpose(2, 0, 1).copy()))
    return (torch.stack(crops) - 100) / 75


def test_it_learns_to_average_what_plain_interpolation_skips(shared_data: Path) -> None:
    images, held_out = (street_crops(shared_data, split, 16) for split in ("train", "val"))
    targets, wanted = (area_downsample(one, (16, 16)) for one in (images, held_out))
    torch.manual_seed(0)
    net = Resizer(3)  # plain interpolation reads 4 of the 64 pixels that a target averages
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=60)
    for _ in range(60):
        chosen = torch.randperm(len(images))[:4]
        loss = F.mse_loss(net(images[chosen], (16, 16)), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = net.eval()(held_out, (16, 16))
    plain = F.interpolate(held_out, (16, 16), mode="bilinear")
    assert float(F.mse_loss(found, wanted)) < 0.7 * float(F.mse_loss(plain, wanted))
