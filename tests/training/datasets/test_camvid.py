"""CamVid: the real set, its classes and its split; and pairing by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import Split, pairs_by_stem
from geodeform.training.datasets.camvid import CamVid


@pytest.fixture(scope="module")
def real(shared_data):
    return CamVid(shared_data / "camvid")


def pair(root, part, name, value=0, size=(6, 4)):
    for folder, mode in ((part, "RGB"), (f"{part}annot", "L")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        picture = Image.new(mode, (6, 4) if mode == "RGB" else size, value if mode == "L" else 0)
        picture.save(root / folder / f"{name}.png")


def test_the_split_is_the_published_one(real, caplog):
    split = real.split()
    assert (len(split.train), len(split.val), len(split.test)) == (367, 101, 233)
    assert len(real.items) == 701
    assert split.train[0] == "0001TP_006690"
    assert not caplog.text
    assert all(path.is_file() for item in real.items for path in real.files(item))


def test_void_is_unknown_and_the_rest_is_kept(real):
    scene = real.load("0001TP_008700")
    assert scene.image.shape == (360, 480, 3)
    with Image.open(real.files("0001TP_008700")[1]) as mask:
        ids = np.asarray(mask)
    assert np.array_equal(scene.labels == 255, ids == 11)
    assert np.array_equal(scene.labels[ids != 11], ids[ids != 11])
    assert (ids == 11).any()


def test_the_order_of_the_classes_fits_the_pictures(real):
    """Sky is bright and above, road is below and grey, pavement beside it, trees are above."""
    heights = {name: [] for name in real.classes.names}
    brightness = {name: [] for name in real.classes.names}
    for item in real.split().val[::10]:
        scene = real.load(item)
        for value, name in enumerate(real.classes.names):
            where = scene.labels == value
            if where.any():
                heights[name].append(np.nonzero(where)[0].mean() / where.shape[0])
                brightness[name].append(scene.image[where].mean())
    height = {name: np.mean(values) for name, values in heights.items()}
    bright = {name: np.mean(values) for name, values in brightness.items()}
    assert min(height, key=height.get) == "Sky"
    assert max(bright, key=bright.get) == "Sky"
    assert sorted(height, key=height.get)[-2:] == ["Pavement", "Road"]
    assert height["Sky"] < height["Tree"] < height["SignSymbol"] < height["Car"]
    assert height["SignSymbol"] < height["Pedestrian"]


def test_bicyclists_and_fences_are_where_a_person_saw_them(real):
    """0016E5_01920: three cyclists at the left, a yellow car and railings at the right."""
    labels = real.load("0016E5_01920").labels
    names = real.classes.names
    columns = {
        name: float(np.median(np.nonzero(labels == names.index(name))[1]))
        for name in ("Bicyclist", "Car", "Fence")
    }
    assert (labels == names.index("Bicyclist")).sum() == 14245
    assert columns["Bicyclist"] < 160
    assert 300 < columns["Car"] < columns["Fence"]


def test_parts_of_the_set_are_warned_of(tmp_path, caplog):
    for part, name in (("train", "a"), ("train", "b"), ("val", "c")):
        pair(tmp_path, part, name, value=11)
    dataset = CamVid(tmp_path)
    assert dataset.split() == Split(("a", "b"), ("c",), ())
    assert "has 2 of 367 train images" in caplog.text
    assert (dataset.load("c").labels == 255).all()


def test_an_unlisted_id_is_an_error(tmp_path):
    pair(tmp_path, "train", "a", value=12)
    with pytest.raises(DatasetError, match=r"trainannot/a\.png has pixels of the unlisted id 12"):
        CamVid(tmp_path).load("a")


def test_sizes_must_agree(tmp_path):
    pair(tmp_path, "train", "a", size=(6, 5))
    with pytest.raises(DatasetError, match=r"a\.png is 6 x 5 px but its image"):
        CamVid(tmp_path).load("a")


def test_an_image_in_two_parts_is_an_error(tmp_path):
    pair(tmp_path, "train", "a")
    pair(tmp_path, "test", "a")
    with pytest.raises(
        DatasetError, match=r"a is there twice, as .*train/a\.png and .*test/a\.png"
    ):
        CamVid(tmp_path)


def test_wrong_layouts_show_what_is_expected(tmp_path, caplog):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.png").touch()
    with pytest.raises(DatasetError, match="the folder 'trainannot' is missing"):
        CamVid(tmp_path)
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(DatasetError, match=r"train/a\.png has no mask of the same name"):
        CamVid(tmp_path)
    caplog.clear()
    with pytest.raises(DatasetError) as caught:
        CamVid(tmp_path / "train")
    assert not caplog.text
    assert "trainannot/NAME.png" in str(caught.value)
    assert "no image is in 'train'" in str(caught.value)


def test_pairs_pass_over_other_files(tmp_path):
    for name in ("images/b.JPG", "images/a.png", "images/Thumbs.db", "images/.a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.png", "notes.txt"):
        (tmp_path / "masks" / name).touch()
    pairs = pairs_by_stem(tmp_path / "images", tmp_path / "masks", (".png", ".jpg"), (".png",))
    assert {name: image.name for name, (image, _) in pairs.items()} == {"a": "a.png", "b": "b.JPG"}
    (tmp_path / "masks" / "c.png").touch()
    with pytest.raises(DatasetError, match=r"masks/c\.png has no image"):
        pairs_by_stem(tmp_path / "images", tmp_path / "masks", (".png", ".jpg"), (".png",))
    (tmp_path / "images" / "a.jpg").touch()
    with pytest.raises(DatasetError, match=r"a\.jpg and .*a\.png have the same name"):
        pairs_by_stem(tmp_path / "images", tmp_path / "masks", (".png", ".jpg"), (".png",))
