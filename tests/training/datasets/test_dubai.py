"""The Dubai scenes: layout, stitching, split."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from geodeform.errors import DatasetError
from geodeform.training.datasets.dubai import DubaiScenes


def test_real_tile_is_stitched_row_major(shared_data):
    dataset = DubaiScenes(shared_data / "dubai")
    scene = dataset.load("2")
    assert scene.image.shape == (1632, 1528, 3)
    assert scene.labels.shape == (1632, 1528)
    with Image.open(dataset.root / "Tile 2" / "images" / "image_part_006.jpg") as part:
        assert np.array_equal(scene.image[544:1088, 1019:], np.asarray(part))
    share = np.bincount(scene.labels.ravel(), minlength=256) / scene.labels.size
    # counted from the masks' colours: building, land, road, vegetation, water, unlabelled
    assert share[[0, 1, 2, 3, 4, 255]] == pytest.approx(
        [0.1229, 0.5966, 0.1270, 0.0577, 0.0726, 0.0232], abs=1e-4
    )


def test_split_keeps_tiles_whole(small_dubai, caplog):
    dataset = DubaiScenes(small_dubai)
    assert dataset.items == ("1", "2", "7")
    assert "missing: 3, 4, 5, 6, 8" in caplog.text
    for split in (dataset.split(("7",)), dataset.split()):
        assert (split.train, split.val, split.test) == (("1", "2"), ("7",), ())
    with pytest.raises(DatasetError, match=r"Validation item 4 is not in .* has 1, 2, 7\."):
        dataset.split(("4",))
    with pytest.raises(DatasetError, match="No item is left for training"):
        dataset.split(("1", "2", "7"))


def test_wrong_layouts_show_what_is_expected_and_what_was_found(small_dubai, tmp_path):
    with pytest.raises(DatasetError, match="not there"):
        DubaiScenes(tmp_path / "absent")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").touch()
    with pytest.raises(DatasetError) as caught:
        DubaiScenes(tmp_path)
    assert "Tile 1/images/image_part_001.jpg" in str(caught.value)
    assert "pictures/ a.jpg" in str(caught.value)
    copy = tmp_path / "copy"
    shutil.copytree(small_dubai, copy)
    (copy / "Tile 2" / "masks" / "image_part_005.png").unlink()
    with pytest.raises(DatasetError, match=r"Tile 2/masks/image_part_005\.png' is missing"):
        DubaiScenes(copy)


@pytest.mark.parametrize(
    ("kind", "name", "size", "colour", "message"),
    [
        ("masks", "image_part_002.png", (96, 90), (1, 2, 3), "unlisted colours such as #010203"),
        (
            "masks",
            "image_part_002.png",
            (95, 90),
            (60, 16, 152),
            r"95 x 90 px but its image image_part_002\.jpg is 96",
        ),
        (None, "image_part_002", (96, 80), (60, 16, 152), "do not fit in three rows"),
    ],
)
def test_parts_that_do_not_fit_are_errors(small_dubai, tmp_path, kind, name, size, colour, message):
    shutil.copytree(small_dubai, tmp_path / "copy")
    dataset = DubaiScenes(tmp_path / "copy")
    picture = Image.new("RGB", size, colour)
    if kind is None:
        picture.save(tmp_path / "copy" / "Tile 1" / "images" / f"{name}.jpg")
        picture.save(tmp_path / "copy" / "Tile 1" / "masks" / f"{name}.png")
    else:
        picture.save(tmp_path / "copy" / "Tile 1" / kind / name)
    with pytest.raises(DatasetError, match=message):
        dataset.load("1")


def test_a_broken_file_is_named(small_dubai, tmp_path):
    shutil.copytree(small_dubai, tmp_path / "copy")
    path = tmp_path / "copy" / "Tile 1" / "images" / "image_part_003.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"image_part_003\.jpg cannot be read"):
        DubaiScenes(tmp_path / "copy").load("1")
