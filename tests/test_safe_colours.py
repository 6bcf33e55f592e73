"""Class colours that colour-blind readers can tell apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from geodeform.classes import RGB, ClassScheme, distinct_colours
from geodeform.plot.layers import NODATA_GREY
from geodeform.plot.safe_colours import (
    APART,
    SIGHTS,
    _lab,
    _linear,
    _of_lab,
    safe_scheme,
    smallest_distance,
)
from geodeform.training.datasets.registry import DATASETS

BLIND = [sight for sight in SIGHTS if sight != "normal sight"]


def scheme(*colours: RGB) -> ClassScheme:
    return ClassScheme(tuple(f"class {k}" for k in range(len(colours))), colours)


def hue(colour: RGB) -> tuple[float, float]:
    """Hue angle in degrees, and chroma, of CIE Lab."""
    _, a, b = _lab(_linear(colour))
    return float(np.degrees(np.arctan2(b, a))), float(np.hypot(a, b))


def test_lab_and_its_reverse_are_those_of_another_library():
    torch = pytest.importorskip("torch")
    color = pytest.importorskip("kornia.color")
    colours = np.random.default_rng(0).integers(0, 256, (64, 3))
    ours = _lab(_linear(colours))
    image = torch.tensor(colours.T[None, :, :, None] / 255)
    assert ours == pytest.approx(color.rgb_to_lab(image)[0, :, :, 0].T.numpy(), abs=0.02)
    assert _of_lab(ours) == pytest.approx(_linear(colours), abs=1e-9)
    assert _lab(_linear([(255, 255, 255), (0, 0, 0)])) == pytest.approx(
        np.array([[100, 0, 0], [0, 0, 0]]), abs=1e-3
    )


def test_simulated_sights_confuse_what_such_eyes_confuse():
    """Greys look the same to all; red, green and blue pairs differ by who sees them."""
    greys = [(40, 40, 40), (90, 90, 90), (200, 200, 200)]
    usual = smallest_distance(greys, ["normal sight"])
    for sight in BLIND:
        assert SIGHTS[sight].sum(1) == pytest.approx(1, abs=2e-6)  # white stays white
        assert smallest_distance(greys, [sight]) == pytest.approx(usual, abs=0.01)
    red_green = [(214, 72, 62), (118, 118, 30)]
    blue_green = [(58, 124, 200), (0, 140, 130)]
    for pair, confused, clear in (
        (red_green, "deuteranopia", "tritanopia"),
        (blue_green, "tritanopia", "deuteranopia"),
    ):
        assert smallest_distance(pair, [confused]) < 0.5 * smallest_distance(pair, [clear])
    one_by_one = [smallest_distance(red_green, [sight]) for sight in SIGHTS]
    assert smallest_distance(red_green) == min(one_by_one)


def test_dubai_stays_apart_to_the_deuteranope_in_its_own_hues():
    own = DATASETS["dubai"].classes
    assert smallest_distance(own.colours[0:4:3], ["normal sight"]) > 90  # building, vegetation
    assert smallest_distance(own.colours[0:4:3], ["deuteranopia"]) < 10
    found = safe_scheme(own, NODATA_GREY)
    assert (found.changed, found.apart) == (True, True)
    assert found.classes.names == own.names
    for sight in SIGHTS:
        for pair in combinations([*found.classes.colours, NODATA_GREY], 2):
            assert smallest_distance(pair, [sight]) >= APART
    assert found.distance == smallest_distance([*found.classes.colours, NODATA_GREY])
    for before, after in zip(own.colours, found.classes.colours, strict=True):
        (angle, chroma), (angle_after, _) = hue(before), hue(after)
        if chroma > 10:  # greys have no hue
            assert abs((angle - angle_after + 180) % 360 - 180) < 3
    assert found.classes.colours[2] == own.colours[2]  # nothing comes close to the road's grey


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_published_dataset_gets_colours_of_which_only_many_come_close(name: str):
    own = getattr(DATASETS[name], "classes", None)
    if not isinstance(own, ClassScheme):
        pytest.skip("its classes are the data's")
    found = safe_scheme(own, NODATA_GREY)
    before = smallest_distance([*own.colours, NODATA_GREY])
    assert found.distance == smallest_distance([*found.classes.colours, NODATA_GREY])
    assert found.changed == (found.classes.colours != own.colours)
    assert len(set(found.classes.colours)) == len(own)
    if len(own) <= 12:
        assert found.apart
    else:
        assert found.distance > 2 * before


def test_deepglobe_and_camvid_are_changed_and_apart():
    """DeepGlobe's white is near the grey of unknown; CamVid has eleven classes."""
    for name in ("deepglobe", "camvid"):
        found = safe_scheme(DATASETS[name].classes, NODATA_GREY)
        assert found.changed
        assert found.distance >= APART
        assert safe_scheme(DATASETS[name].classes, NODATA_GREY) == found  # the same again


def test_colours_that_are_apart_are_kept():
    own = scheme((0, 0, 0), (0, 114, 178), (230, 159, 0))
    found = safe_scheme(own, NODATA_GREY)
    assert found.classes is own
    assert (found.changed, found.apart) == (False, True)


def test_a_single_class_is_kept_apart_from_no_data():
    found = safe_scheme(scheme((225, 225, 225)), NODATA_GREY)
    assert found.changed
    assert smallest_distance([found.classes.colours[0], NODATA_GREY]) >= APART


def test_of_more_classes_than_there_are_colours_for_all_stay_as_they_are():
    own = scheme(*distinct_colours(150))
    found = safe_scheme(own, NODATA_GREY)
    assert found.classes is own
    assert (found.changed, found.apart) == (False, False)
    assert found.distance < 2
