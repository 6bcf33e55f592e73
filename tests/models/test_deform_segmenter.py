"""DeformSegmenter: stages that chain, any size, gradients through the sampler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from geodeform.deform.grid import GridKernel, density_to_grid, uniform_grid
from geodeform.deform.sample import area_downsample, sample_image
from geodeform.errors import ConfigError
from geodeform.models import deform_segmenter
from geodeform.models.deform_segmenter import DeformSegmenter, pad_to_multiple
from geodeform.models.spec import ModelSpec


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


def test_forward_is_its_stages(model: DeformSegmenter, image: torch.Tensor) -> None:
    with torch.no_grad():
        prediction = model(image)
        low_res = area_downsample(image, (12, 16))
        density = model.density(low_res)
        grid = model.grid(density, (32, 48))
        sampled = sample_image(image, grid, mode="area")
        logits = model.segment(sampled)
    assert [tuple(t.shape) for t in prediction[:4]] == [
        (2, 1, 12, 16),
        (2, 32, 48, 2),
        (2, 3, 32, 48),
        (2, 2, 32, 48),
    ]
    assert prediction.nodes is None
    for found, expected in zip(prediction, (density, grid, sampled, logits), strict=False):
        assert torch.equal(found, expected)


def test_the_view_has_the_size_that_is_asked_for(
    model: DeformSegmenter, image: torch.Tensor
) -> None:
    with torch.no_grad():
        expected = model.density(area_downsample(image, (20, 24)))
        assert torch.equal(model(image, low_res=(20, 24)).density, expected)


@pytest.mark.parametrize("mode", ["area", "bilinear"])
def test_uniform_sampler(
    spec: ModelSpec, image: torch.Tensor, mode: str, model: DeformSegmenter
) -> None:
    uniform = DeformSegmenter(
        replace(spec, sampler="uniform", sample_mode=mode, downsampler="none")
    ).eval()
    with torch.no_grad():
        prediction = uniform(image, (30, 44))
        learned_model = model(image, (30, 44), sampler="uniform")
    assert torch.equal(prediction.grid, uniform_grid(2, (30, 44)))
    torch.testing.assert_close(prediction.density, torch.full((2, 1, 12, 16), 1 / 192))
    assert prediction.logits.shape == (2, 2, 30, 44)
    if mode == "area":
        assert torch.equal(prediction.sampled, area_downsample(image, (30, 44)))
        assert torch.equal(learned_model.sampled, prediction.sampled)
    else:
        expected = sample_image(image, prediction.grid, mode="bilinear")
        assert torch.equal(prediction.sampled, expected)


def test_without_a_density_net_only_uniform_works(spec: ModelSpec, image: torch.Tensor) -> None:
    model = DeformSegmenter(replace(spec, sampler="uniform", downsampler="none")).eval()
    assert not any(k.startswith("density_net") for k in model.state_dict())
    with pytest.raises(ConfigError, match="no density net: use the sampler 'uniform'"):
        model(image, sampler="learned")


def test_sample_mode_changes_the_samples(spec: ModelSpec, image: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = DeformSegmenter(spec).eval()
    with torch.no_grad():
        area = model(image, (16, 16)).sampled
        model.spec = replace(spec, sample_mode="bilinear")
        point = model(image, (16, 16)).sampled
    assert float(area.std()) < 0.5 * float(point.std())  # noise averages out over the areas


def test_segmentation_loss_reaches_the_density_net(spec: ModelSpec, image: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = DeformSegmenter(spec)
    prediction = model(image)
    F.cross_entropy(prediction.logits, torch.randint(0, 2, (2, 32, 48))).backward()
    lacking = [
        k
        for k, p in model.density_net.named_parameters()
        # Adding the same to all logits leaves a softmax as it is.
        if k != "layers.9.bias" and (p.grad is None or not bool(p.grad.any()))
    ]
    assert lacking == []


@settings(max_examples=25, deadline=None)
@given(h=st.integers(1, 70), w=st.integers(1, 70), batch=st.integers(1, 3))
def test_segment_takes_any_size(model: DeformSegmenter, h: int, w: int, batch: int) -> None:
    with torch.no_grad():
        logits = model.segment(torch.randn(batch, 3, h, w))
    assert logits.shape == (batch, 2, h, w)
    assert bool(logits.isfinite().all())


@given(h=st.integers(1, 40), w=st.integers(1, 40), divisor=st.sampled_from([1, 8, 32]))
@settings(deadline=None)
def test_padding_against_numpy(h: int, w: int, divisor: int) -> None:
    image = np.random.default_rng(0).normal(size=(1, 2, h, w))
    expected = image
    for axis, side in ((2, h), (3, w)):
        pad = [(0, 0)] * 4
        pad[axis] = (0, -side % divisor)
        mode = "reflect" if pad[axis][1] < side else "edge"
        expected = np.pad(expected, pad, mode=mode)
    padded = pad_to_multiple(torch.from_numpy(image), divisor)
    assert padded.shape[-2] % divisor == 0
    assert padded.shape[-1] % divisor == 0
    assert np.array_equal(padded.numpy(), expected)


def test_divisible_sides_are_not_padded(model: DeformSegmenter) -> None:
    image = torch.randn(1, 3, 64, 96)
    assert pad_to_multiple(image, 32) is image
    with torch.no_grad():
        torch.testing.assert_close(model.segment(image), model.segmenter(image))


def test_small_cpu_batches_change_nothing(
    model: DeformSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(5, 3, 32, 64)
    with torch.no_grad():
        whole = model.segment(image)
        monkeypatch.setattr(deform_segmenter, "CPU_BATCH_PIXELS", 2 * 32 * 64)
        parts = model.segment(image)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_training_is_never_split(
    model: DeformSegmenter, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm must see the whole batch."""
    monkeypatch.setattr(deform_segmenter, "CPU_BATCH_PIXELS", 1)
    torch.manual_seed(0)
    model = DeformSegmenter(spec)
    sizes: list[int] = []
    model.segmenter.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    with torch.no_grad():
        model.segment(torch.randn(4, 3, 32, 32))
    model.eval().segment(torch.randn(4, 3, 32, 32))
    assert sizes == [4, 4]


def test_training_may_take_another_kernel(model: DeformSegmenter, image: torch.Tensor) -> None:
    wide = GridKernel(5.0)
    sharp = torch.rand(2, 1, 12, 16) ** 8
    assert torch.equal(model.grid(sharp, (32, 48), wide), density_to_grid(sharp, (32, 48), wide))
    assert not torch.equal(model.grid(sharp, (32, 48), wide), model.grid(sharp, (32, 48)))
    with torch.no_grad():
        usual, other = model(image), model(image, kernel=wide)
    assert torch.equal(other.density, usual.density)
    assert torch.equal(other.grid, model.grid(usual.density, (32, 48), wide))
    assert not torch.equal(other.grid, usual.grid)
    labels = torch.zeros(2, 96, 128, dtype=torch.uint8)
    labels[:, :, 40:] = 1
    placed = model.place_by_labels(labels, (12, 16), (32, 48), wide)
    assert torch.equal(placed.grid, model.grid(placed.density, (32, 48), wide))
    assert model.kernel.sigma == 2.0


def test_the_spec_builds_its_density_net(spec: ModelSpec) -> None:
    net = DeformSegmenter(
        replace(spec, density_kernel=5, density_coords=True, density_context=3)
    ).density_net
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim == 4]
    assert shapes == [
        *((24, 5, 5, 5), (24, 24, 5, 5)),
        *((24, 24, 3, 3),) * 3,
        *((3, 24, 5, 5), (1, 3, 1, 1)),
    ]


def test_a_fixed_density_samples_every_window_alike(spec: ModelSpec, image: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = DeformSegmenter(replace(spec, downsampler="fixed")).eval()
    assert model.spec.samplers == ("learned", "uniform")
    ramp = torch.arange(1.0, 17).expand(1, 1, 12, 16)
    model.density_net.density.copy_(ramp / ramp.sum())
    with torch.no_grad():
        found, even = model(image), model(image, sampler="uniform")
    assert torch.equal(found.density, (ramp / ramp.sum()).expand(2, -1, -1, -1))
    assert torch.equal(found.grid[0], found.grid[1])
    expected = sample_image(image, model.grid(found.density, (32, 48)), mode="area")
    assert torch.equal(found.sampled, expected)
    assert float(found.grid[..., 0].mean()) > 0.05  # to the right, where the ramp is high
    assert torch.equal(even.grid, uniform_grid(2, (32, 48)))


def scale_aware(spec: ModelSpec) -> DeformSegmenter:
    torch.manual_seed(3)
    return DeformSegmenter(replace(spec, scale_aware=True)).eval()


def test_a_network_that_knows_the_scale_gets_the_spacing(spec: ModelSpec) -> None:
    """Stretched by two along the rows, and at half of the samples: log2 is 1."""
    model = scale_aware(spec)
    seen: list[torch.Tensor] = []
    model.segmenter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    h, w = spec.sample_size
    own = uniform_grid(1, (h, w))
    stretched = own.clone()
    stretched[..., 0] *= 2
    image = torch.randn(1, 3, h, w)
    with torch.no_grad():
        model.segment(image, own)
        model.segment(image, stretched)
        model.segment(image[..., : h // 2, : w // 2], uniform_grid(1, (h // 2, w // 2)))
    for view, (along_row, along_column), (rows, columns) in zip(
        seen, ((0, 0), (1, 0), (1, 1)), ((h, w), (h, w), (h // 2, w // 2)), strict=True
    ):
        assert view.shape[1] == 5
        spacing = view[0, 3:, :rows, :columns]
        torch.testing.assert_close(spacing[0], torch.full((rows, columns), float(along_row)))
        torch.testing.assert_close(spacing[1], torch.full((rows, columns), float(along_column)))


def test_a_network_that_knows_the_scale_trains_and_asks_for_the_grid(
    spec: ModelSpec, image: torch.Tensor
) -> None:
    model = scale_aware(spec)
    prediction = model(image)
    with torch.no_grad():
        again = model.segment(prediction.sampled, prediction.grid)
        uniform = model(image, sampler="uniform").logits
        other = model.segment(prediction.sampled, uniform_grid(2, (32, 48)))
    assert torch.equal(prediction.logits.detach(), again)
    assert not torch.equal(again, other)
    assert uniform.shape == again.shape
    prediction.logits.square().mean().backward()
    first = next(p for p in model.segmenter.parameters() if p.ndim == 4 and p.shape[1] == 5)
    assert first.grad is not None
    assert first.grad[:, 3:].abs().max() > 0
    with pytest.raises(ConfigError, match="give their grid"):
        model.segment(prediction.sampled)
