"""The cache of decoded scenes: the same pixels, decoded once, never half an entry."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geodeform.classes import ClassScheme
from geodeform.errors import DatasetError
from geodeform.training import cache as cache_module
from geodeform.training.cache import (
    CacheUsage,
    SceneCache,
    cache_usage,
    clear_cache,
    default_cache_folder,
    halve,
)
from geodeform.training.datasets.base import DatasetOptions, LabelledScene
from geodeform.training.datasets.dubai import DubaiScenes


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def own_dubai(small_dubai, tmp_path):
    """A copy whose files may be changed."""
    return shutil.copytree(small_dubai, tmp_path / "dubai")


def no_decoding(self, item):
    raise AssertionError(f"{item} is decoded")


def entries(folder):
    return sorted(path.parent for path in folder.glob("*/*/entry.json"))


def test_what_is_cached_is_what_the_dataset_decodes(small_dubai, folder):
    dataset = DubaiScenes(small_dubai)
    cache = SceneCache(dataset, folder)
    told = []
    scenes = cache.scenes(dataset.items, progress=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for item, scene in zip(dataset.items, scenes, strict=True):
        decoded = dataset.load(item)
        assert scene.name == decoded.name
        assert scene.shape == decoded.labels.shape
        assert np.array_equal(scene.image(), decoded.image.transpose(2, 0, 1))
        assert np.array_equal(scene.labels, decoded.labels)
        assert np.array_equal(scene.counts, np.bincount(decoded.labels.ravel(), minlength=256))
        assert scene.image().dtype == scene.labels.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):  # no training changes the cache
            scene.image()[0, 0, 0] = 1
    assert not np.array_equal(scenes[0].labels, scenes[1].labels)  # else nothing could be mixed up


def test_a_cached_item_is_mapped_and_not_decoded_again(small_dubai, folder, monkeypatch):
    first = SceneCache(DubaiScenes(small_dubai), folder).scenes(["1", "7"])
    halved = first[0].image(2)
    monkeypatch.setattr(DubaiScenes, "load", no_decoding)
    monkeypatch.setattr(cache_module, "halve", no_decoding)
    second = SceneCache(DubaiScenes(small_dubai), folder).scenes(["1", "7"])
    for before, after in zip(first, second, strict=True):
        assert isinstance(after.image(), np.memmap)
        assert isinstance(after.labels, np.memmap)
        assert np.array_equal(before.image(), after.image())
        assert np.array_equal(before.labels, after.labels)
        assert np.array_equal(before.counts, after.counts)
    assert np.array_equal(second[0].image(2), halved)
    with pytest.raises(AssertionError, match="2 is decoded"):
        SceneCache(DubaiScenes(small_dubai), folder).scene("2")


@pytest.mark.parametrize("kept", [True, False])
def test_levels_are_halved_again_and_again(small_dubai, folder, kept):
    scene = SceneCache(DubaiScenes(small_dubai), folder if kept else None).scene("1")
    expected = scene.image()
    for level in (0, 1, 2, 3):
        assert np.array_equal(scene.image(level), expected)
        assert isinstance(scene.image(level), np.memmap) is kept
        assert scene.image(level) is scene.image(level)
        expected = halve(expected)
    assert scene.image(3).shape == (3, scene.shape[0] >> 3, scene.shape[1] >> 3)
    left = [path.name for path in folder.glob("*/*/*")]
    assert sorted(left) == (
        ["entry.json", *(f"image_{level}.npy" for level in range(4)), "labels.npy"] if kept else []
    )


def test_none_decodes_into_memory_and_keeps_nothing(small_dubai, monkeypatch, tmp_path):
    monkeypatch.setenv("GEODEFORM_CACHE", str(tmp_path / "cache"))
    cache = SceneCache.by_setting(DubaiScenes(small_dubai), "none")
    assert cache.folder is None
    scene = cache.scene("1")
    decoded = DubaiScenes(small_dubai).load("1")
    assert np.array_equal(scene.image(), decoded.image.transpose(2, 0, 1))
    assert np.array_equal(scene.labels, decoded.labels)
    assert scene.image().flags.c_contiguous
    scene.image(1)
    assert list(tmp_path.iterdir()) == []


def test_the_setting_and_the_environment_name_the_folder(small_dubai, monkeypatch, tmp_path):
    dataset = DubaiScenes(small_dubai)
    monkeypatch.setenv("GEODEFORM_CACHE", str(tmp_path / "named"))
    assert default_cache_folder() == tmp_path / "named"
    SceneCache.by_setting(dataset, "auto").scene("1")
    assert len(entries(tmp_path / "named")) == 1
    SceneCache.by_setting(dataset, str(tmp_path / "given")).scene("1")
    assert len(entries(tmp_path / "given")) == 1
    assert cache_usage() == cache_usage(tmp_path / "named")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for value in ("", None):  # an empty variable is none
        if value is None:
            monkeypatch.delenv("GEODEFORM_CACHE")
        else:
            monkeypatch.setenv("GEODEFORM_CACHE", value)
        assert default_cache_folder().parts[-2:] == ("geodeform", "scenes")
    assert cache_usage() == []


def changed_time(dataset):
    path = dataset.files("1")[3]
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    return DubaiScenes(dataset.root)


def changed_mask_time(dataset):
    path = dataset.files("1")[-1]
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 1000))
    return DubaiScenes(dataset.root)


def changed_size(dataset):
    path = dataset.files("1")[0]
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")  # decoders ignore what follows the image
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return DubaiScenes(dataset.root)


def changed_classes(dataset):
    scheme = ClassScheme(dataset.classes.names[::-1], dataset.classes.colours)
    kind = type("Other", (DubaiScenes,), {"classes": scheme})
    return kind(dataset.root)


def changed_bands(dataset):
    return type("Other", (DubaiScenes,), {"bands": ("b", "g", "r")})(dataset.root)


def changed_options(dataset):
    return DubaiScenes(dataset.root, replace(DatasetOptions(), nodata=0.0))


def other_place(dataset):
    return DubaiScenes(dataset.root.rename(dataset.root.with_name("moved")))


@pytest.mark.parametrize(
    "change",
    [
        changed_time,
        changed_mask_time,
        changed_size,
        changed_classes,
        changed_bands,
        changed_options,
        other_place,
    ],
)
def test_whatever_the_result_depends_on_makes_a_new_entry(own_dubai, folder, change, monkeypatch):
    dataset = DubaiScenes(own_dubai)
    cache = SceneCache(dataset, folder)
    cache.scene("1")
    cache.scene("2")
    (before, other) = entries(folder)
    changed = change(dataset)
    SceneCache(changed, folder).scene("1")
    assert len(entries(folder)) == 3
    assert {before, other} < set(entries(folder))
    monkeypatch.setattr(type(changed), "load", no_decoding)
    SceneCache(changed, folder).scene("1")  # the new entry serves from now on


def test_a_file_that_goes_away_is_named(own_dubai, folder):
    dataset = DubaiScenes(own_dubai)
    SceneCache(dataset, folder).scene("1")
    gone = dataset.files("1")[2]
    gone.unlink()
    with pytest.raises(DatasetError, match=r"image_part_003\.jpg is gone since"):
        SceneCache(dataset, folder).scene("1")


def test_threads_that_fill_at_once_all_get_the_scene(small_dubai, folder, monkeypatch):
    decode, together = DubaiScenes.load, threading.Barrier(4)

    def slow(self, item):
        scene = decode(self, item)
        together.wait(30)  # all have decoded, none has written
        return scene

    monkeypatch.setattr(DubaiScenes, "load", slow)
    found, failed = [], []

    def fill():
        try:
            found.append(SceneCache(DubaiScenes(small_dubai), folder).scene("1"))
        except (DatasetError, OSError) as error:
            failed.append(error)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    expected = decode(DubaiScenes(small_dubai), "1")
    assert len(found) == 4
    for scene in found:
        assert np.array_equal(scene.image(), expected.image.transpose(2, 0, 1))
        assert np.array_equal(scene.labels, expected.labels)
    assert [path.name for path in (folder / "dubai").iterdir()] == [entries(folder)[0].name]


FILL = """
import sys
from pathlib import Path
from geodeform.training.cache import SceneCache
from geodeform.training.datasets.dubai import DubaiScenes
root, folder = map(Path, sys.argv[1:3])
print("ready", flush=True)
sys.stdin.readline()
scenes = SceneCache(DubaiScenes(root), folder).scenes(["1", "2", "7"])
print([int(scene.image(level).sum()) for scene in scenes for level in (0, 1, 2)])
"""


def filler(root, folder, code=FILL):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_fill_at_once_all_get_the_scenes(small_dubai, folder):
    processes = [filler(small_dubai, folder) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    sums = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    scenes = SceneCache(DubaiScenes(small_dubai), None).scenes(["1", "2", "7"])
    expected = [int(s.image(level).sum()) for s in scenes for level in (0, 1, 2)]
    assert [json.loads(line) for line in sums] == [expected, expected]
    assert len(entries(folder)) == 3
    assert sorted(path.name for path in folder.glob("*/.*")) == []
    assert sorted(path.name for path in folder.glob("*/*/.*")) == []


@pytest.mark.parametrize("file", ["image_0.npy", "labels.npy", "entry.json"])
def test_a_write_that_fails_leaves_no_entry(small_dubai, folder, monkeypatch, file):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save, write_text = np.save, Path.write_text

    def save_or_fail(path, array):
        if Path(path).name == file:
            Path(path).write_bytes(b"\x93NUMPY half of it")
            full()
        save(path, array)

    def write_or_fail(self, *args, **kwargs):
        if self.name == file:
            full()
        return write_text(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save_or_fail)
        patch.setattr(Path, "write_text", write_or_fail)
        with pytest.raises(DatasetError, match=r"No space left on device\); free some space, set"):
            SceneCache(DubaiScenes(small_dubai), folder).scene("1")
    assert list((folder / "dubai").iterdir()) == []
    assert cache_usage(folder) == []
    scene = SceneCache(DubaiScenes(small_dubai), folder).scene("1")
    assert np.array_equal(scene.labels, DubaiScenes(small_dubai).load("1").labels)


def test_a_killed_process_leaves_no_entry_and_what_it_began_can_be_cleared(small_dubai, folder):
    stopping = FILL.replace(
        'print("ready"',
        "import numpy, os, time\n"
        "save = numpy.save\n"
        "def begun(path, array):\n"
        "    save(path, array)\n"
        "    os.write(1, b'writing\\n')\n"
        "    time.sleep(60)\n"
        "numpy.save = begun\n"
        'print("ready"',
    )
    process = filler(small_dubai, folder, stopping)
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert entries(folder) == []
    begun = list((folder / "dubai").iterdir())
    assert begun
    assert cache_usage(folder) == []
    cache = SceneCache(DubaiScenes(small_dubai), folder)
    decoded = DubaiScenes(small_dubai).load("1")
    assert np.array_equal(cache.scene("1").labels, decoded.labels)
    # a process may be writing it now, so it is left alone at first
    assert clear_cache(folder=folder) != []
    assert set(folder.glob("dubai/*")) == set(begun)
    for path in begun:
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    assert clear_cache("other", folder) == []
    assert set(folder.glob("dubai/*")) == set(begun)
    assert clear_cache("dubai", folder) == []
    assert list(folder.glob("dubai/*")) == []


def test_an_item_that_cannot_be_decoded_leaves_no_entry(own_dubai, folder):
    dataset = DubaiScenes(own_dubai)
    dataset.files("2")[0].write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"image_part_001\.jpg cannot be read as an image"):
        SceneCache(dataset, folder).scenes(["1", "2"])
    assert len(entries(folder)) <= 1
    assert list(folder.glob("*/.*")) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(small_dubai, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    cache = SceneCache(DubaiScenes(small_dubai), tmp_path / "file" / "cache")
    with pytest.raises(
        DatasetError, match=r"Cannot write the cache of decoded scenes in .*file.cache \(Not a dir"
    ):
        cache.scene("1")


def test_levels_that_cannot_be_written_are_one_sentence(small_dubai, folder, monkeypatch):
    scene = SceneCache(DubaiScenes(small_dubai), folder).scene("1")

    def full(file, array):
        file.write(b"\x93NUMPY half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(DatasetError, match=r"Cannot write the cache .*\(No space left"):
            scene.image(1)
    assert sorted(path.name for path in entries(folder)[0].iterdir()) == [
        "entry.json",
        "image_0.npy",
        "labels.npy",
    ]
    assert np.array_equal(scene.image(1), halve(scene.image()))


def test_a_damaged_entry_is_named(small_dubai, folder):
    SceneCache(DubaiScenes(small_dubai), folder).scene("1")
    (entry,) = entries(folder)
    (entry / "labels.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match=f"{entry.name} is damaged .*delete this folder"):
        SceneCache(DubaiScenes(small_dubai), folder).scene("1")
    shutil.rmtree(entry)
    SceneCache(DubaiScenes(small_dubai), folder).scene("1")


def test_others_may_read_a_cache_as_they_may_any_folder(small_dubai, folder, tmp_path):
    SceneCache(DubaiScenes(small_dubai), folder).scene("1")
    (tmp_path / "plain").mkdir()
    plain = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE(entries(folder)[0].stat().st_mode) == plain


class Other(DubaiScenes):
    info = replace(DubaiScenes.info, name="other")


def on_disk(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_usage_is_told_by_dataset(small_dubai, folder):
    assert cache_usage(folder) == []
    SceneCache(Other(small_dubai), folder).scene("7")
    SceneCache(DubaiScenes(small_dubai), folder).scenes(["1", "2"])[0].image(2)
    expected = [
        CacheUsage(name, count, on_disk(folder / name))
        for name, count in (("dubai", 2), ("other", 1))
    ]
    assert cache_usage(folder) == expected
    labels = sum(
        scene.labels.size for scene in SceneCache(DubaiScenes(small_dubai), None).scenes(["1", "2"])
    )
    assert expected[0].size_bytes > 4 * labels  # three bands and the labels


def test_clearing_deletes_entries_and_nothing_else(small_dubai, folder):
    SceneCache(Other(small_dubai), folder).scene("7")
    SceneCache(DubaiScenes(small_dubai), folder).scenes(["1", "2"])
    mine = [
        folder / "notes.txt",
        folder / "dubai" / "notes.txt",
        folder / "dubai" / "project" / "entry.json",  # named alike, of another program
        folder / "dubai" / "project" / "results.csv",
        folder / "photos" / ("0" * 24) / "image_0.npy",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    usage = cache_usage(folder)
    assert [use.dataset for use in usage] == ["dubai", "other"]
    assert clear_cache("dubai", folder) == usage[:1]
    assert cache_usage(folder) == usage[1:]
    assert SceneCache(Other(small_dubai), folder).scene("7").name == "tile 7"
    assert clear_cache("dubai", folder) == []
    assert clear_cache(folder=folder) == usage[1:]
    assert cache_usage(folder) == []
    assert entries(folder) == [folder / "dubai" / "project"]
    assert all(path.read_text(encoding="utf-8") == "mine" for path in mine)


def test_clearing_is_by_the_default_folder_too(small_dubai, monkeypatch, tmp_path):
    monkeypatch.setenv("GEODEFORM_CACHE", str(tmp_path / "cache"))
    assert clear_cache() == []
    SceneCache.by_setting(DubaiScenes(small_dubai), "auto").scene("1")
    assert [use.entries for use in clear_cache()] == [1]
    assert cache_usage() == []


def test_what_cannot_be_deleted_is_named(small_dubai, folder, monkeypatch):
    SceneCache(DubaiScenes(small_dubai), folder).scene("1")

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(DatasetError, match=r"Cannot delete .*\(Permission denied\); delete it by"):
        clear_cache(folder=folder)


def test_a_scene_in_use_outlives_the_clearing(small_dubai, folder):
    scene = SceneCache(DubaiScenes(small_dubai), folder).scene("1")
    expected = np.array(scene.image())
    clear_cache(folder=folder)
    assert np.array_equal(scene.image(), expected)


def test_a_training_looks_only_at_what_it_needs(small_dubai, folder, monkeypatch):
    decoded = []

    def counted(self, item, load=DubaiScenes.load) -> LabelledScene:
        decoded.append(item)
        return load(self, item)

    monkeypatch.setattr(DubaiScenes, "load", counted)
    cache = SceneCache(DubaiScenes(small_dubai), folder)
    cache.scenes(["2", "7"])
    cache.scenes(["7", "2", "1"])
    assert sorted(decoded) == ["1", "2", "7"]
