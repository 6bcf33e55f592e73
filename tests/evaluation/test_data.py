"""Which items a model is evaluated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_scenes import SHORE, VILLAS, write_dubai

import geodeform
from geodeform.errors import ConfigError, DatasetError
from geodeform.evaluation.data import open_evaluation_data
from geodeform.models.spec import ModelSpec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dubai")
    write_dubai(folder, tile1=SHORE, tile2=VILLAS, tile7=VILLAS)
    return folder


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    """The packaged model's: trained on all tiles of the Dubai dataset but 7."""
    return geodeform.load_model().spec


def test_a_model_is_evaluated_on_what_it_never_saw(root, spec):
    data = open_evaluation_data("dubai", root, spec=spec)
    assert (data.items, data.split, data.trained_on) == (("7",), "val", ())
    assert data.gsd_m == 1.0
    scene = data.scene("7")
    assert scene.shape == (510, 510)
    other = replace(spec, recipe={"data": {**spec.recipe["data"], "val_items": ["2"]}})
    assert open_evaluation_data("dubai", root, spec=other).items == ("2",)
    asked = open_evaluation_data("dubai", root, spec=other, settings={"data.val_items": ["1"]})
    assert asked.items == ("1",)


def test_items_of_the_training_are_said_to_be_such(root, spec):
    assert open_evaluation_data("dubai", root, spec=spec, split="train").trained_on == ("1", "2")
    named = open_evaluation_data("dubai", root, spec=spec, items=["7", "2", "7"])
    assert (named.items, named.split, named.trained_on) == (("7", "2"), "", ("2",))
    stranger = replace(spec, recipe={})
    assert open_evaluation_data("dubai", root, spec=stranger, split="train").trained_on == ()


def test_the_held_out_items_alone_can_be_evaluated(tmp_path, spec):
    write_dubai(tmp_path, tile7=VILLAS)
    assert open_evaluation_data("dubai", tmp_path, spec=spec).items == ("7",)


def test_the_models_split_is_not_that_of_other_images(tmp_path, spec):
    """Another folder of the same name: there is no tile 7."""
    write_dubai(tmp_path, tile1=SHORE, tile2=VILLAS)
    data = open_evaluation_data("dubai", tmp_path, spec=spec)
    assert len(data.items) == 1
    assert data.trained_on == ()


def test_a_models_crop_is_its_own(root, spec):
    cropped = replace(spec, recipe={"data": {**spec.recipe["data"], "crop": [256, 320]}})
    assert open_evaluation_data("dubai", root, spec=cropped).crop == (256, 320)
    settings = {"data.crop": None, "data.cache": "none"}
    whole = open_evaluation_data("dubai", root, spec=cropped, settings=settings)
    assert whole.crop is None
    assert whole.cache.folder is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"items": ["9"]}, DatasetError, "Item 9 is not in .*, which has 1, 2, 7"),
        ({"settings": {"data.val_items": ["9"]}}, DatasetError, "Item 9 is not in"),
        ({"split": "test"}, DatasetError, "no items for the part 'test'"),
        ({"settings": {"data.colour": 1.0}}, ConfigError, "data.colour has no effect"),
        ({"settings": {"optim.lr": 1.0}}, ConfigError, "optim.lr has no effect"),
        ({"settings": {"data.crop": 5}}, ConfigError, "data.crop"),
    ],
)
def test_what_is_not_there_is_an_error(root, spec, options, error, words):
    with pytest.raises(error, match=words):
        open_evaluation_data("dubai", root, spec=spec, **options)
