"""Scenes and windows: layout, stitching, alignment of image and labels, determinism."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geodeform.errors import ConfigError, DatasetError
from geodeform.models.spec import InputScaling
from geodeform.training.datasets import (
    DubaiScenes,
    LabelledScene,
    StepSampler,
    TrainWindows,
    ValWindows,
    WindowSettings,
    _spans,
    colour_table,
    halve,
    plain_table,
)

SCALING = InputScaling(255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def settings(**changes):
    values = {
        "window": 64,
        "scale": (0.75, 1.33),
        "sizes": (16,),
        "low_res": 16,
        "batch_size": 4,
        "balance": 0.5,
        "flips": True,
        "colour": 0.0,
        "uniform_share": 0.5,
        "seed": 3,
    }
    return WindowSettings(**{**values, **changes})


def blocky_scene(height=160, width=208, seed=0):
    """A scene whose image tells its labels: band 0 is 40 times the label; blocks of 4 px."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 5, (height // 4, width // 4)).astype(np.uint8)
    labels = blocks.repeat(4, 0).repeat(4, 1)
    image = np.stack([labels * 40, labels * 20, 255 - labels * 40], -1)
    return LabelledScene(f"blocky {seed}", image, labels)


def test_real_tile_is_stitched_row_major(shared_data):
    dataset = DubaiScenes(shared_data / "dubai")
    scene = dataset.load(2)
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
    assert dataset.tiles == (1, 2, 7)
    assert "missing: 3, 4, 5, 6, 8" in caplog.text
    assert dataset.split((7,)) == ((1, 2), (7,))
    with pytest.raises(DatasetError, match=r"Validation tile 4 is not in .* has tiles 1, 2, 7"):
        dataset.split((4,))
    with pytest.raises(DatasetError, match="No tile is left"):
        dataset.split((1, 2, 7))


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
        ("masks", "image_part_002.png", (95, 90), (60, 16, 152), "95 x 90 px but its image is 96"),
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
        dataset.load(1)


def test_a_broken_file_is_named(small_dubai, tmp_path):
    shutil.copytree(small_dubai, tmp_path / "copy")
    path = tmp_path / "copy" / "Tile 1" / "images" / "image_part_003.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"image_part_003\.jpg cannot be read"):
        DubaiScenes(tmp_path / "copy").load(1)


@pytest.mark.parametrize("window", [64, 100])
def test_windows_show_the_ground_of_their_labels(window):
    scenes = [blocky_scene(seed=0), blocky_scene(seed=1)]
    windows = TrainWindows(scenes, 5, SCALING, settings(window=window, sizes=(12, 16)))
    for step in range(12):
        batch = windows[step]
        factor = batch["labels"].shape[-1] // batch["image"].shape[-1]
        assert batch["labels"].shape[-1] == factor * batch["image"].shape[-1]
        assert factor == 1 << windows.level
        small = batch["labels"][:, factor // 2 :: factor, factor // 2 :: factor]
        shown = (batch["image"][:, 0] * 255 / 40).round().byte()
        assert np.array_equal(shown.numpy(), small.numpy())
        side = batch["labels"].shape[-1]
        assert 0.74 * window <= side <= 1.34 * window


def test_base_level_windows_show_the_ground_of_their_labels():
    windows = TrainWindows(
        [blocky_scene()], 5, SCALING, settings(window=128, sizes=(16,), scale=(0.7, 1.2))
    )
    assert windows.level == 1
    batch = windows[0]
    shown = (batch["image"][:, 0] * 255 / 40).round().byte()
    assert np.array_equal(shown.numpy(), batch["labels"][:, ::2, ::2].numpy())


def test_a_batch_depends_on_seed_and_step_only():
    scenes = [blocky_scene()]
    first = TrainWindows(scenes, 5, SCALING, settings(colour=1.0))
    second = TrainWindows(scenes, 5, SCALING, settings(colour=1.0))
    expected = [first[step] for step in range(4)]
    for step in (3, 1):
        again = second[step]
        assert np.array_equal(again["image"], expected[step]["image"])
        assert np.array_equal(again["labels"], expected[step]["labels"])
        assert (again["size"], again["uniform"]) == (
            expected[step]["size"],
            expected[step]["uniform"],
        )
    assert not np.array_equal(
        expected[0]["labels"][0], expected[1]["labels"][0][: len(expected[0]["labels"][0])]
    )
    other = TrainWindows(scenes, 5, SCALING, settings(colour=1.0, seed=4))
    assert any(
        other[step]["labels"].shape != expected[step]["labels"].shape
        or not np.array_equal(other[step]["labels"], expected[step]["labels"])
        for step in range(4)
    )


def test_balance_brings_rare_classes():
    labels = np.zeros((320, 320), np.uint8)
    labels[:32, :32] = 1  # one hundredth of the scene
    scene = LabelledScene("rare", np.zeros((320, 320, 3), np.uint8), labels)
    shares = []
    for balance in (0.0, 1.0):
        windows = TrainWindows([scene], 5, SCALING, settings(balance=balance, batch_size=64))
        shares.append(float((windows[0]["labels"] == 1).float().amax((1, 2)).mean()))
    assert shares[0] < 0.3
    assert 0.35 < shares[1] < 0.75  # half of the windows are placed by the rare class


def test_windows_larger_than_a_scene_are_an_error():
    with pytest.raises(ConfigError, match="300 px do not fit in blocky 0"):
        TrainWindows([blocky_scene()], 5, SCALING, settings(window=300))


@given(st.integers(1, 500), st.integers(1, 200))
def test_validation_spans_cover_each_pixel_once(length, window):
    counted = np.zeros(length, int)
    for start, fresh in _spans(length, window):
        assert start >= 0
        assert start <= fresh
        counted[fresh : start + window] += 1
    assert (counted == 1).all()


def test_validation_windows_count_each_label_once(small_dubai):
    scene = DubaiScenes(small_dubai).load(7)
    windows = ValWindows([scene], 100, SCALING)
    counts = np.zeros(256, int)
    for index in range(len(windows)):
        window = windows[index]
        assert window["image"].shape[-2:] == window["labels"].shape
        counts += np.bincount(window["labels"].numpy().ravel(), minlength=256)
    expected = np.bincount(scene.labels.ravel(), minlength=256)
    assert np.array_equal(counts[:5], expected[:5])
    assert len(ValWindows([scene], 100, SCALING, 4)) == 4


def test_validation_image_is_the_scene_scaled(small_dubai):
    scene = DubaiScenes(small_dubai).load(7)
    image = ValWindows([scene], 64, SCALING)[0]["image"]
    assert np.allclose(image[0].numpy().transpose(1, 2, 0) * 255, scene.image[:64, :64], atol=1e-3)


def test_halve_is_the_rounded_mean():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    means = image[:8, :6].reshape(4, 2, 3, 2, 3).mean((1, 3))
    assert np.abs(halve(image) - means).max() <= 0.5


def test_colour_tables_change_tones_monotonically():
    rng = np.random.default_rng(0)
    assert np.allclose(colour_table(rng, 0.0, SCALING), plain_table(SCALING), atol=1e-6)
    tables = [colour_table(rng, 1.0, SCALING) for _ in range(20)]
    assert all((np.diff(table, axis=1) >= 0).all() for table in tables)
    assert all(table.min() >= 0 and table.max() <= 1 for table in tables)
    assert np.std([table[0, 128] for table in tables]) > 0.03


def test_step_sampler_goes_on_where_it_stopped():
    assert list(StepSampler(5, 3)) == [3, 4]
    assert len(StepSampler(5, 3)) == 5
