"""Histology folders: layouts, classes of one's own, and the paper's sizing rule."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import Split
from geodeform.training.datasets.histo import HistologyImages, read_classes

SIZES = {"a": (60, 300), "b": (220, 48), "c": (90, 90)}


@pytest.fixture(scope="module")
def strip(shared_data):
    """A real image and its ids, coarsened to six classes; strips are cut from it."""
    with Image.open(shared_data / "camvid" / "train" / "0001TP_006690.jpg") as image:
        pixels = np.asarray(image.convert("RGB"))
    with Image.open(shared_data / "camvid" / "trainannot" / "0001TP_006690.png") as mask:
        ids = np.asarray(mask)
    coarse = np.where(ids == 11, 255, ids // 2).astype(np.uint8)
    return pixels[140:, 180:], coarse[140:, 180:]


def save(folder, name, strip, size, suffixes=(".png", ".png")):
    for kind, array, suffix in zip(("images", "masks"), strip, suffixes, strict=True):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array[: size[0], : size[1]]).save(folder / kind / f"{name}{suffix}")


@pytest.fixture
def split_root(tmp_path, strip):
    for part, name in (("train", "a"), ("train", "b"), ("val", "a"), ("test", "c")):
        save(tmp_path / part, name, strip, SIZES[name])
    return tmp_path


def test_images_of_varying_size_are_read_whole(split_root, strip):
    dataset = HistologyImages(split_root)
    assert dataset.items == ("test/c", "train/a", "train/b", "val/a")
    assert dataset.split() == Split(("train/a", "train/b"), ("val/a",), ("test/c",))
    assert dataset.gsd_m is None
    for name in ("train/a", "train/b"):
        scene = dataset.load(name)
        height, width = SIZES[name[-1]]
        assert np.array_equal(scene.image, strip[0][:height, :width])
        assert np.array_equal(scene.labels, strip[1][:height, :width])
    assert np.unique(dataset.load("train/b").labels).tolist() == [0, 1, 2, 3, 4, 255]


def test_the_papers_six_classes_are_the_default(split_root):
    classes = HistologyImages(split_root).classes
    assert classes.names == HistologyImages.info.classes
    assert classes.names[0] == "Background"  # evaluated: table 7 of the paper
    assert len(set(classes.colours)) == len(classes) == 6


def test_flat_folders_are_split_in_the_papers_proportions(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(266):
            (tmp_path / kind / f"{number}.png").touch()
    dataset = HistologyImages(tmp_path)
    assert dataset.published_split() is None
    split = dataset.split(seed=2)
    assert (len(split.train), len(split.val), len(split.test)) == (200, 27, 39)
    assert split != dataset.split(seed=3)


@pytest.mark.parametrize("suffixes", [(".jpg", ".png"), (".tif", ".tif"), (".TIFF", ".png")])
def test_published_suffixes_are_read(tmp_path, strip, suffixes):
    save(tmp_path, "a", strip, SIZES["a"], suffixes)
    scene = HistologyImages(tmp_path).load("a")
    assert np.array_equal(scene.labels, strip[1][:60, :300])
    error = np.abs(scene.image.astype(int) - strip[0][:60, :300])
    assert error.mean() < (8 if suffixes[0] == ".jpg" else 1e-9)


def test_own_classes_replace_the_papers(split_root):
    (split_root / "classes.csv").write_text("name,r,g,b\nRoof,200,40,30\nGrass,40,160,60\n")
    dataset = HistologyImages(split_root)
    assert dataset.classes.names == ("Roof", "Grass")
    assert dataset.classes.colours == ((200, 40, 30), (40, 160, 60))
    with pytest.raises(DatasetError, match=r"train/masks/b\.png has pixels of the unlisted id"):
        dataset.load("train/b")


def test_classes_without_colours_get_distinct_ones(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("\ufeffStroma\n\n Gland \nNerve, 1, 2, 3\nFat\n", encoding="utf-8")
    classes = read_classes(path)
    assert classes.names == ("Stroma", "Gland", "Nerve", "Fat")
    assert classes.colours[2] == (1, 2, 3)
    assert len(set(classes.colours)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\n", "1 to 255 classes, not 0"),
        ("a,1,2\n", "'a,1,2' is neither 'name' nor 'name,r,g,b'"),
        ("a,1,2,red\n", "colour of 'a,1,2,red' is not three numbers"),
        ("a,1,2,300\n", "0 to 255 each"),
        ("a\na\n", "must differ"),
        (",1,2,3\n", "is neither 'name'"),
        ("caf\xe9\n", "cannot be read as a CSV file of classes"),
    ],
)
def test_wrong_class_files_are_errors(tmp_path, text, message):
    path = tmp_path / "classes.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=message) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)


def test_a_mask_without_partner_is_an_error(split_root):
    (split_root / "val" / "images" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"val/masks/a\.png has no image of the same name"):
        HistologyImages(split_root)


def test_sizes_must_agree(split_root, strip):
    Image.fromarray(strip[1][:60, :299]).save(split_root / "train" / "masks" / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png is 299 x 60 px but its image a\.png is 300"):
        HistologyImages(split_root).load("train/a")


def test_wrong_layouts_show_what_is_expected(split_root, tmp_path_factory, strip):
    save(split_root, "a", strip, SIZES["a"])
    with pytest.raises(DatasetError, match="the split is ambiguous"):
        HistologyImages(split_root)
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(DatasetError, match="no image is in 'train/images' or 'images'"):
        HistologyImages(other)
    (other / "train" / "images").mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        HistologyImages(other)
    assert "the folder 'train/masks' is missing" in str(caught.value)
    assert "train/masks/NAME.png (or .tif, .tiff)" in str(caught.value)
