"""Decode once: scenes and labels as memory-mapped arrays in a cache folder.

A 2448×2448 JPEG and its PNG mask take a quarter of a second to decode, a training reads them two
hundred times. The first read of an item writes plain ``.npy`` files; every later one, in any
process, maps them: workers and the processes of a DDP training share the pages, and the operating
system decides what stays in memory.

Layout: ``FOLDER/DATASET/KEY/`` with ``image_0.npy`` (C, H, W), ``image_1.npy`` … (each halved once
more, made when first asked for), ``labels.npy`` (H, W) and ``entry.json``. KEY is a hash of
everything that the result depends on: the files' paths, sizes and modification times, the classes
and the options. An entry appears whole or not at all, so processes may fill the cache at once; what
is being written has a name that begins with ``.partial-``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from geodeform.errors import DatasetError
from geodeform.training.datasets.base import LabelledDataset

CACHE_VARIABLE = "GEODEFORM_CACHE"
"""Environment variable that names another cache folder."""

_FORMAT = 1
_ENTRY = "entry.json"
_KEY = re.compile(r"[0-9a-f]{24}")
_PARTIAL = ".partial-"
_ABANDONED_S = 3600.0  # no item takes an hour to write: its process was killed
_DECODERS = 4  # threads; image libraries decode without the GIL


@dataclass(frozen=True)
class CacheUsage:
    """What a dataset occupies in the cache.

    Attributes:
        dataset: Its name.
        entries: Decoded items.
        size_bytes: Their files.
    """

    dataset: str
    entries: int
    size_bytes: int


def default_cache_folder() -> Path:
    """Return the user's cache folder for decoded scenes, or what ``GEODEFORM_CACHE`` names."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("geodeform") / "scenes"


def cache_usage(folder: Path | None = None) -> list[CacheUsage]:
    """Return what each dataset occupies, by name; empty where nothing is cached."""
    sizes: dict[str, list[int]] = {}
    for entry in _entries(folder or default_cache_folder()):
        sizes.setdefault(entry.parent.name, []).append(sum(map(_size, entry.glob("*"))))
    return [CacheUsage(name, len(s), sum(s)) for name, s in sorted(sizes.items())]


def clear_cache(dataset: str | None = None, folder: Path | None = None) -> list[CacheUsage]:
    """Delete the decoded items of a dataset, or of all, and return what was deleted.

    Only what this module wrote is deleted, whatever else lies in the folder: entries, and what a
    process that was killed left of one. A training that runs keeps what it has mapped.

    Raises:
        DatasetError: If something cannot be deleted.
    """
    folder = folder or default_cache_folder()
    freed = [use for use in cache_usage(folder) if dataset in (None, use.dataset)]
    for entry in [*_entries(folder), *_abandoned(folder)]:
        if dataset in (None, entry.parent.name):
            try:
                shutil.rmtree(entry)
            except FileNotFoundError:
                continue  # another process was faster
            except OSError as error:
                raise DatasetError(
                    f"Cannot delete {entry} ({error.strerror}); delete it by hand."
                ) from error
    return freed


def _entries(folder: Path) -> list[Path]:
    found = (path.parent for path in folder.glob(f"*/*/{_ENTRY}"))
    return sorted(path for path in found if _KEY.fullmatch(path.name))


def _abandoned(folder: Path) -> list[Path]:
    """What processes that were killed had begun to write."""
    abandoned = []
    for path in folder.glob(f"*/{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # it was not: now it has its own name
            if path.is_dir() and path.stat().st_mtime < time.time() - _ABANDONED_S:
                abandoned.append(path)
    return abandoned


def _size(file: Path) -> int:
    """Bytes of a file; 0 of one that went away or was renamed meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _partial(path: Path) -> Path:
    """A name of its own beside ``path``, to write to before renaming."""
    return path.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")


def _cannot_write(folder: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"Cannot write the cache of decoded scenes in {folder} ({error.strerror}); free some "
        "space, set data.cache to another folder, or to 'none'."
    )


class CachedScene:
    """A decoded item: its image at any of its halvings, and its labels, (read-only) arrays.

    Attributes:
        name: What it is called in messages.
        labels: (H, W) class ids, 255 unknown.
        counts: (256,) pixels of each id.
    """

    def __init__(
        self,
        name: str,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        counts: NDArray[np.int64],
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.labels = labels
        self.counts = counts
        self._levels = {0: image}
        self._folder = folder

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.labels.shape[0], self.labels.shape[1]

    def image(self, level: int = 0) -> NDArray[np.uint8]:
        """(C, H >> level, W >> level): the image, halved ``level`` times by 2×2 means."""
        if level not in self._levels:
            self._levels[level] = self._halved(level)
        return self._levels[level]

    def _halved(self, level: int) -> NDArray[np.uint8]:
        path = None if self._folder is None else self._folder / f"image_{level}.npy"
        if path is not None and path.is_file():
            return _mapped(path)
        halved = halve(self.image(level - 1))
        if path is None:
            return halved
        partial = _partial(path)
        try:
            with partial.open("wb") as file:
                np.save(file, halved)
            partial.replace(path)
        except OSError as error:
            raise _cannot_write(path.parent, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()  # renamed, where all went well
        return _mapped(path)


class SceneCache:
    """Gives a dataset's items decoded, from the cache or into it.

    Args:
        dataset: The dataset.
        folder: Cache folder; None decodes into memory and keeps nothing.
    """

    def __init__(self, dataset: LabelledDataset, folder: Path | None) -> None:
        self.dataset = dataset
        self.folder = folder

    @classmethod
    def by_setting(cls, dataset: LabelledDataset, setting: str) -> SceneCache:
        """Open by the setting ``data.cache``: ``auto``, ``none`` or a folder."""
        if setting == "none":
            return cls(dataset, None)
        return cls(dataset, default_cache_folder() if setting == "auto" else Path(setting))

    def scenes(
        self, items: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> list[CachedScene]:
        """Return items, decoding those that are not cached yet, several at a time.

        Args:
            items: Names of items.
            progress: Called with (items done, items in all).

        Raises:
            DatasetError: If an item cannot be decoded, or the cache cannot be written.
        """
        scenes: list[CachedScene] = []
        with ThreadPoolExecutor(min(_DECODERS, os.cpu_count() or 1)) as pool:
            for scene in pool.map(self.scene, items):
                scenes.append(scene)
                if progress is not None:
                    progress(len(scenes), len(items))
        return scenes

    def scene(self, item: str) -> CachedScene:
        """Return an item, decoded now where it is not cached."""
        if self.folder is None:
            image, labels, counts, name = self._decode(item)
            return CachedScene(name, image, labels, counts)
        entry = self.folder / self.dataset.info.name / self._key(item)
        if not (entry / _ENTRY).is_file():
            try:
                self._write(item, entry)
            except OSError as error:
                raise _cannot_write(self.folder, error) from error
        try:
            facts = json.loads((entry / _ENTRY).read_text(encoding="utf-8"))
            image, labels = _mapped(entry / "image_0.npy"), _mapped(entry / "labels.npy")
        except (OSError, ValueError) as error:  # a full disk or a crash of the machine
            raise DatasetError(
                f"The cached item {entry} is damaged ({error}); delete this folder, then it is "
                "decoded anew."
            ) from error
        return CachedScene(facts["name"], image, labels, np.array(facts["counts"], np.int64), entry)

    def _decode(
        self, item: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64], str]:
        scene = self.dataset.load(item)
        image = np.ascontiguousarray(np.moveaxis(scene.image, -1, 0))
        counts = np.bincount(scene.labels.ravel(), minlength=256).astype(np.int64)
        return image, scene.labels, counts, scene.name

    def _write(self, item: str, entry: Path) -> None:
        image, labels, counts, name = self._decode(item)
        partial = _partial(entry)
        partial.mkdir(parents=True)
        try:
            np.save(partial / "image_0.npy", image)
            np.save(partial / "labels.npy", labels)
            facts = {"name": name, "item": item, "counts": counts.tolist(), "format": _FORMAT}
            (partial / _ENTRY).write_text(json.dumps(facts), encoding="utf-8")
            try:
                partial.rename(entry)
            except OSError:
                if not (entry / _ENTRY).is_file():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _key(self, item: str) -> str:
        """Hash of everything that the decoded item depends on."""
        files = [
            (str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in self._files(item)
        ]
        options: dict[str, Any] = asdict(self.dataset.options)
        said = {
            "format": _FORMAT,
            "item": item,
            "files": files,
            "classes": self.dataset.classes.to_dict(),
            "bands": self.dataset.bands,
            "options": {key: str(value) for key, value in options.items()},
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]

    def _files(self, item: str) -> Iterable[Path]:
        for path in self.dataset.files(item):
            if not path.is_file():
                raise DatasetError(f"{path} is gone since the dataset was opened.")
            yield path


def halve(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """2×2 means, rounded, of (C, H, W); an odd last row or column is dropped."""
    height, width = planes.shape[1] // 2 * 2, planes.shape[2] // 2 * 2
    total = planes[:, 0:height:2, 0:width:2].astype(np.uint16)
    total += planes[:, 1:height:2, 0:width:2]
    total += planes[:, 0:height:2, 1:width:2]
    total += planes[:, 1:height:2, 1:width:2]
    return ((total + 2) >> 2).astype(np.uint8)


def _mapped(path: Path) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="r")
    return array
