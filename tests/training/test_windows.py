"""Windows: alignment of image and labels, determinism, sharing out, whole images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodeform.errors import ConfigError
from geodeform.models.spec import InputScaling
from geodeform.training.cache import CachedScene, SceneCache, halve
from geodeform.training.datasets.dubai import DubaiScenes
from geodeform.training.windows import (
    Sizes,
    StepSampler,
    TrainWindows,
    ValWindows,
    WindowSettings,
    _spans,
    base_level,
    colour_table,
    look_up_by_index,
    plain_table,
    to_network,
    used_area,
)

SCALING = InputScaling(255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def settings(**changes):
    values = {
        "window": (64, 64),
        "scale": (0.75, 1.33),
        "sizes": ((16, 16),),
        "low_res": (16, 16),
        "batch_size": 4,
        "balance": 0.5,
        "flips": "all",
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
    return scene_of(
        f"blocky {seed}", labels, np.stack([labels * 40, labels * 20, 255 - labels * 40])
    )


def scene_of(name, labels, image):
    return CachedScene(name, image, labels, np.bincount(labels.ravel(), minlength=256))


def network_input(windows):
    return to_network(windows["image"], windows["table"])


@pytest.mark.parametrize("window", [64, 100])
def test_windows_show_the_ground_of_their_labels(window):
    scenes = [blocky_scene(seed=0), blocky_scene(seed=1)]
    windows = TrainWindows(
        scenes, 5, SCALING, settings(window=(window, window), sizes=((12, 12), (16, 16)))
    )
    for step in range(12):
        (batch,) = windows[step]["groups"]
        factor = batch["labels"].shape[-1] // batch["image"].shape[-1]
        assert batch["labels"].shape[-1] == factor * batch["image"].shape[-1]
        assert factor == 1 << windows.level
        small = batch["labels"][:, factor // 2 :: factor, factor // 2 :: factor]
        shown = (network_input(batch)[:, 0] * 255 / 40).round().byte()
        assert np.array_equal(shown.numpy(), small.numpy())
        side = batch["labels"].shape[-1]
        assert 0.74 * window <= side <= 1.34 * window


def test_base_level_windows_show_the_ground_of_their_labels():
    windows = TrainWindows(
        [blocky_scene()], 5, SCALING, settings(window=(128, 128), scale=(0.7, 1.2))
    )
    assert windows.level == 1
    (batch,) = windows[0]["groups"]
    shown = (network_input(batch)[:, 0] * 255 / 40).round().byte()
    assert np.array_equal(shown.numpy(), batch["labels"][:, ::2, ::2].numpy())


def test_steps_draw_other_windows_too_and_sample_those_evenly():
    own = settings(uniform_share=0.0)
    windows = TrainWindows(
        [blocky_scene()],
        5,
        SCALING,
        replace(own, extra=(((32, 32), (32, 32)), ((128, 128), (8, 8)))),
    )
    assert windows.level == 0  # single pixels are read
    seen = {}
    for step in range(30):
        item = windows[step]
        (batch,) = item["groups"]
        assert item["uniform"] == item["extra"] == (batch["size"] != (16, 16))
        side = batch["labels"].shape[-1]
        seen.setdefault(batch["size"], []).append(side)
    assert set(seen) == {(16, 16), (32, 32), (8, 8)}
    assert set(seen[32, 32]) == {32}  # a pixel a sample
    assert 0.7 * 128 < min(seen[8, 8]) <= max(seen[8, 8]) <= 160
    with pytest.raises(ConfigError, match="Windows of 300 px do not fit"):
        TrainWindows([blocky_scene()], 5, SCALING, replace(own, extra=(((300, 300), (8, 8)),)))


def same(first, second):
    """Whether two batches hold the same windows, sampled alike."""
    return first["uniform"] == second["uniform"] and all(
        a["size"] == b["size"]
        and a["low_res"] == b["low_res"]
        and all(torch.equal(a[key], b[key]) for key in ("image", "labels", "table"))
        for a, b in zip(first["groups"], second["groups"], strict=True)
    )


def test_a_batch_depends_on_seed_and_step_only():
    scenes = [blocky_scene()]
    first = TrainWindows(scenes, 5, SCALING, settings(colour=1.0))
    second = TrainWindows(scenes, 5, SCALING, settings(colour=1.0))
    expected = [first[step] for step in range(4)]
    for step in (3, 1):
        assert same(second[step], expected[step])
    assert not same(expected[0], expected[1])
    other = TrainWindows(scenes, 5, SCALING, settings(colour=1.0, seed=4))
    assert not same(other[0], expected[0])


@pytest.mark.parametrize("whole", [False, True])
def test_parts_and_processes_share_the_windows_of_a_step(whole):
    scenes = [blocky_scene(seed=seed) for seed in range(5)]
    given_settings = settings(
        batch_size=8, colour=1.0, **({"window": None, "balance": 0.0} if whole else {})
    )
    alone = TrainWindows(scenes, 5, SCALING, given_settings)
    parted = replace(given_settings, accumulate=2)
    workers = [TrainWindows(scenes, 5, SCALING, parted) for _ in range(2)]
    for rank, windows in enumerate(workers):
        windows.share(rank, 2)
    for step in range(3):
        (expected,) = alone[step]["groups"]
        items = [windows[2 * step + part] for part in range(2) for windows in workers]
        assert {item["uniform"] for item in items} == {alone[step]["uniform"]}
        shared = [item["groups"][0] for item in items]
        assert {windows["size"] for windows in shared} == {expected["size"]}
        for key in ("image", "labels", "table"):
            assert torch.equal(torch.cat([windows[key] for windows in shared]), expected[key])


def test_a_step_that_cannot_be_shared_is_an_error():
    windows = TrainWindows([blocky_scene()], 5, SCALING, settings(batch_size=4))
    with pytest.raises(ConfigError, match=r"4 windows cannot be shared by 3 .* a multiple of 3"):
        windows.share(0, 3)


def test_whole_images_come_once_an_epoch_in_changing_order():
    scenes = [blocky_scene(48, 64, seed=seed) for seed in range(6)]
    windows = TrainWindows(
        scenes, 5, SCALING, settings(window=None, balance=0.0, batch_size=2, flips="none")
    )
    assert windows.steps_per_epoch == 3
    orders = []
    for epoch in range(3):
        batches = [windows[3 * epoch + step]["groups"][0] for step in range(3)]
        seen = [labels for batch in batches for labels in batch["labels"]]
        orders.append(
            tuple(
                next(i for i, s in enumerate(scenes) if np.array_equal(s.labels, labels))
                for labels in seen
            )
        )
        assert sorted(orders[-1]) == list(range(6))
    assert len(set(orders)) > 1


def test_images_of_varying_shape_are_sampled_each_by_the_papers_rule():
    scenes = [blocky_scene(40, 400), blocky_scene(80, 240, seed=1)]
    windows = TrainWindows(
        scenes,
        5,
        SCALING,
        settings(
            window=None,
            balance=0.0,
            sizes=((16, 100),),
            low_res=(8, 50),
            sizing="sides",
            batch_size=2,
            halved=False,
        ),
    )
    groups = windows[0]["groups"]
    assert sorted(tuple(g["labels"].shape) for g in groups) == [(1, 40, 400), (1, 80, 240)]
    by_height = {g["labels"].shape[1]: g for g in groups}
    assert by_height[40]["size"] == (10, 100)
    assert by_height[40]["low_res"] == (5, 50)
    assert by_height[80]["size"] == (16, 48)


@pytest.mark.parametrize(("flips", "kinds"), [("none", 1), ("horizontal", 2), ("all", 4)])
def test_flips_keep_image_and_labels_together(flips, kinds):
    scene = blocky_scene(48, 64)
    windows = TrainWindows(
        [scene], 5, SCALING, settings(window=None, balance=0.0, batch_size=40, flips=flips)
    )
    (batch,) = windows[0]["groups"]
    assert torch.equal(batch["image"][:, 0], batch["labels"] * 40)
    seen = {labels.numpy().tobytes() for labels in batch["labels"]}
    turned = [scene.labels, scene.labels[:, ::-1], scene.labels[::-1], scene.labels[::-1, ::-1]]
    assert seen == {np.ascontiguousarray(labels).tobytes() for labels in turned[:kinds]}


def test_the_central_crop_is_all_that_is_used():
    scene = blocky_scene(160, 208)
    rows, cols = used_area(scene, (64, 96))
    assert (rows.stop - rows.start, cols.stop - cols.start) == (64, 96)
    assert abs(rows.start - (160 - 64) / 2) < 16
    assert abs(cols.start - (208 - 96) / 2) < 16
    expected = scene.labels[rows, cols]
    windows = TrainWindows(
        [scene], 5, SCALING, settings(window=None, balance=0.0, crop=(64, 96), flips="none")
    )
    assert np.array_equal(windows[0]["groups"][0]["labels"][0].numpy(), expected)
    assert windows.class_counts.sum() == expected.size
    small = TrainWindows([scene], 5, SCALING, settings(window=(32, 32), balance=0.5, crop=(64, 96)))
    places = small._draw(np.random.default_rng(0), 0, (32, 32), (16, 16))
    assert all(rows.start <= p.row and p.row + p.height <= rows.stop for p in places)
    assert all(cols.start <= p.column and p.column + p.width <= cols.stop for p in places)
    (window,) = ValWindows([scene], None, SCALING, Sizes((16, 16), (16, 16)), crop=(64, 96))
    assert np.array_equal(window["labels"][0].numpy(), expected)
    with pytest.raises(ConfigError, match="crop of 500 px does not fit in blocky 0"):
        used_area(scene, (500, 500))


def test_windows_may_be_wider_than_high():
    windows = TrainWindows(
        [blocky_scene()], 5, SCALING, settings(window=(48, 96), sizes=((12, 24),), low_res=(12, 24))
    )
    shapes = {tuple(windows[step]["groups"][0]["labels"].shape[1:]) for step in range(20)}
    assert len(shapes) > 1
    assert all(w == 2 * h for h, w in shapes)


def test_balance_brings_rare_classes():
    labels = np.zeros((320, 320), np.uint8)
    labels[:32, :32] = 1  # one hundredth of the scene
    scene = scene_of("rare", labels, np.zeros((3, 320, 320), np.uint8))
    shares = []
    for balance in (0.0, 1.0):
        windows = TrainWindows([scene], 5, SCALING, settings(balance=balance, batch_size=64))
        drawn = windows[0]["groups"][0]["labels"]
        shares.append(float((drawn == 1).float().amax((1, 2)).mean()))
    assert shares[0] < 0.3
    assert 0.35 < shares[1] < 0.75  # half of the windows are placed by the rare class


def test_windows_larger_than_a_scene_are_an_error():
    with pytest.raises(ConfigError, match="300 px do not fit in blocky 0"):
        TrainWindows([blocky_scene()], 5, SCALING, settings(window=(300, 300)))


def test_points_are_read_from_the_finest_level_only():
    fine = TrainWindows([blocky_scene()], 5, SCALING, settings(window=(128, 128), halved=False))
    assert fine.level == 0
    assert base_level(128, 16) == 1


@given(st.integers(1, 500), st.integers(1, 200))
def test_validation_spans_cover_each_pixel_once(length, window):
    counted = np.zeros(length, int)
    for start, fresh in _spans(length, window):
        assert start >= 0
        assert start <= fresh
        counted[fresh : start + window] += 1
    assert (counted == 1).all()


SIZES = Sizes((16, 16), (16, 16))


@pytest.fixture
def tile7(small_dubai):
    return SceneCache(DubaiScenes(small_dubai), None).scene("7")


def test_validation_windows_count_each_label_once(tile7):
    windows = ValWindows([tile7], (100, 100), SCALING, SIZES)
    expected = np.bincount(tile7.labels.ravel(), minlength=256)
    for shares in (1, 3):  # one process, or three that share the windows
        counts = np.zeros(256, int)
        for rank in range(shares):
            part = ValWindows([tile7], (100, 100), SCALING, SIZES, rank=rank, world=shares)
            for window in part:
                assert window["image"].shape[-2:] == window["labels"].shape[-2:]
                counts += np.bincount(window["labels"].numpy().ravel(), minlength=256)
        assert np.array_equal(counts[:5], expected[:5])
    assert len(windows) > 4
    assert len(ValWindows([tile7], (100, 100), SCALING, SIZES, most=4)) == 4


def test_validation_image_is_the_scene_scaled(tile7):
    window = ValWindows([tile7], (64, 64), SCALING, SIZES)[0]
    assert np.allclose(network_input(window)[0] * 255, tile7.image()[:, :64, :64], atol=1e-3)


def test_looking_up_on_any_device_is_the_same():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (2, 3, 5, 7), dtype=np.uint8))
    table = torch.from_numpy(rng.normal(size=(2, 3, 256)).astype(np.float32))
    expected = torch.empty(2, 3, 5, 7)
    for b, c, y, x in np.ndindex(2, 3, 5, 7):
        expected[b, c, y, x] = table[b, c, int(image[b, c, y, x])]
    assert torch.equal(to_network(image, table), expected)
    assert torch.equal(look_up_by_index(image, table), expected)


def test_halve_is_the_rounded_mean():
    image = np.random.default_rng(0).integers(0, 256, (3, 9, 7)).astype(np.uint8)
    means = image[:, :8, :6].reshape(3, 4, 2, 3, 2).mean((2, 4))
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
    assert list(StepSampler(5, 3, accumulate=2)) == [6, 7, 8, 9]
