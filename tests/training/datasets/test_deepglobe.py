"""DeepGlobe: its layouts, its split, its threshold, on the real pairs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import Split
from geodeform.training.datasets.deepglobe import DeepGlobeLandCover

IDS = ("119", "266")


@pytest.fixture
def sample(shared_data):
    return shared_data / "deepglobe_sample"


def original(root, sample, folder="train", items=IDS):
    """The original download: image and mask side by side."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for item in items:
        for suffix in ("_sat.jpg", "_mask.png"):
            (root / folder / f"{item}{suffix}").symlink_to(sample / f"{item}{suffix}")
    return root


def torchgeo(root, sample, part, items):
    """torchgeo's folders."""
    for kind, suffix in (("images", "_sat.jpg"), ("masks", "_mask.png")):
        folder = root / "data" / part / kind
        folder.mkdir(parents=True, exist_ok=True)
        for item in items:
            (folder / f"{item}{suffix}").symlink_to(sample / f"{item}{suffix}")
    return root


def small_pair(root, item, colours=((0, 255, 255),), size=(4, 4)):
    """A tiny pair; the mask repeats the colours along its rows."""
    root.mkdir(parents=True, exist_ok=True)
    mask = np.resize(np.array(colours, np.uint8), (4, 4, 3))
    Image.new("RGB", size, (90, 100, 60)).save(root / f"{item}_sat.jpg")
    Image.fromarray(mask).save(root / f"{item}_mask.png")


def named_pairs(root, items):
    """Pairs of empty files: enough for what only looks at names."""
    root.mkdir(parents=True, exist_ok=True)
    for item in items:
        (root / f"{item}_sat.jpg").touch()
        (root / f"{item}_mask.png").touch()


def test_both_layouts_give_the_same_real_scene(sample, tmp_path):
    first = DeepGlobeLandCover(original(tmp_path / "original", sample))
    second = DeepGlobeLandCover(torchgeo(tmp_path / "torchgeo", sample, "training_data", IDS))
    assert first.items == second.items == IDS
    assert first.gsd_m == 0.5
    scene = first.load("119")
    assert scene.image.shape == (2448, 2448, 3)
    # counted from the mask's colours: urban, agriculture, rangeland, water
    counts = {0: 29401, 1: 4952892, 2: 902649, 4: 107762}
    assert np.bincount(scene.labels.ravel(), minlength=256).nonzero()[0].tolist() == list(counts)
    assert {k: int((scene.labels == k).sum()) for k in counts} == counts
    with Image.open(sample / "119_sat.jpg") as image:
        assert np.array_equal(scene.image[:64], np.asarray(image)[:64])
    again = second.load("119")
    assert np.array_equal(again.image, scene.image)
    assert np.array_equal(again.labels, scene.labels)
    assert [path.name for path in second.files("266")] == ["266_sat.jpg", "266_mask.png"]


def test_the_sample_itself_trains_on_one_and_validates_on_the_other(sample):
    dataset = DeepGlobeLandCover(sample)
    split = dataset.split()
    assert sorted(split.train + split.val) == list(IDS)
    assert (len(split.train), len(split.val), split.test) == (1, 1, ())


def test_images_without_mask_are_counted_and_left_out(sample, tmp_path, caplog):
    original(tmp_path, sample)
    for folder in ("valid", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "7_sat.jpg").touch()
    with caplog.at_level(logging.INFO):
        assert DeepGlobeLandCover(tmp_path).items == IDS
    assert "has 2 images without a mask" in caplog.text
    assert "has 2 labelled images, the published set 803" in caplog.text


def test_linked_folders_are_followed_once(sample, tmp_path):
    (tmp_path / "root").mkdir()
    original(tmp_path / "elsewhere", sample)
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "root")
    dataset = DeepGlobeLandCover(tmp_path / "root")
    assert dataset.items == IDS
    assert dataset.files("119")[0] == tmp_path / "root" / "a" / "train" / "119_sat.jpg"


def test_an_id_in_two_places_is_an_error_that_names_both(tmp_path):
    named_pairs(tmp_path / "train", ["5"])
    named_pairs(tmp_path / "old", ["5"])
    with pytest.raises(DatasetError, match=r"twice, as .*old/5_sat\.jpg and .*train/5_sat\.jpg"):
        DeepGlobeLandCover(tmp_path)


def test_two_masks_of_an_image_are_an_error(tmp_path):
    named_pairs(tmp_path / "images", ["5"])
    named_pairs(tmp_path / "masks", ["5"])
    with pytest.raises(DatasetError, match=r"two masks, .*images/5_mask\.png and .*masks/5_mask"):
        DeepGlobeLandCover(tmp_path)


def test_a_seeded_split_has_the_papers_numbers(tmp_path):
    named_pairs(tmp_path, [str(number) for number in range(803)])
    dataset = DeepGlobeLandCover(tmp_path)
    assert dataset.published_split() is None
    split = dataset.split(seed=3)
    assert (len(split.train), len(split.val), len(split.test)) == (454, 207, 142)
    assert set(split.train) | set(split.val) | set(split.test) == set(dataset.items)
    assert split == dataset.split(seed=3) != dataset.split(seed=4)


def test_torchgeos_test_data_is_the_test_split(tmp_path):
    for part, items in (("training_data", range(20)), ("test_data", range(20, 25))):
        for kind, suffix in (("images", "_sat.jpg"), ("masks", "_mask.png")):
            folder = tmp_path / "data" / part / kind
            folder.mkdir(parents=True)
            for item in items:
                (folder / f"{item}{suffix}").touch()
    split = DeepGlobeLandCover(tmp_path).split(seed=1)
    assert split.test == ("20", "21", "22", "23", "24")
    assert len(split.val) == 4
    assert sorted(split.train + split.val) == sorted(str(number) for number in range(20))


def test_torchgeos_training_data_alone_has_no_published_split(sample, tmp_path):
    assert (
        DeepGlobeLandCover(torchgeo(tmp_path, sample, "training_data", IDS)).published_split()
        is None
    )


@pytest.mark.parametrize("val_list", ["val.txt", "crossvali.txt"])
def test_list_files_are_the_published_split(tmp_path, caplog, val_list):
    named_pairs(tmp_path / "train", ["10", "11", "12", "13", "14"])
    (tmp_path / "train.txt").write_text("10_sat.jpg\n12_sat.jpg\nsat.h\n\n")
    (tmp_path / val_list).write_text("train/11_sat.jpg\r\n")
    (tmp_path / "test.txt").write_text("13\n")
    split = DeepGlobeLandCover(tmp_path).split()
    assert split == Split(("10", "12"), ("11",), ("13",))
    assert "1 entries of the split lists" in caplog.text  # sat.h, a slip in GLNet's first list
    assert "1 images of" in caplog.text  # 14


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train.txt": "10", "val.txt": "10_mask.png"}, r"10 is in both .*train.txt and .*val.txt"),
        ({"train.txt": "10"}, "incomplete or ambiguous"),
        ({"test.txt": "10"}, "incomplete or ambiguous"),
        ({"train.txt": "10", "val.txt": "11", "crossvali.txt": "11"}, "incomplete or ambiguous"),
        ({"train.txt": "10", "val.txt": "\xe9"}, r"val\.txt cannot be read as a list"),
    ],
)
def test_wrong_lists_are_errors(tmp_path, lists, message):
    named_pairs(tmp_path, ["10", "11"])
    for name, text in lists.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=message):
        DeepGlobeLandCover(tmp_path).split()


def test_masks_are_thresholded_at_128(tmp_path, caplog):
    colours = [(127, 128, 255), (200, 255, 3), (255, 0, 255), (10, 10, 10)]
    small_pair(tmp_path, "5", colours)
    with caplog.at_level(logging.INFO):
        labels = DeepGlobeLandCover(tmp_path).load("5").labels
    assert labels[0].tolist() == [0, 1, 2, 255]
    assert "5_mask.png has 12 pixels of impure colours" in caplog.text


def test_all_published_colours_and_no_other(tmp_path):
    seven = [*DeepGlobeLandCover.classes.colours, (0, 0, 0)]
    small_pair(tmp_path, "5", seven)
    labels = DeepGlobeLandCover(tmp_path).load("5").labels
    assert labels.ravel()[:7].tolist() == [0, 1, 2, 3, 4, 5, 255]
    small_pair(tmp_path, "6", [(0, 255, 255), (250, 5, 5)])
    with pytest.raises(DatasetError, match=r"6_mask\.png has 8 pixels of .* such as #FF0000"):
        DeepGlobeLandCover(tmp_path).load("6")


def test_a_mask_of_class_ids_is_an_error_not_unknown(tmp_path):
    small_pair(tmp_path, "5", [(0, 0, 0), (3, 3, 3)])
    with pytest.raises(DatasetError, match=r"5_mask\.png has no value of 128 or more"):
        DeepGlobeLandCover(tmp_path).load("5")


def test_sizes_must_agree(tmp_path):
    small_pair(tmp_path, "5", size=(5, 4))
    with pytest.raises(DatasetError, match=r"5_mask\.png is 4 x 4 px but its image"):
        DeepGlobeLandCover(tmp_path).load("5")


def test_wrong_layouts_show_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match="is not there"):
        DeepGlobeLandCover(tmp_path / "absent")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "119.jpg").touch()
    with pytest.raises(DatasetError) as caught:
        DeepGlobeLandCover(tmp_path)
    assert "data/training_data/images/ID_sat.jpg" in str(caught.value)
    assert "pictures/ 119.jpg" in str(caught.value)
