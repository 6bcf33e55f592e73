from __future__ import annotations

import numpy as np
import pytest

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import ConfigError, DatasetError

SCHEME = ClassScheme(("land", "water"), ((10, 20, 30), (0, 0, 255)))


def test_it_survives_a_round_trip() -> None:
    assert ClassScheme.from_dict(SCHEME.to_dict()) == SCHEME


def test_colours_become_ids_and_ignored_ones_nodata() -> None:
    mask = np.array([[[10, 20, 30], [0, 0, 255], [9, 9, 9]]], np.uint8)
    assert SCHEME.encode_rgb(mask, ignore=((9, 9, 9),)).tolist() == [[0, 1, NODATA_CLASS]]


def test_an_unlisted_colour_is_an_error_that_names_it() -> None:
    mask = np.array([[[10, 20, 30], [1, 2, 3]]], np.uint8)
    with pytest.raises(DatasetError, match=r"a\.png has 1 pixels of unlisted colours.*#010203"):
        SCHEME.encode_rgb(mask, where="a.png")


def test_a_known_colour_beside_nodata_value_is_not_mistaken() -> None:
    # 255 is the id of "no data", so a class that is really present must never be confused with it
    assert SCHEME.encode_rgb(np.full((2, 2, 3), (0, 0, 255), np.uint8)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "data",
    [
        {"names": ["a"], "colours": []},
        {"names": ["a", "a"], "colours": [[0, 0, 0], [1, 1, 1]]},
        {"names": ["a"], "colours": [[0, 0, 300]]},
        {"names": []},
        {"names": [], "colours": []},
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(data: dict[str, list[object]]) -> None:
    with pytest.raises(ConfigError):
        ClassScheme.from_dict(data)


def test_the_palette_has_the_classes_colours_first() -> None:
    palette = SCHEME.palette()
    assert palette.shape == (256, 3)
    assert palette[1].tolist() == [0, 0, 255]
