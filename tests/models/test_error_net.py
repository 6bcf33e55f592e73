"""ErrorNet: expected errors that rise with the spacing and fit what was wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodeform.errors import ConfigError
from geodeform.models.error_net import (
    KNOTS,
    USUAL_RISE,
    ErrorNet,
    at_spacing,
    beyond,
    error_loss,
    spacing_in_view,
)
from geodeform.models.model_file import load_model, save_model


def a_net(seed: int = 0) -> ErrorNet:
    torch.manual_seed(seed)
    net = ErrorNet(3, 4).eval()
    with torch.no_grad():
        net.layers[-1].weight.mul_(50)  # cells and classes differ
    return net


@given(
    hd=st.integers(1, 70),
    wd=st.integers(1, 70),
    finer=st.floats(0.01, 20),
    factor=st.floats(1, 50),
)
def test_sparser_samples_are_never_expected_to_be_better(hd, wd, finer, factor):
    with torch.no_grad():
        log_shares = a_net()(torch.randn(2, 3, hd, wd))
    assert log_shares.shape == (2, 4, len(KNOTS), -(-hd // 8), -(-wd // 8))
    assert bool((at_spacing(log_shares, finer * factor) >= at_spacing(log_shares, finer)).all())


def test_shares_between_knots_lie_between_theirs():
    log_shares = torch.arange(len(KNOTS), dtype=torch.float32).view(1, 1, -1, 1, 1)
    for number, knot in enumerate(KNOTS):
        assert float(at_spacing(log_shares, knot)) == number
    assert float(at_spacing(log_shares, 2**0.5)) == pytest.approx(3.5)
    assert float(at_spacing(log_shares, 1e-3)) == 0
    assert float(at_spacing(log_shares, 1e3)) == len(KNOTS) - 1
    assert spacing_in_view((64, 64), (128, 128)) == 0.5
    assert spacing_in_view((32, 64), (16, 16)) == pytest.approx(8**0.5)


def test_errors_go_on_beyond_the_trained_spacings_as_inside():
    log_shares = torch.tensor([-4.0, -3.9, -3.0, -2.0, -1.9, 0.0, 0.0]).view(1, 1, -1, 1, 1)
    trained = (0.5, 1.0)  # the third and fourth knot, a power of 1/ln 2
    for spacing, expected in (
        (0.5, -3.0),
        (1.0, -2.0),
        (0.5**0.5, -2.5),
        (2.0, -1.0),
        (0.25, -4.0),
    ):
        assert float(beyond(log_shares, spacing, trained)) == pytest.approx(expected)
    usual = float(beyond(log_shares, 2.0, (0.5, 0.5)))
    assert usual == pytest.approx(-3.0 + USUAL_RISE * math.log(4))


def test_an_untrained_net_expects_the_same_everywhere():
    torch.manual_seed(0)
    with torch.no_grad():
        shares = ErrorNet(3, 5)(torch.randn(4, 3, 64, 64)).exp().sum(1)  # over classes
    finest, coarsest = shares[:, 0], shares[:, -1]
    assert float(finest.min()) > 0.03
    assert float(finest.max()) < 0.08
    assert 0.2 < float(coarsest.min()) < float(coarsest.max()) < 0.5


def test_the_loss_is_least_where_shares_are_the_frequencies():
    # one cell, class 1 wrong at three of eight places, class 0 at one; two are unknown
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 255, 255]])
    wrong = torch.tensor([[True, False, False, True, True, True, False, False, True, False]])
    positions = torch.rand(1, 10, 2) * 2 - 1
    rates = torch.tensor([1 / 8, 3 / 8, 1e-9])
    log_shares = rates.log().view(1, 3, 1, 1, 1).repeat(1, 1, len(KNOTS), 1, 1).requires_grad_()
    error_loss(log_shares, 1.0, positions, labels, wrong).backward()
    assert float(log_shares.grad.abs().max()) < 1e-6
    none = torch.full_like(labels, 255)
    assert float(error_loss(log_shares.detach(), 1.0, positions, none, wrong)) == 0


def test_places_belong_to_their_cells():
    """What is wrong in one corner teaches that corner's cell alone."""
    log_shares = torch.full((1, 2, len(KNOTS), 2, 3), -3.0, requires_grad=True)
    positions = torch.tensor([[[0.9, -0.9], [0.8, -0.2]]])  # right, upper half: row 0, column 2
    labels, wrong = torch.tensor([[1, 1]]), torch.tensor([[True, True]])
    error_loss(log_shares, KNOTS[2], positions, labels, wrong).backward()
    gradient = log_shares.grad[0]
    touched = gradient.abs().sum((0, 1)) > 0
    assert touched.tolist() == [[False, False, True], [False, False, False]]
    assert float(gradient[1, 2, 0, 2]) < 0 < float(gradient[0, 2, 0, 2])  # more of 1, less of 0


def test_a_model_without_one_says_so(spec):
    from geodeform.models.deform_segmenter import DeformSegmenter

    model = DeformSegmenter(spec).eval()
    with pytest.raises(ConfigError, match="does not know how wrong it is"):
        model.expected_errors(torch.zeros(1, 3, 32, 32), [(16, 16)])


def test_a_file_keeps_it(spec, tmp_path):
    from geodeform.models.deform_segmenter import DeformSegmenter

    torch.manual_seed(0)
    model = DeformSegmenter(replace(spec, error_net=True)).eval()
    save_model(model, tmp_path / "m.safetensors", half=False)
    view = torch.randn(2, spec.in_channels, 32, 32)
    sizes = [(16, 16), (32, 32), (64, 64)]
    with torch.inference_mode():
        errors = model.expected_errors(view, sizes)
        again = load_model(tmp_path / "m.safetensors").expected_errors(view, sizes)
    assert errors.shape == (2, 3, spec.n_classes, 4, 4)
    assert bool((errors[:, 0] >= errors[:, 1]).all())
    assert bool((errors <= 1).all())
    torch.testing.assert_close(again, errors)
    torch.manual_seed(0)
    without = DeformSegmenter(spec)
    for name, value in without.state_dict().items():  # and changes nothing else
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
