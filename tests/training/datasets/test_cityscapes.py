"""Cityscapes: ids, split and layout, on a small tree of real crops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import Split
from geodeform.training.datasets.cityscapes import Cityscapes

AACHEN = "aachen_000000_000019"
BOCHUM = "bochum_000000_000313"
LINDAU = "lindau_000000_000019"
BOX = (200, 130, 296, 178)  # of CamVid's images: nine of its classes and void

# CamVid's classes as ids of Cityscapes' label files: sky, building, pole, road, sidewalk,
# vegetation, traffic sign, fence, car, person, rider, and void as "unlabeled"
CAMVID_AS_IDS = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0], np.uint8)
CAMVID_AS_TRAIN_IDS = np.array([10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12, 255], np.uint8)


def label_path(root, part, item, suffix="labelIds"):
    return root / "gtFine" / part / item.partition("_")[0] / f"{item}_gtFine_{suffix}.png"


@pytest.fixture
def root(shared_data, tmp_path):
    """Two training cities, a validation and a test city, cut from real street scenes."""
    names = sorted((shared_data / "camvid" / "val").iterdir())
    parts = (("train", AACHEN), ("train", BOCHUM), ("val", LINDAU), ("test", "berlin_0_1"))
    for source, (part, item) in zip(names, parts, strict=False):
        image = tmp_path / "leftImg8bit" / part / item.partition("_")[0]
        image.mkdir(parents=True)
        labels = label_path(tmp_path, part, item)
        labels.parent.mkdir(parents=True)
        with Image.open(source) as picture:
            picture.convert("RGB").crop(BOX).save(image / f"{item}_leftImg8bit.png")
        with Image.open(shared_data / "camvid" / "valannot" / f"{source.stem}.png") as mask:
            ids = CAMVID_AS_IDS[np.asarray(mask.crop(BOX))]
        # as published: test label files are there, but hold nothing
        Image.fromarray(ids if part != "test" else np.zeros_like(ids)).save(labels)
    return tmp_path


def test_real_crops_keep_their_classes(root, shared_data, caplog):
    dataset = Cityscapes(root)
    assert dataset.items == (AACHEN, BOCHUM, LINDAU)
    assert "has 2 of 2975 train images" in caplog.text
    scene = dataset.load(LINDAU)
    source = sorted((shared_data / "camvid" / "valannot").iterdir())[2]
    with Image.open(source) as mask:
        expected = CAMVID_AS_TRAIN_IDS[np.asarray(mask.crop(BOX))]
    assert len(np.unique(expected)) >= 8
    assert np.array_equal(scene.labels, expected)
    assert scene.image.shape == (48, 96, 3)
    with Image.open(dataset.files(LINDAU)[0]) as image:
        assert np.array_equal(scene.image, np.asarray(image))


def test_the_split_is_the_published_one_without_test(root):
    assert Cityscapes(root).split() == Split((AACHEN, BOCHUM), (LINDAU,), ())


def test_all_34_ids_are_mapped_as_published(root):
    path = label_path(root, "train", AACHEN)
    ids = np.resize(np.arange(34, dtype=np.uint8), (48, 96))
    Image.fromarray(ids).save(path)
    labels = Cityscapes(root).load(AACHEN).labels
    # the table of the dataset's scripts, id by id
    expected = [
        *([255] * 7), 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9,
        *(10, 11, 12, 13, 14, 15), 255, 255, 16, 17, 18,
    ]  # fmt: skip
    assert labels.ravel()[:34].tolist() == expected
    names = Cityscapes.classes.names
    assert [names[expected[id_]] for id_ in (7, 23, 26, 31, 33)] == [
        "road",
        "sky",
        "car",
        "train",
        "bicycle",
    ]


def test_train_ids_are_read_where_they_are_the_only_labels(root):
    path = label_path(root, "train", AACHEN)
    expected = Cityscapes(root).load(AACHEN).labels
    Image.fromarray(expected).save(label_path(root, "train", AACHEN, "labelTrainIds"))
    assert Cityscapes(root).files(AACHEN)[1] == path
    path.unlink()
    dataset = Cityscapes(root)
    assert dataset.files(AACHEN)[1].name.endswith("_gtFine_labelTrainIds.png")
    assert np.array_equal(dataset.load(AACHEN).labels, expected)


@pytest.mark.parametrize(("suffix", "value"), [("labelIds", 34), ("labelTrainIds", 19)])
def test_unlisted_ids_are_errors(root, suffix, value):
    label_path(root, "val", LINDAU).unlink()
    Image.new("L", (96, 48), value).save(label_path(root, "val", LINDAU, suffix))
    with pytest.raises(DatasetError, match=rf"{suffix}\.png has pixels of the unlisted id {value}"):
        Cityscapes(root).load(LINDAU)


def test_a_missing_label_file_is_named(root):
    label_path(root, "train", BOCHUM).unlink()
    with pytest.raises(
        DatasetError, match=rf"'gtFine/train/bochum/{BOCHUM}_gtFine_labelIds\.png', the labels of"
    ):
        Cityscapes(root)


def test_an_image_in_two_parts_is_an_error(root):
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / "val" / "aachen").symlink_to(root / folder / "train" / "aachen")
    with pytest.raises(DatasetError, match=rf"{AACHEN} is there twice, as .*train.* and .*val"):
        Cityscapes(root)


def test_sizes_must_agree(root):
    Image.new("L", (96, 47)).save(label_path(root, "val", LINDAU))
    with pytest.raises(DatasetError, match=r"labelIds\.png is 96 x 47 px but its image"):
        Cityscapes(root).load(LINDAU)


def test_a_colour_label_is_an_error(root):
    Image.new("RGB", (96, 48)).save(label_path(root, "val", LINDAU))
    with pytest.raises(DatasetError, match="is a colour image"):
        Cityscapes(root).load(LINDAU)


def test_wrong_layouts_show_what_is_expected(root):
    with pytest.raises(DatasetError) as caught:
        Cityscapes(root / "leftImg8bit")
    assert "gtFine/train/CITY/*_gtFine_labelIds.png" in str(caught.value)
    assert "train/ aachen, bochum" in str(caught.value)
