"""torchgeo's datasets: real pixels in each published layout come back as they were put there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from geodeform.classes import NODATA_CLASS, ClassScheme
from geodeform.errors import DatasetError
from geodeform.training.datasets.dubai import DubaiScenes
from geodeform.training.datasets.torchgeo_sets import (
    GID15,
    LandCoverAI,
    LoveDA,
    Potsdam,
    TorchgeoDataset,
    Vaihingen,
)

HEIGHT, WIDTH = 64, 80
LOVEDA = ("Train/Urban/1366", "Train/Urban/20", "Train/Rural/0", "Val/Urban/3514", "Val/Rural/2522")
ORTHOPHOTOS = ("M-33-20-D-c-4-2", "M-34-51-C-b-2-1", "N-33-60-D-c-4-2")
TILES = {
    "train": ("M-33-20-D-c-4-2_0", "N-33-60-D-c-4-2_12"),
    "val": ("M-33-20-D-c-4-2_1",),
    "test": ("M-34-51-C-b-2-1_7",),
}
POTSDAM = ("2_10", "2_11", "4_12", "6_7", "5_15")
VAIHINGEN = ("area1", "area11", "area6")
GID = ("train/GF2_PMS1__L1A0000647767-MSS1", "val/GF2_PMS2__L1A0001787564-MSS2")

Scene = tuple[np.ndarray, np.ndarray]
Crop = Callable[[int], Scene]


@pytest.fixture(scope="session")
def crop(shared_data: Path) -> Crop:
    """Numbered crops of a real image with the ids of its real labels, 255 unknown."""
    folder = shared_data / "dubai" / "Tile 8"
    with Image.open(folder / "images" / "image_part_007.jpg") as picture:
        image = np.asarray(picture.convert("RGB"))
    with Image.open(folder / "masks" / "image_part_007.png") as picture:
        mask = np.asarray(picture.convert("RGB"))
    scheme = ClassScheme(DubaiScenes.classes.names, DubaiScenes.mask_colours)
    labels = scheme.encode_rgb(mask, ignore=DubaiScenes.ignored_colours)

    def cut(number: int) -> Scene:
        rows, cols = slice(702 + 3 * number, None), slice(1500 + 3 * number, None)
        return image[rows, cols][:HEIGHT, :WIDTH], labels[rows, cols][:HEIGHT, :WIDTH]

    assert np.unique(cut(0)[1]).tolist() == [0, 1, 2, 3, 4, NODATA_CLASS]
    return cut


@pytest.fixture(scope="session")
def infrared(shared_data: Path) -> Callable[[int], np.ndarray]:
    """Numbered crops of real red, green, blue and near infrared."""
    with rasterio.open(shared_data / "scenes" / "naip_5m_rgbn.tif") as source:
        bands = np.moveaxis(source.read(), 0, -1)
    return lambda number: bands[100 + 9 * number :, 100 + 9 * number :][:HEIGHT, :WIDTH]


def shifted(labels: np.ndarray, number: int, classes: int) -> np.ndarray:
    """Other class ids in the same places, so that scenes together have every id."""
    spread = (labels.astype(int) * 3 + number) % classes
    return np.where(labels == NODATA_CLASS, NODATA_CLASS, spread).astype(np.uint8)


def save_tif(path: Path, bands: np.ndarray, resolution: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands[..., None] if bands.ndim == 2 else bands
    profile = {
        "driver": "GTiff",
        "height": bands.shape[0],
        "width": bands.shape[1],
        "count": bands.shape[2],
        "dtype": bands.dtype,
        "crs": "EPSG:2180",
        "transform": from_origin(400_000 + 1000 * (len(path.stem) % 7), 500_000, *[resolution] * 2),
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.moveaxis(bands, -1, 0))


def save_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def loveda(root: Path, crop: Crop) -> dict[str, Scene]:
    scenes = {}
    for number, item in enumerate(LOVEDA):
        image, labels = crop(number)
        labels = shifted(labels, number, 7)
        folder = root / Path(item).parent
        save_picture(folder / "images_png" / f"{Path(item).name}.png", image)
        ids = np.where(labels == NODATA_CLASS, 0, labels + 1).astype(np.uint8)
        save_picture(folder / "masks_png" / f"{Path(item).name}.png", ids)
        scenes[item] = image, labels
    save_picture(root / "Test" / "Urban" / "images_png" / "4191.png", image)
    return scenes


def orthophotos(root: Path, crop: Crop) -> dict[str, Scene]:
    scenes = {}
    for number, item in enumerate(ORTHOPHOTOS):
        image, labels = crop(number)
        labels = np.where(labels == NODATA_CLASS, 0, labels).astype(np.uint8)
        save_tif(root / "images" / f"{item}.tif", image, 0.25)
        save_tif(root / "masks" / f"{item}.tif", labels, 0.25)
        scenes[item] = image, labels
    for part, names in TILES.items():  # the archive has the lists, but no tiles
        (root / f"{part}.txt").write_text("\n".join(names) + "\n")
    return scenes


def tiles(root: Path, crop: Crop) -> dict[str, Scene]:
    scenes = {}
    for part, names in TILES.items():
        (root / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image, labels = crop(len(scenes))
            labels = np.where(labels == NODATA_CLASS, 0, labels).astype(np.uint8)
            save_picture(root / "output" / f"{name}.jpg", image)
            grey = labels if len(scenes) % 2 else labels[..., None].repeat(3, -1)
            save_picture(root / "output" / f"{name}_m.png", grey)
            with Image.open(root / "output" / f"{name}.jpg") as picture:
                scenes[name] = np.asarray(picture), labels
    return scenes


def recoloured(labels: np.ndarray, scheme: ClassScheme) -> tuple[np.ndarray, np.ndarray]:
    """Ids without unknown ones (there are none in these sets), and their colours."""
    labels = np.where(labels == NODATA_CLASS, 5, labels).astype(np.uint8)
    return labels, scheme.palette()[labels]


def potsdam(root: Path, crop: Crop, infrared: Callable[[int], np.ndarray]) -> dict[str, Scene]:
    scenes = {}
    for number, item in enumerate(POTSDAM):
        bands = infrared(number)
        labels, colours = recoloured(crop(number)[1], Potsdam.classes)
        save_tif(root / "4_Ortho_RGBIR" / f"top_potsdam_{item}_RGBIR.tif", bands, 0.05)
        save_tif(root / f"top_potsdam_{item}_label.tif", colours, 0.05)
        scenes[item] = bands[..., :3], labels
    return scenes


def vaihingen(root: Path, crop: Crop, infrared: Callable[[int], np.ndarray]) -> dict[str, Scene]:
    scenes = {}
    for number, item in enumerate(VAIHINGEN):
        bands = infrared(number)[..., [3, 0, 1]]
        labels, colours = recoloured(crop(number)[1], Vaihingen.classes)
        save_picture(root / "top" / f"top_mosaic_09cm_{item}.tif", bands)  # not georeferenced
        save_picture(root / f"top_mosaic_09cm_{item}.tif", colours)
        scenes[item] = bands, labels
    return scenes


def gid15(root: Path, crop: Crop) -> dict[str, Scene]:
    scenes = {}
    for number, item in enumerate(GID):
        image, labels = crop(number)
        labels = shifted(labels, number, 15)
        save_tif(root / "GID" / "img_dir" / f"{item}.tif", image, 3.2)
        ids = np.where(labels == NODATA_CLASS, 0, labels + 1).astype(np.uint8)
        save_picture(root / "GID" / "ann_dir" / f"{item}_15label.png", ids)
        scenes[item] = image, labels
    save_tif(root / "GID" / "img_dir" / "test" / "GF2_PMS1__L1A0000564539-MSS1.tif", image, 3.2)
    return scenes


KINDS: dict[str, type[TorchgeoDataset]] = {
    "loveda": LoveDA,
    "orthophotos": LandCoverAI,
    "tiles": LandCoverAI,
    "potsdam": Potsdam,
    "vaihingen": Vaihingen,
    "gid15": GID15,
}

Trees = dict[str, tuple[Path, dict[str, Scene]]]


@pytest.fixture(scope="session")
def trees(
    crop: Crop,
    infrared: Callable[[int], np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trees:
    """A folder of each layout, and the scenes that were put into it."""
    roots = {name: tmp_path_factory.mktemp(name) for name in KINDS}
    return {
        "loveda": (roots["loveda"], loveda(roots["loveda"], crop)),
        "orthophotos": (roots["orthophotos"], orthophotos(roots["orthophotos"], crop)),
        "tiles": (roots["tiles"], tiles(roots["tiles"], crop)),
        "potsdam": (roots["potsdam"], potsdam(roots["potsdam"], crop, infrared)),
        "vaihingen": (roots["vaihingen"], vaihingen(roots["vaihingen"], crop, infrared)),
        "gid15": (roots["gid15"], gid15(roots["gid15"], crop)),
    }


@pytest.fixture
def copied(trees: Trees, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a tree that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(trees[name][0], tmp_path / "copy"))

    return copy


@pytest.mark.parametrize("name", KINDS)
def test_scenes_come_back_as_they_were_put_there(trees: Trees, name: str) -> None:
    root, scenes = trees[name]
    dataset = KINDS[name](root)
    assert dataset.items == tuple(sorted(scenes))
    for item, (image, labels) in scenes.items():
        loaded = dataset.load(item)
        assert loaded.name == item
        assert loaded.image.dtype == loaded.labels.dtype == np.uint8
        assert np.array_equal(loaded.image, image)
        assert np.array_equal(loaded.labels, labels)
        assert all(path.is_file() and root in path.parents for path in dataset.files(item))
    assert len({path for item in dataset.items for path in dataset.files(item)}) == 2 * len(scenes)


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("loveda", "LoveDA", "train"),
        ("loveda", "LoveDA", "val"),
        ("tiles", "LandCoverAI", "train"),
        ("potsdam", "Potsdam2D", "train"),
        ("potsdam", "Potsdam2D", "test"),
        ("vaihingen", "Vaihingen2D", "train"),
        ("gid15", "GID15", "val"),
    ],
)
def test_what_torchgeo_reads_is_what_is_loaded(
    trees: Trees, name: str, kind: str, part: str
) -> None:
    from torchgeo import datasets

    root, scenes = trees[name]
    dataset = KINDS[name](root)
    lookup = np.full(256, NODATA_CLASS, np.uint8)
    for value, target in (dataset.mask_ids or {value: value for value in range(6)}).items():
        lookup[value] = target
    loaded = [dataset.load(item) for item in scenes]
    theirs = getattr(datasets, kind)(root=str(root), split=part, checksum=False)
    assert len(theirs) > 0
    for index in range(len(theirs)):
        sample = theirs[index]
        image = np.moveaxis(sample["image"][:3].numpy(), 0, -1)
        ours = [scene for scene in loaded if np.array_equal(scene.image, image)]
        assert len(ours) == 1
        assert np.array_equal(ours[0].labels, lookup[sample["mask"].numpy()])


def test_splits_are_the_published_ones(trees: Trees) -> None:
    def published(name: str) -> dict[str, list[str]] | None:
        split = KINDS[name](trees[name][0]).published_split()
        return split and split.to_dict()

    assert published("loveda") == {
        "train": ["Train/Rural/0", "Train/Urban/1366", "Train/Urban/20"],
        "val": ["Val/Rural/2522", "Val/Urban/3514"],
        "test": [],
    }
    assert published("tiles") == {part: sorted(names) for part, names in TILES.items()}
    # validation tiles are held out of the contest's training tiles; its test tiles stay unseen
    assert published("potsdam") == {
        "train": ["2_10", "4_12"],
        "val": ["2_11", "6_7"],
        "test": ["5_15"],
    }
    assert published("vaihingen") == {"train": ["area1"], "val": ["area11"], "test": ["area6"]}
    assert published("gid15") == {"train": [GID[0]], "val": [GID[1]], "test": []}


@pytest.mark.parametrize("kind", [Potsdam, Vaihingen])
def test_validation_tiles_are_training_tiles_of_the_contest(kind: type[Potsdam]) -> None:
    from torchgeo import datasets

    splits = getattr(datasets, kind.torchgeo_kind).splits
    names = {name.removesuffix(".tif").removeprefix(kind.prefix) for name in splits["train"]}
    assert len(splits["train"]) + len(splits["test"]) in (38, 33)
    assert set(kind.validation_tiles) < names


def test_whole_orthophotos_are_held_out_whole(trees: Trees) -> None:
    dataset = LandCoverAI(trees["orthophotos"][0])
    assert dataset.published_split() is None
    split = dataset.split()
    assert len(split.val) == 1
    assert sorted(split.train + split.val) == sorted(ORTHOPHOTOS)


def test_bands_and_resolution_are_told(trees: Trees, copied: Callable[[str], Path]) -> None:
    datasets = {name: KINDS[name](root) for name, (root, _) in trees.items()}
    told = {name: (dataset.bands, dataset.gsd_m) for name, dataset in datasets.items()}
    rgb = ("red", "green", "blue")
    assert told == {
        "loveda": (rgb, 0.3),
        "orthophotos": (rgb, 0.25),
        "tiles": (rgb, None),
        "potsdam": (rgb, 0.05),
        "vaihingen": (("nir", "red", "green"), 0.09),
        "gid15": (rgb, 3.2),
    }
    root = copied("orthophotos")  # the published set has 33 orthophotos of 25 cm and 8 of 50 cm
    with rasterio.open(root / "images" / f"{ORTHOPHOTOS[0]}.tif", "r+") as target:
        target.transform = from_origin(0, 0, 0.5, 0.5)
    assert LandCoverAI(root).gsd_m is None


@pytest.mark.parametrize("kind", [LoveDA, LandCoverAI, Potsdam, Vaihingen, GID15])
def test_every_dataset_says_what_it_is(kind: type[TorchgeoDataset]) -> None:
    assert kind.info.classes == kind.classes.names
    assert len(set(kind.classes.colours)) == len(kind.classes)
    assert all(line.startswith("  ") for line in kind.info.layout.splitlines())
    for text in (kind.info.title, kind.info.licence, kind.info.get, kind.info.purpose):
        assert len(text) > 20


def test_one_part_of_loveda_has_no_published_split(copied: Callable[[str], Path]) -> None:
    root = copied("loveda")
    shutil.rmtree(root / "Val")
    shutil.rmtree(root / "Train" / "Rural")
    dataset = LoveDA(root)
    assert dataset.items == ("Train/Urban/1366", "Train/Urban/20")
    assert dataset.published_split() is None
    assert len(dataset.split().val) == 1


def test_test_tiles_never_train_where_others_are_missing(copied: Callable[[str], Path]) -> None:
    root = copied("vaihingen")
    (root / "top_mosaic_09cm_area11.tif").unlink()
    dataset = Vaihingen(root)
    assert dataset.items == ("area1", "area6")
    with pytest.raises(DatasetError, match=r"No item is left for validation.*data\.val_items"):
        dataset.split()


@pytest.mark.parametrize(("name", "folder"), [("loveda", "images_png"), ("gid15", "img_dir")])
def test_the_root_may_be_called_like_a_folder_of_the_layout(
    trees: Trees, tmp_path: Path, name: str, folder: str
) -> None:
    root, scenes = trees[name]
    dataset = KINDS[name](shutil.copytree(root, tmp_path / folder))
    assert dataset.items == tuple(sorted(scenes))


def test_tiles_without_labels_are_told_not_dropped_in_silence(
    copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = copied("potsdam")
    (root / "top_potsdam_5_15_label.tif").unlink()
    assert Potsdam(root).items == ("2_10", "2_11", "4_12", "6_7")
    assert "image and labels of 4 of the published 38 tiles; missing: 2_12, 2_13" in caplog.text


def test_orthophotos_go_before_tiles_and_that_is_told(
    trees: Trees, copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = copied("orthophotos")
    shutil.copytree(trees["tiles"][0] / "output", root / "output")
    assert LandCoverAI(root).items == tuple(sorted(ORTHOPHOTOS))
    assert "give a folder with output and the three lists only" in caplog.text


def test_potsdam_labels_off_the_palette_are_read_where_they_are_published(
    copied: Callable[[str], Path], trees: Trees
) -> None:
    root, scenes = copied("potsdam"), trees["potsdam"][1]
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3))
    for item in ("4_12", "2_10"):
        path = root / f"top_potsdam_{item}_label.tif"
        mask = Potsdam.classes.palette()[scenes[item][1]].astype(int)
        save_tif(path, np.where(mask == 255, 255 - noise, noise).astype(np.uint8), 0.05)
    dataset = Potsdam(root)
    assert np.array_equal(dataset.load("4_12").labels, scenes["4_12"][1])
    with pytest.raises(DatasetError, match=r"top_potsdam_2_10_label\.tif has \d+ pixels of unlist"):
        dataset.load("2_10")


def test_unlisted_corners_of_the_cube_are_errors_even_there(copied: Callable[[str], Path]) -> None:
    root = copied("potsdam")
    path = root / "top_potsdam_6_7_label.tif"
    save_tif(path, np.full((HEIGHT, WIDTH, 3), (3, 2, 1), np.uint8), 0.05)
    with pytest.raises(DatasetError, match="5120 pixels of unlisted colours such as #000000"):
        Potsdam(root).load("6_7")


@pytest.mark.parametrize(
    ("name", "item", "mask", "value", "message"),
    [
        ("loveda", "Train/Rural/0", "Train/Rural/masks_png/0.png", 8, "unlisted id 8"),
        ("gid15", GID[0], f"GID/ann_dir/{GID[0]}_15label.png", 16, "unlisted id 16"),
        ("tiles", TILES["val"][0], f"output/{TILES['val'][0]}_m.png", 5, "unlisted id 5"),
        ("orthophotos", ORTHOPHOTOS[0], f"masks/{ORTHOPHOTOS[0]}.tif", 255, "unlisted id 255"),
        ("potsdam", "2_11", "top_potsdam_2_11_label.tif", (0, 0, 0), "colours such as #000000"),
        ("vaihingen", "area6", "top_mosaic_09cm_area6.tif", (254, 0, 0), "such as #FE0000"),
    ],
)
def test_an_unlisted_value_is_an_error_and_no_class(
    copied: Callable[[str], Path],
    name: str,
    item: str,
    mask: str,
    value: int | tuple[int, int, int],
    message: str,
) -> None:
    root = copied(name)
    path = root / mask
    with Image.open(path) as picture:
        pixels = np.array(picture)
    pixels[10, 20] = value
    save_picture(path, pixels)
    with pytest.raises(DatasetError, match=message) as caught:
        KINDS[name](root).load(item)
    assert str(path) in str(caught.value)


def test_palettes_are_left_unapplied(copied: Callable[[str], Path], trees: Trees) -> None:
    root = copied("gid15")
    path = root / "GID" / "ann_dir" / f"{GID[0]}_15label.png"
    with Image.open(path) as picture:
        mask = picture.convert("P")
    mask.putpalette([255, 0, 0] + [0, 200, 0] * 255)
    mask.save(path)
    assert np.array_equal(GID15(root).load(GID[0]).labels, trees["gid15"][1][GID[0]][1])


@pytest.mark.parametrize("name", KINDS)
def test_wrong_layouts_show_what_is_expected_and_what_was_found(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    with pytest.raises(DatasetError, match="not there"):
        kind(tmp_path / "absent")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").touch()
    with pytest.raises(DatasetError, match=f"the layout of the {kind.info.name} dataset") as caught:
        kind(tmp_path)
    assert kind.info.layout in str(caught.value)
    assert "pictures/ a.jpg" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("loveda", "Train/Urban/masks_png/20.png", "'Train/Urban/masks_png/20.png' is missing"),
        ("loveda", "Train", None),
        ("gid15", f"GID/ann_dir/{GID[1]}_15label.png", f"ann_dir/{GID[1]}_15label.png' is missing"),
        ("gid15", "GID/img_dir", "no image such as 'GID/img_dir/train/*.tif' is there"),
        ("orthophotos", "masks", "the folder 'masks' is missing"),
        ("orthophotos", f"masks/{ORTHOPHOTOS[1]}.tif", f"'masks/{ORTHOPHOTOS[1]}.tif' is missing"),
        ("orthophotos", f"images/{ORTHOPHOTOS[1]}.tif", f"'images/{ORTHOPHOTOS[1]}.tif' is miss"),
        ("tiles", "output", "the folder 'output' is missing"),
        ("tiles", "val.txt", "'val.txt' is missing"),
        ("tiles", f"output/{TILES['val'][0]}.jpg", f"'output/{TILES['val'][0]}.jpg' is missing"),
        ("potsdam", "4_Ortho_RGBIR", "the folder '4_Ortho_RGBIR' is missing"),
        ("vaihingen", "top", "the folder 'top' is missing"),
        ("vaihingen", "top/*", "no tile has both an image and labels"),
    ],
)
def test_what_is_missing_is_named(
    copied: Callable[[str], Path], name: str, missing: str, message: str | None
) -> None:
    root = copied(name)
    for path in sorted(root.glob(missing)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if message is None:
        assert all(item.startswith("Val/") for item in KINDS[name](root).items)
        return
    with pytest.raises(DatasetError) as caught:
        KINDS[name](root)
    assert message in str(caught.value)
    assert "Expected:" in str(caught.value)


def test_a_listed_tile_that_is_nowhere_is_named(copied: Callable[[str], Path]) -> None:
    root = copied("tiles")
    (root / "val.txt").write_text("M-33-20-D-c-4-2_1\nM-33-20-D-c-4-2_99\n")
    with pytest.raises(DatasetError, match=r"'output/M-33-20-D-c-4-2_99\.jpg' is missing"):
        LandCoverAI(root)


@pytest.mark.parametrize(
    ("kind", "archive"),
    [
        (LoveDA, "Train.zip"),
        (LandCoverAI, "output.zip"),
        (LandCoverAI, "landcover.ai.v1.zip"),
        (Potsdam, "4_Ortho_RGBIR.zip"),
        (Vaihingen, "ISPRS_semantic_labeling_Vaihingen.zip"),
        (GID15, "gid-15.zip"),
    ],
)
def test_archives_are_named_and_left_as_they_are(
    tmp_path: Path, kind: type[TorchgeoDataset], archive: str
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "a.txt").touch()
    root = tmp_path / "root"
    shutil.make_archive(str(root / archive.removesuffix(".zip")), "zip", folder)
    with pytest.raises(DatasetError, match=rf"missing \(unpack {archive} there\)"):
        kind(root)
    assert [path.name for path in root.iterdir()] == [archive]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (False, "torchgeo's LoveDA does not find its files"),
        (RuntimeError("Dataset found,\nbut corrupted."), "cannot open it .Dataset found, but corr"),
    ],
)
def test_what_torchgeo_refuses_is_a_wrong_layout(
    trees: Trees, monkeypatch: pytest.MonkeyPatch, result: bool | Exception, message: str
) -> None:
    from torchgeo import datasets

    def check(dataset: object) -> bool:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(datasets.LoveDA, "_check_integrity", check)
    with pytest.raises(DatasetError, match=message) as caught:
        LoveDA(trees["loveda"][0])
    assert "Expected:" in str(caught.value)


def test_a_root_that_torchgeo_cannot_search_is_told(trees: Trees, tmp_path: Path) -> None:
    root = shutil.copytree(trees["loveda"][0], tmp_path / "data [old]")
    with pytest.raises(DatasetError, match="rename the folder, or give a link to it"):
        LoveDA(root)


def test_orthophotos_that_are_not_georeferenced_or_broken_are_named(
    copied: Callable[[str], Path],
) -> None:
    root = copied("orthophotos")
    path = root / "images" / f"{ORTHOPHOTOS[1]}.tif"
    save_picture(path, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(DatasetError, match=f"{path.name} has no coordinate reference system"):
        LandCoverAI(root)
    path.write_text("no raster")
    with pytest.raises(DatasetError, match=f"{path.name} cannot be read as an image"):
        LandCoverAI(root)


@pytest.mark.parametrize(
    ("name", "item", "file"),
    [
        ("loveda", "Val/Urban/3514", "Val/Urban/masks_png/3514.png"),
        ("potsdam", "2_10", "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif"),
        ("tiles", TILES["test"][0], f"output/{TILES['test'][0]}.jpg"),
    ],
)
def test_a_broken_file_is_named(
    copied: Callable[[str], Path], name: str, item: str, file: str
) -> None:
    root = copied(name)
    (root / file).write_bytes((root / file).read_bytes()[:60])
    with pytest.raises(DatasetError, match=f"{Path(file).name} cannot be read as an image"):
        KINDS[name](root).load(item)


def test_images_of_other_bands_sizes_and_types_are_named(copied: Callable[[str], Path]) -> None:
    root = copied("potsdam")
    folder = root / "4_Ortho_RGBIR"
    save_tif(folder / "top_potsdam_2_10_RGBIR.tif", np.zeros((8, 8, 4), np.uint16), 0.05)
    save_tif(folder / "top_potsdam_2_11_RGBIR.tif", np.zeros((8, 8, 2), np.uint8), 0.05)
    save_tif(folder / "top_potsdam_4_12_RGBIR.tif", np.zeros((8, 9, 4), np.uint8), 0.05)
    dataset = Potsdam(root)
    with pytest.raises(DatasetError, match=r"2_10_RGBIR\.tif has 4 bands of uint16 where at least"):
        dataset.load("2_10")
    with pytest.raises(
        DatasetError, match=r"2_11_RGBIR\.tif has 2 bands of uint8 where at least 3"
    ):
        dataset.load("2_11")
    with pytest.raises(DatasetError, match=r"label\.tif is 80 x 64 px but .* is 9 x 8 px"):
        dataset.load("4_12")


def test_coloured_masks_of_tiles_are_errors(copied: Callable[[str], Path]) -> None:
    root = copied("tiles")
    path = root / "output" / f"{TILES['val'][0]}_m.png"
    save_picture(path, np.full((HEIGHT, WIDTH, 3), (1, 2, 1), np.uint8))
    with pytest.raises(DatasetError, match="is coloured where a mask of grey class ids"):
        LandCoverAI(root).load(TILES["val"][0])


def test_without_torchgeo_the_error_says_what_to_install(
    trees: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchgeo", None)
    with pytest.raises(DatasetError, match=r"loveda dataset needs 'torchgeo': pip install"):
        LoveDA(trees["loveda"][0])


def test_importing_the_module_imports_no_torch() -> None:
    code = (
        "import sys, geodeform.training.datasets.torchgeo_sets; "
        "print([m for m in ('torch', 'torchgeo', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
