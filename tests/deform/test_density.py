from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from geodeform.deform import density as dn

UNKNOWN = 255


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def two_halves(h: int = 12, w: int = 20) -> Tensor:
    labels = torch.zeros(1, h, w, dtype=torch.uint8)
    labels[..., w // 2 :] = 1
    return labels


# --- densities -----------------------------------------------------------------------------------


def test_uniform_density_sums_to_one() -> None:
    d = dn.uniform_density(3, (5, 7), dtype=torch.float64)
    assert d.shape == (3, 1, 5, 7)
    torch.testing.assert_close(d.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))
    assert d.min() == d.max()


def test_softmax_of_half_precision_stays_positive_and_sums_to_one() -> None:
    logits = (3 * torch.randn(2, 1, 300, 300)).half()
    d = dn.softmax_density(logits)
    assert d.dtype == torch.float32
    assert d.min() > 0
    torch.testing.assert_close(d.sum((1, 2, 3)), torch.ones(2), rtol=1e-5, atol=0)


def test_temperature_flattens() -> None:
    logits = torch.randn(1, 1, 9, 9)
    spread = [float(dn.softmax_density(logits, t).std()) for t in (0.5, 1, 2, 100)]
    assert spread == sorted(spread, reverse=True)
    with pytest.raises(ValueError, match="temperature must be positive"):
        dn.softmax_density(logits, 0)


def test_normalise_keeps_ratios_and_lifts_zeros() -> None:
    scores = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    d = dn.normalise(scores)
    assert d.min() > 0
    torch.testing.assert_close(d[0, 0], scores[0, 0] / 8, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(d[1], torch.full((1, 2, 2), 0.25))


def test_mix_uniform_keeps_the_sum() -> None:
    d = dn.softmax_density(torch.randn(2, 1, 6, 8))
    mixed = dn.mix_uniform(d, 0.25)
    torch.testing.assert_close(mixed.sum((1, 2, 3)), torch.ones(2))
    assert mixed.min() >= 0.25 / 48
    torch.testing.assert_close(dn.mix_uniform(d, 0), d)
    with pytest.raises(ValueError, match="share must lie"):
        dn.mix_uniform(d, 1.5)


@pytest.mark.parametrize("function", [dn.softmax_density, dn.normalise])
def test_a_density_of_two_channels_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 1, hd, wd\), got \(1, 2, 3, 3\)"):
        function(torch.zeros(1, 2, 3, 3))  # type: ignore[operator]


def test_minmax_is_per_sample_and_constants_become_zeros() -> None:
    values = torch.stack((torch.tensor([[2.0, 4.0], [3.0, 6.0]]), torch.full((2, 2), 7.0)))
    torch.testing.assert_close(
        dn.minmax(values), torch.tensor([[[0, 0.5], [0.25, 1]], [[0, 0], [0, 0]]])
    )


def test_minmax_does_not_stretch_the_rounding_of_a_softmax() -> None:
    almost = dn.uniform_density(1, (30, 30)).clone()
    almost[..., 3, 4] = torch.nextafter(almost[..., 3, 4], torch.tensor(1.0))
    assert dn.minmax(almost).abs().max() == 0


def test_gradients_are_exact_and_finite_on_constants() -> None:
    logits = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dn.softmax_density, logits)
    assert torch.autograd.gradcheck(dn.minmax, logits)
    assert torch.autograd.gradcheck(lambda x: dn.normalise(x.exp()), logits)
    constant = torch.zeros(1, 1, 4, 4, requires_grad=True)
    dn.minmax(constant).sum().backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


# --- edge target ---------------------------------------------------------------------------------


def literal_edge_target(labels: np.ndarray, n_classes: int, sigma: float) -> np.ndarray:
    """The definition pixel by pixel, in float64, for labels without unknown pixels."""
    h, w = labels.shape
    radius = int(np.ceil(4 * sigma))
    total = np.zeros((h, w))
    for c in range(n_classes):
        one = (labels == c).astype(np.float64)
        blurred = np.zeros((h, w))
        for y in range(h):
            for x in range(w):
                weights = values = 0.0
                for v in range(max(0, y - radius), min(h, y + radius + 1)):
                    for u in range(max(0, x - radius), min(w, x + radius + 1)):
                        k = np.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * sigma**2))
                        weights += k
                        values += k * one[v, u]
                blurred[y, x] = values / weights
        padded = np.pad(blurred, 1, mode="edge")
        response = 9 * blurred
        for v in range(3):
            for u in range(3):
                response -= padded[v : v + h, u : u + w]
        total += np.maximum(response, 0)
    return total


def test_edge_target_against_the_definition() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (9, 11))
    labels[:, 6:] = 2
    found = dn.edge_target(torch.from_numpy(labels)[None], 4)[0, 0].numpy()
    np.testing.assert_allclose(found, literal_edge_target(labels, 4, 1.0), atol=1e-4)


def test_the_edge_lies_at_the_border_and_nowhere_else() -> None:
    edge = dn.edge_target(two_halves(12, 20), 2)[0, 0]
    assert edge.shape == (12, 20)
    # The Laplacian of a blurred step is largest one standard deviation to either side of it.
    assert edge[:, 8:12].min() > 2 * edge[:, [7, 12]].max()
    torch.testing.assert_close(edge, edge.flip(1), atol=1e-5, rtol=0)
    assert edge[:, :4].max() == 0  # beyond the blur
    assert edge[:, 16:].max() == 0
    torch.testing.assert_close(edge, edge[:1].expand_as(edge), atol=1e-5, rtol=0)  # image border


@pytest.mark.parametrize("labels", [torch.zeros(1, 8, 8), torch.full((1, 8, 8), 255)])
def test_no_border_no_edge(labels: Tensor) -> None:
    assert dn.edge_target(labels.long(), 3).abs().max() == 0


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(6)), st.integers(0, 1000))
def test_permuting_class_ids_changes_nothing(order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 6, (1, 4, 5), generator=generator).repeat_interleave(4, -1)
    labels[0, 1, :3] = UNKNOWN
    table = torch.arange(256)
    table[:6] = torch.tensor(order)
    first, second = dn.edge_target(labels, 6), dn.edge_target(table[labels], 6)
    assert first.max() > 0
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 2.0])
def test_a_border_with_unknown_pixels_is_no_edge(sigma: float) -> None:
    labels = torch.full((1, 16, 16), UNKNOWN, dtype=torch.uint8)
    labels[..., :7] = 1
    labels[..., 5, 3] = UNKNOWN
    assert dn.edge_target(labels, 3, blur_sigma=sigma).abs().max() == 0


def test_unknown_pixels_on_an_edge_are_zero_and_leave_the_edge_beside_them() -> None:
    labels = two_halves()
    labels[:, 3:9, 6:14] = UNKNOWN
    edge = dn.edge_target(labels, 2)[0, 0]
    assert edge[3:9, 6:14].abs().max() == 0
    whole = dn.edge_target(two_halves(), 2)[0, 0]
    torch.testing.assert_close(edge[0], whole[0], atol=0.05, rtol=0)  # blur reaches over 3 rows
    assert edge[0, 9] > 0.5 * whole[0, 9]


def test_labels_of_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label 7 is neither a class of 0…2 nor 255"):
        dn.edge_target(torch.full((1, 3, 3), 7), 3)
    with pytest.raises(ValueError, match=r"labels must be \(B, h, w\)"):
        dn.edge_target(torch.zeros(3, 3).long(), 3)


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    pooled = torch.nn.functional.max_pool2d(
        torch.from_numpy(mask)[None].float(), 2 * radius + 1, stride=1, padding=radius
    )
    return pooled[0].numpy() > 0


def test_edges_of_a_real_mask_hold_its_class_borders(shared_data: Path) -> None:
    path = shared_data / "dubai" / "Tile 6" / "masks" / "image_part_005.png"
    rgb = np.asarray(Image.open(path).convert("RGB"))[::2, ::2]
    _, labels = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    labels = labels.reshape(rgb.shape[:2])
    edge = dn.edge_target(torch.from_numpy(labels)[None], int(labels.max()) + 1)[0, 0].numpy()
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    assert 0.01 < border.mean() < 0.2
    near = dilated(border, 6)  # blur 4, filter 1, and the border drawn on one side
    assert edge[border].mean() > 0.3
    assert edge[~near].max() == 0


def test_weights_count_each_class_on_its_own_side() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (8, 9))
    weights = np.array([0.5, 0.0, 2.5])
    tensor = torch.from_numpy(labels)[None]
    # each class alone, by the definition: its positive part
    parts = []
    for c in range(3):
        alone = torch.zeros(3)
        alone[c] = 1
        parts.append(dn.edge_target(tensor, 3, class_weights=alone)[0, 0].numpy())
        by_definition = literal_edge_target(np.where(labels == c, 0, 1), 1, 1.0)
        np.testing.assert_allclose(parts[c], by_definition, atol=1e-4)
    found = dn.edge_target(tensor, 3, class_weights=torch.tensor(weights, dtype=torch.float32))
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-5)
    ones = dn.edge_target(tensor, 3, class_weights=torch.ones(3))
    assert torch.equal(ones, dn.edge_target(tensor, 3))


def test_a_side_of_a_border_weighs_what_its_class_does() -> None:
    plain = dn.edge_target(two_halves(), 2)[0, 0]
    found = dn.edge_target(two_halves(), 2, class_weights=torch.tensor([1.0, 3.0]))[0, 0]
    torch.testing.assert_close(found[:, :10], plain[:, :10])
    torch.testing.assert_close(found[:, 10:], 3 * plain[:, 10:])


def test_weights_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"class_weights must be \(2,\), got \(3,\)"):
        dn.edge_target(two_halves(), 2, class_weights=torch.ones(3))


def test_resizing_keeps_the_sum_and_the_place() -> None:
    density = dn.normalise(torch.rand(2, 1, 6, 8))
    assert dn.resize_density(density, (6, 8)) is density
    for size in ((12, 16), (3, 4), (5, 11), (1, 1)):
        fitted = dn.resize_density(density, size)
        assert fitted.shape == (2, 1, *size)
        assert fitted.min() > 0
        torch.testing.assert_close(fitted.sum((1, 2, 3)), torch.ones(2))
    ramp = dn.normalise(torch.arange(1.0, 9).expand(1, 1, 6, 8))
    halved = dn.resize_density(ramp, (6, 4))  # each in the middle of two: their mean
    pairs = ramp.view(1, 1, 6, 4, 2).sum(-1)
    torch.testing.assert_close(halved, pairs)
