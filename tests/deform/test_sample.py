from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from geodeform.deform import sample as sm
from geodeform.deform.coords import grid_to_pixels, pixels_to_grid
from geodeform.deform.density import softmax_density
from geodeform.deform.grid import GridKernel, density_to_grid, magnification, uniform_grid

lengths = st.integers(1, 60)
seeds = st.integers(0, 10_000)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def warped_grid(size: tuple[int, int], seed: int = 0, contrast: float = 2.0) -> Tensor:
    """A float64 grid that is dense here and sparse there."""
    generator = torch.Generator().manual_seed(seed)
    logits = contrast * torch.randn(1, 1, 24, 24, generator=generator, dtype=torch.float64)
    return density_to_grid(softmax_density(logits), size, GridKernel(3.0))


def ramps(H: int, W: int) -> Tensor:
    """(1, 2, H, W) float64: each pixel holds the (x, y) of its own centre."""
    y, x = torch.meshgrid(
        torch.arange(H, dtype=torch.float64) + 0.5,
        torch.arange(W, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y)).unsqueeze(0)


# --- pyramid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 8), (17, 9), (31, 64), (1, 13), (5, 1), (1, 1), (63, 65)])
def test_every_level_covers_the_frame(size: tuple[int, int]) -> None:
    """The pixels of each level hold the mean position of their own equal share of the frame."""
    pyramid = sm.build_pyramid(ramps(*size), 20)
    assert pyramid[-1].shape[-2:] == (1, 1)
    for level in pyramid:
        h, w = level.shape[-2:]
        torch.testing.assert_close(level[0, 0, 0], (torch.arange(w) + 0.5).double() * size[1] / w)
        torch.testing.assert_close(
            level[0, 1, :, 0], (torch.arange(h) + 0.5).double() * size[0] / h
        )


@settings(deadline=None)
@given(lengths, lengths, seeds)
def test_levels_are_area_means(H: int, W: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 2, H, W, generator=generator, dtype=torch.float64)
    for finer, coarser in zip((levels := sm.build_pyramid(image, 3))[:-1], levels[1:], strict=True):
        size = (coarser.shape[-2], coarser.shape[-1])
        assert size == (max(1, finer.shape[-2] // 2), max(1, finer.shape[-1] // 2))
        # Odd sizes keep ramps in place, for which shares differ from those of area by up to 1/8k.
        odd = [n for n in finer.shape[-2:] if n % 2 and n > 1]
        slack = sum(1 / (4 * (n // 2)) for n in odd)
        expected = area_reference(finer, size)
        torch.testing.assert_close(coarser, expected, atol=slack + 1e-12, rtol=0)


def test_even_levels_are_two_by_two_means() -> None:
    image = torch.rand(2, 3, 8, 12)
    expected = torch.nn.functional.avg_pool2d(image, 2)
    torch.testing.assert_close(sm.build_pyramid(image, 2)[1], expected)


def test_the_pyramid_ends_where_asked() -> None:
    image = torch.rand(1, 1, 33, 20)
    assert [tuple(p.shape[-2:]) for p in sm.build_pyramid(image, 3)] == [(33, 20), (16, 10), (8, 5)]
    assert len(sm.build_pyramid(image, 99)) == 6
    assert sm.build_pyramid(image, 1)[0] is image
    with pytest.raises(ValueError, match="at least one level"):
        sm.build_pyramid(image, 0)


# --- area averages -------------------------------------------------------------------------------


def area_reference(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut every pixel into size parts along each axis: then all rectangles hold whole parts."""
    H, W = image.shape[-2:]
    fine = image.repeat_interleave(size[0], -2).repeat_interleave(size[1], -1)
    return torch.nn.functional.avg_pool2d(fine, (H, W))


@settings(deadline=None)
@given(lengths, lengths, st.integers(1, 25), st.integers(1, 25), seeds)
def test_area_downsample_against_cutting_pixels(H: int, W: int, h: int, w: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 2, H, W, generator=generator, dtype=torch.float64)
    found = sm.area_downsample(image, (h, w))
    torch.testing.assert_close(found, area_reference(image, (h, w)))
    torch.testing.assert_close(found.mean(), image.mean())


def test_area_downsample_of_a_ramp_has_no_bias() -> None:
    found = sm.area_downsample(ramps(100, 77).float(), (13, 10))
    expected = grid_to_pixels(uniform_grid(1, (13, 10)), (100, 77))[0].movedim(-1, 0)
    # A cut pixel counts as if its value lay at its centre: at most 1/8 pixel² off, on either side.
    torch.testing.assert_close(found[0], expected, atol=0.25 / 7.69, rtol=0)
    torch.testing.assert_close(found.mean((2, 3)), expected.mean((1, 2))[None], rtol=1e-6, atol=0)


def test_area_downsample_is_deterministic_under_autocast_and_after_inference() -> None:
    image = torch.rand(1, 3, 40, 37)
    with torch.inference_mode():
        first = sm.area_downsample(image, (7, 9))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sm.area_downsample(image, (7, 9)), first)
    sm.area_downsample(image.requires_grad_(), (7, 9)).sum().backward()
    assert image.grad is not None
    torch.testing.assert_close(image.grad.sum(), torch.tensor(3.0 * 7 * 9))


# --- images --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["area", "bilinear"]), lengths, lengths, lengths, lengths, seeds,
    st.floats(-1000, 1000, width=32),
)  # fmt: skip
def test_constants_stay_constant(
    mode: sm.SampleMode, H: int, W: int, h: int, w: int, seed: int, value: float
) -> None:
    image = torch.full((1, 2, H, W), value)
    sampled = sm.sample_image(image, warped_grid((h, w), seed).float(), mode=mode)
    assert sampled.shape == (1, 2, h, w)
    torch.testing.assert_close(sampled, torch.full_like(sampled, value), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.integers(2, 200), lengths, lengths, seeds)
def test_ramps_read_their_own_coordinate(H: int, W: int, h: int, w: int, seed: int) -> None:
    """Sampling (x, y) gives (x, y), away from the border's half pixel (of the level in use)."""
    grid = warped_grid((h, w), seed)
    wanted = grid_to_pixels(grid, (H, W))[0]
    for mode in ("bilinear", "area"):
        pyramid = sm.build_pyramid(ramps(H, W), 4 if mode == "area" else 1)
        found = sm.sample_image(pyramid, grid, mode=mode)[0].movedim(0, -1)  # type: ignore[arg-type]
        coarsest = pyramid[-1].shape[-2:]
        for axis, (size, count) in enumerate(((W, coarsest[1]), (H, coarsest[0]))):
            margin = size / count / 2
            inside = (wanted[..., axis] >= margin) & (wanted[..., axis] <= size - margin)
            error = (found - wanted)[..., axis][inside].abs()
            assert error.numel() == 0 or error.max() < 1e-8


def test_ramp_in_single_precision() -> None:
    """The tolerance in float32: a thousandth of a pixel in a window of 2448."""
    grid = warped_grid((128, 128)).float()
    wanted = grid_to_pixels(grid, (2448, 2447))[0]
    found = sm.sample_image(ramps(2448, 2447).float(), grid)[0].movedim(0, -1)
    coarsest = 2 ** math.ceil(float(sm.mip_level(grid, (2448, 2447)).max()))
    inside = ((wanted > coarsest) & (wanted < 2447 - coarsest)).all(-1)
    assert inside.double().mean() > 0.8
    error = (found - wanted)[inside]
    assert error.abs().max() < 2e-3
    assert error.mean().abs() < 1e-4


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_a_uniform_grid_at_powers_of_two_gives_exact_area_means(step: int) -> None:
    image = torch.rand(2, 3, 16 * step, 24 * step, dtype=torch.float64)
    grid = uniform_grid(2, (16, 24), dtype=torch.float64)
    found = sm.sample_image(image, grid)
    torch.testing.assert_close(found, sm.area_downsample(image, (16, 24)))


def test_area_removes_what_a_point_aliases() -> None:
    y, x = torch.meshgrid(torch.arange(240), torch.arange(240), indexing="ij")
    board = ((x + y) % 2).double()[None, None]
    grid = warped_grid((24, 24))
    assert sm.sample_image(board, grid, mode="bilinear").std() > 0.1
    assert sm.sample_image(board, grid).std() < 1e-3
    assert sm.mip_level(grid, (240, 240)).min() > 1


def test_where_samples_are_dense_area_is_bilinear() -> None:
    image = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    grid = uniform_grid(1, (33, 47), dtype=torch.float64)
    torch.testing.assert_close(
        sm.sample_image(image, grid), sm.sample_image(image, grid, mode="bilinear")
    )


def test_levels_blend_linearly_between_their_own() -> None:
    """Decimation 2√2·2 lies halfway between levels 1 and 2."""
    size = 363  # 64 samples of 363/64 = 5.67 ≈ 4√2 pixels
    image = torch.rand(1, 1, size, size, dtype=torch.float64)
    grid = uniform_grid(1, (64, 64), dtype=torch.float64)
    level = sm.mip_level(grid, (size, size))
    torch.testing.assert_close(
        level, torch.full_like(level, math.log2(size / 64) - 1), rtol=1e-9, atol=0
    )
    pyramid = sm.build_pyramid(image, 4)
    one, two = (sm.sample_image(pyramid[i], grid, mode="bilinear") for i in (1, 2))
    share = math.log2(size / 64) - 2
    torch.testing.assert_close(
        sm.sample_image(image, grid), (1 - share) * one + share * two, rtol=1e-9, atol=0
    )


def test_a_given_pyramid_is_the_same_and_a_short_one_ends_at_its_last_level() -> None:
    image = torch.rand(1, 3, 300, 250)
    grid = warped_grid((32, 32)).float()
    whole = sm.sample_image(image, grid)
    assert torch.equal(sm.sample_image(sm.build_pyramid(image, 12), grid), whole)
    short = sm.sample_image([image], grid)
    assert torch.equal(short, sm.sample_image(image, grid, mode="bilinear"))
    assert not torch.equal(short, whole)


def test_each_sample_of_a_batch_is_read_by_its_own_grid() -> None:
    image = torch.rand(2, 3, 90, 80)
    grid = torch.cat((warped_grid((20, 20), 1), uniform_grid(1, (20, 20)).double())).float()
    both = sm.sample_image(image, grid)
    for i in range(2):
        alone = sm.sample_image(image[i : i + 1], grid[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone)


def test_positions_beyond_the_border_read_the_border() -> None:
    image = torch.rand(1, 1, 6, 6)
    grid = torch.tensor([[[[-1.5, -1.2], [1.0, -1.0], [3.0, 1.01]]]])
    found = sm.sample_image(image, grid, mode="bilinear")[0, 0, 0]
    corners = image[0, 0]
    torch.testing.assert_close(found, torch.stack((corners[0, 0], corners[0, -1], corners[-1, -1])))


def test_half_precision_images_are_placed_in_single_precision() -> None:
    image = torch.rand(1, 1, 500, 500).half()
    grid = warped_grid((40, 40)).float()
    found = sm.sample_image(image, grid, mode="bilinear")
    assert found.dtype == torch.float32
    assert torch.equal(found, sm.sample_image(image.float(), grid, mode="bilinear"))


def test_gradients_of_sampling() -> None:
    image = torch.rand(1, 2, 13, 11, dtype=torch.float64, requires_grad=True)
    grid = warped_grid((3, 3)).detach().requires_grad_()
    assert sm.mip_level(grid, (13, 11)).max() > 0.2
    for mode in ("area", "bilinear"):
        assert torch.autograd.gradcheck(
            lambda i, g, mode=mode: sm.sample_image(i, g, mode=mode), (image, grid)
        )
    assert torch.autograd.gradcheck(lambda i: sm.area_downsample(i, (3, 4)), image)


def test_gradients_reach_the_density() -> None:
    logits = torch.randn(1, 1, 12, 12, requires_grad=True)
    grid = density_to_grid(softmax_density(logits), (12, 12), GridKernel(2.0))
    sm.sample_image(torch.rand(1, 3, 96, 96), grid).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 0


def test_nan_grids_do_not_stop_a_training_step() -> None:
    grid = torch.full((1, 4, 4, 2), torch.nan)
    assert sm.sample_image(torch.rand(1, 1, 16, 16), grid).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(
    ("image", "grid", "message"),
    [
        (torch.rand(3, 8, 8), uniform_grid(1, (2, 2)), r"image must be floating point \(B, C"),
        (torch.ones(1, 1, 8, 8, dtype=torch.uint8), uniform_grid(1, (2, 2)), "uint8"),
        (torch.rand(2, 1, 8, 8), uniform_grid(1, (2, 2)), r"grid must be \(2, h, w, 2\)"),
    ],
)
def test_wrong_shapes_are_refused(image: Tensor, grid: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sm.sample_image(image, grid)


def test_wrong_settings_are_refused() -> None:
    image, grid = torch.rand(1, 1, 8, 8), uniform_grid(1, (2, 2))
    with pytest.raises(ValueError, match="mode must be"):
        sm.sample_image(image, grid, mode="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size must be positive"):
        sm.area_downsample(image, (0, 2))
    with pytest.raises(ValueError, match=r"labels must be \(B, H, W\)"):
        sm.sample_labels(torch.ones(8, 8), grid)


# --- labels --------------------------------------------------------------------------------------

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool])
def test_labels_against_the_nearest_centre(dtype: torch.dtype) -> None:
    top = 1 if dtype == torch.bool else torch.iinfo(dtype).max
    numbers = torch.randint(0, 120, (1, 9, 14))
    labels = (top - numbers if dtype != torch.bool else numbers % 2).to(dtype)
    grid = warped_grid((7, 8))
    found = sm.sample_labels(labels, grid)
    assert found.dtype == dtype
    for i in range(7):
        for j in range(8):
            x, y = grid_to_pixels(grid, (9, 14))[0, i, j].tolist()
            row = min(range(9), key=lambda r, y=y: abs(r + 0.5 - y))
            column = min(range(14), key=lambda c, x=x: abs(c + 0.5 - x))
            assert found[0, i, j].item() == labels[0, row, column].item()


def test_ids_beyond_float_precision_survive() -> None:
    labels = torch.tensor([[[2**53 + 1, 2**63 - 1], [-(2**62) - 1, 2**24 + 1]]])
    assert torch.equal(sm.sample_labels(labels, uniform_grid(1, (2, 2))), labels)


@settings(deadline=None)
@given(lengths, lengths)
def test_labels_of_the_identity_grid_are_the_labels(H: int, W: int) -> None:
    labels = torch.randint(0, 255, (2, H, W), dtype=torch.uint8)
    assert torch.equal(sm.sample_labels(labels, uniform_grid(2, (H, W))), labels)


def test_labels_beyond_the_border_are_those_of_the_border() -> None:
    labels = torch.arange(12).view(1, 3, 4)
    grid = torch.tensor([[[[-1.0, -1.0], [1.0, 1.0], [-2.0, 2.0], [1.0, -1.0]]]])
    assert sm.sample_labels(labels, grid).tolist() == [[[0, 11, 8, 3]]]


def test_labels_and_images_agree_about_positions() -> None:
    """At pixel centres both read the pixel itself."""
    labels = torch.randint(0, 9, (1, 30, 20))
    y, x = torch.randint(0, 30, (50,)), torch.randint(0, 20, (50,))
    points = torch.stack((x + 0.5, y + 0.5), -1)
    grid = pixels_to_grid(points, (30, 20)).view(1, 1, 50, 2)
    read = sm.sample_image(labels[:, None].float(), grid, mode="bilinear")[0, 0, 0]
    expected = sm.sample_labels(labels, grid)[0, 0].float()
    torch.testing.assert_close(read, expected, atol=1e-3, rtol=0)


# --- a real scene --------------------------------------------------------------------------------


def test_a_real_scene_keeps_its_mean_and_loses_aliasing(shared_data: Path) -> None:
    path = shared_data / "dubai" / "Tile 6" / "images" / "image_part_005.jpg"
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255
    image = torch.from_numpy(pixels).movedim(-1, 0).unsqueeze(0)
    size = (image.shape[-2], image.shape[-1])
    exact = sm.area_downsample(image, (64, 64))
    torch.testing.assert_close(exact.mean(), image.mean(), atol=1e-4, rtol=0)
    grid = uniform_grid(1, (64, 64))
    error = {
        mode: float((sm.sample_image(image, grid, mode=mode) - exact).square().mean())
        for mode in ("area", "bilinear")
    }
    assert error["area"] < error["bilinear"] / 5
    warped = density_to_grid(
        softmax_density(torch.randn(1, 1, 64, 64)), (64, 64), GridKernel.from_fwhm(16)
    )
    weights = 1 / magnification(warped, size)
    mean = (sm.sample_image(image, warped) * weights).sum((2, 3)) / weights.sum()
    torch.testing.assert_close(mean, image.mean((2, 3)), atol=0.01, rtol=0)
